//! Keyfold and Python's `cryptography` open what the other sealed, for every size.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it did not run")]

mod common;

use std::{
    io::{BufRead, BufReader, BufWriter, Write},
    process::{Command, Stdio},
};

use common::{hex, master, text};
use keyfold_core::{
    clock::UnixTime,
    dek::Dek,
    envelope::{
        Reading,
        fernet::{self, FernetKey, Token},
        redis_sre_v1::{self, Envelope},
    },
    keyring::fernet_to_text,
    mac,
    rng::SystemRandom,
    secret::Key32,
};
use serde_json::{Value, json};

const KEY: [u8; 32] = [0x42; 32];

/// An interpreter with `cryptography`, or why there is none.
fn python() -> Option<String> {
    let named = std::env::var("KEYFOLD_PYTHON").ok();
    let found = named.into_iter().chain(["python3".into()]).find(|candidate| {
        let probe = Command::new(candidate).args(["-c", "import cryptography.fernet"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        let required = std::env::var("KEYFOLD_TEST_REQUIRE").is_ok_and(|required| required == "all");
        assert!(!required, "no Python with the package cryptography, and KEYFOLD_TEST_REQUIRE=all; run ./test");
        eprintln!("not run: no Python with the package cryptography; ./test installs one");
    }
    found
}

/// Asks the peer everything in order and gives its answers to `check`, with the question's number.
fn converse(questions: impl Iterator<Item = Value> + Send, mut check: impl FnMut(usize, &Value)) {
    let Some(python) = python() else { return };
    let script = common::vectors_folder().join("interop.py");
    let mut peer =
        Command::new(python).arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, from) = (BufWriter::new(peer.stdin.take().unwrap()), BufReader::new(peer.stdout.take().unwrap()));
    std::thread::scope(|scope| {
        let asker = scope.spawn(move || {
            let mut asked = 0;
            for question in questions {
                writeln!(to, "{question}").unwrap();
                asked += 1;
            }
            asked
        });
        let mut answered = 0;
        for line in from.lines() {
            check(answered, &serde_json::from_str(&line.unwrap()).unwrap());
            answered += 1;
        }
        assert_eq!(asker.join().unwrap(), answered, "the peer stopped early");
    });
    assert!(peer.wait().unwrap().success());
}

/// The sizes of the full test are all from 0 to 10,000; a tenth of them otherwise, and always the ends.
fn sizes() -> Vec<usize> {
    let count = common::scaled(10_001);
    let mut sizes: Vec<usize> = (0..count).map(|i| i * 10_000 / count.max(2).saturating_sub(1)).collect();
    sizes.extend([0, 1, 15, 16, 17, 100, 9_999, 10_000]);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Exactly `size` bytes of text with characters of one to four bytes.
fn secret(size: usize) -> String {
    let mut out = String::with_capacity(size);
    let mut characters = "a/é鍵🔑\u{301}\"\\\n0".chars().cycle().skip(size % 10);
    while out.len() < size {
        let next = characters.next().unwrap();
        out.push(if out.len() + next.len_utf8() <= size { next } else { '.' });
    }
    out
}

fn drawn<const N: usize>(label: &str, size: usize) -> [u8; N] {
    mac::sha256(&[label.as_bytes(), &size.to_be_bytes()])[..N].try_into().unwrap()
}

#[test]
fn the_v1_writer_gives_json_dumps_bytes_for_every_size() {
    let (sizes, key) = (sizes(), master(KEY));
    let questions = sizes.iter().map(|&size| {
        json!({"op": "v1_seal", "key": hex(&KEY), "plaintext": hex(secret(size).as_bytes()),
               "dek": hex(&drawn::<32>("dek", size)), "nonce": hex(&drawn::<12>("nonce", size)),
               "dek_nonce": hex(&drawn::<12>("dek nonce", size))})
    });
    converse(questions, |at, answer| {
        let size = sizes[at];
        let (dek, nonce, dek_nonce) = (Dek::new(drawn("dek", size)), drawn("nonce", size), drawn("dek nonce", size));
        let ours = redis_sre_v1::seal_with(&key, secret(size).as_bytes(), &dek, nonce, dek_nonce).unwrap();
        assert_eq!(ours, text(answer, "envelope"), "{size} bytes");
    });
}

#[test]
fn v1_sealed_by_python_opens_here_for_every_size() {
    let (sizes, key) = (sizes(), master(KEY));
    let questions =
        sizes.iter().map(|&size| json!({"op": "v1_seal", "key": hex(&KEY), "plaintext": hex(secret(size).as_bytes())}));
    converse(questions, |at, answer| {
        let envelope = Envelope::parse(text(answer, "envelope"), Reading::Strict).unwrap();
        assert_eq!(envelope.open(&key).unwrap().expose(), secret(sizes[at]).as_bytes(), "{} bytes", sizes[at]);
    });
}

#[test]
fn v1_sealed_here_opens_in_python_for_every_size() {
    let (sizes, key) = (sizes(), master(KEY));
    let questions = sizes.iter().map(|&size| {
        let envelope = redis_sre_v1::seal(&key, &SystemRandom, secret(size).as_bytes()).unwrap();
        json!({"op": "v1_open", "key": hex(&KEY), "envelope": envelope})
    });
    converse(questions, |at, answer| {
        assert_eq!(text(answer, "plaintext"), hex(secret(sizes[at]).as_bytes()), "{} bytes", sizes[at]);
    });
}

fn fernet_key() -> (FernetKey, String) {
    (FernetKey::new(Key32::new(KEY)).unwrap(), fernet_to_text(&Key32::new(KEY)))
}

#[test]
fn fernet_tokens_of_every_size_are_the_same_on_both_sides() {
    let (sizes, (key, key_text)) = (sizes(), fernet_key());
    let questions = sizes.iter().map(|&size| {
        json!({"op": "fernet_encrypt", "keys": [key_text], "plaintext": hex(secret(size).as_bytes()),
               "timestamp": size * 1000, "iv": hex(&drawn::<16>("iv", size))})
    });
    converse(questions, |at, answer| {
        let (size, now) = (sizes[at], UnixTime(sizes[at] as u64 * 1000));
        let ours = fernet::seal_with(&key, secret(size).as_bytes(), now, drawn("iv", size)).unwrap();
        assert_eq!(ours, text(answer, "token"), "{size} bytes");
        let token = Token::parse(text(answer, "token"), Reading::Strict).unwrap();
        assert_eq!(token.open(&key, None).unwrap().unwrap().expose(), secret(size).as_bytes(), "{size} bytes");
    });
}

#[test]
fn fernet_tokens_made_here_open_in_python_with_their_time() {
    let (sizes, (key, key_text)) = (sizes(), fernet_key());
    let questions = sizes.iter().map(|&size| {
        let token = fernet::seal(&key, &SystemRandom, secret(size).as_bytes(), common::NOW).unwrap();
        json!({"op": "fernet_decrypt", "keys": [fernet_to_text(&Key32::new([1; 32])), key_text], "token": token})
    });
    converse(questions, |at, answer| {
        assert_eq!(text(answer, "plaintext"), hex(secret(sizes[at]).as_bytes()), "{} bytes", sizes[at]);
        assert_eq!(answer["timestamp"].as_u64(), Some(common::NOW.0));
    });
}

#[test]
fn a_wrong_key_is_refused_by_python_too() {
    let stranger = hex(&[9; 32]);
    let envelope = redis_sre_v1::seal(&master(KEY), &SystemRandom, b"hunter2").unwrap();
    let token = fernet::seal(&fernet_key().0, &SystemRandom, b"hunter2", common::NOW).unwrap();
    let questions = [
        json!({"op": "v1_open", "key": stranger, "envelope": envelope}),
        json!({"op": "fernet_decrypt", "keys": [fernet_to_text(&Key32::new([9; 32]))], "token": token}),
    ];
    converse(questions.into_iter(), |at, answer| {
        assert_eq!(text(answer, "error"), ["InvalidTag", "InvalidToken"][at]);
    });
}
