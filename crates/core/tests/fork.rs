//! P15, with a real fork. A program of its own, without the test harness: a process may only be forked while it has a single
//! thread, and the harness has several. It answers the runner's `--list`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::exit, reason = "a test program may panic, print and end")]

use std::{collections::HashSet, fs, path::Path};

use fork::{Fork, fork, waitpid};
use keyfold_core::{
    context::Context,
    envelope::{fernet, kf1, redis_sre_v1},
    keyring::MasterKey,
    rng::{SystemRandom, array},
    secret::Key32,
};

const NAME: &str = "p15_two_forks_of_one_parent_never_draw_the_same_bytes_and_never_seal_alike";
const CHILDREN: usize = 8;
const DRAWS: usize = 400;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("--list") {
        if !has("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if has("--ignored") || (!filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str()))) {
        return;
    }
    println!("running 1 test");
    forks();
    println!("test {NAME} ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

/// Everything random that one process shows: raw draws, and the sealed values of one secret in each format.
fn draw_and_seal() -> Vec<String> {
    let key = MasterKey::new(Key32::new([7; 32])).unwrap();
    let fernet_key = fernet::FernetKey::new(Key32::new([7; 32])).unwrap();
    let here = Context::empty().digest();
    let mut shown = Vec::new();
    for _ in 0..DRAWS {
        shown.push(keyfold_core::id::to_hex(&array::<16>(&SystemRandom).unwrap()));
    }
    for _ in 0..20 {
        shown.push(kf1::seal(&key, &SystemRandom, &here, b"hunter2").unwrap().to_text());
        shown.push(redis_sre_v1::seal(&key, &SystemRandom, b"hunter2").unwrap());
        let now = keyfold_core::clock::UnixTime(1_790_000_000);
        shown.push(fernet::seal(&fernet_key, &SystemRandom, b"hunter2", now).unwrap());
    }
    shown
}

fn forks() {
    // The parent's buffer is full of bytes that no child may hand out.
    array::<1>(&SystemRandom).unwrap();
    let folder = std::env::temp_dir().join(format!("keyfold-fork-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let children: Vec<_> = (0..CHILDREN).map(|child| start(&folder.join(child.to_string()))).collect();
    let mut all = draw_and_seal();
    for child in children {
        assert_eq!(waitpid(child).unwrap(), 0, "a child failed");
    }
    for child in 0..CHILDREN {
        let shown = fs::read_to_string(folder.join(child.to_string())).unwrap();
        all.extend(shown.lines().map(str::to_owned));
    }
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(all.len(), (CHILDREN + 1) * (DRAWS + 60));
    let distinct: HashSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "two processes drew the same bytes");
}

/// Forks; the child writes what it drew, lets a grandchild check itself against it, and ends.
fn start(file: &Path) -> i32 {
    match fork().unwrap() {
        Fork::Parent(child) => child,
        Fork::Child => {
            let shown = draw_and_seal();
            fs::write(file, shown.join("\n")).unwrap();
            let ended = match fork().unwrap() {
                Fork::Parent(grandchild) => waitpid(grandchild).unwrap(),
                Fork::Child => i32::from(draw_and_seal().iter().any(|drawn| shown.contains(drawn))),
            };
            std::process::exit(ended);
        }
    }
}
