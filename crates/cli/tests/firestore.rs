//! Another program's documents in Firestore, with secrets in maps and arrays: configured as the guide shows it, sealed, rotated,
//! and rotated by processes that are killed beside writers of whole documents.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, outside the functions that clippy knows as such"
)]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    os::unix::process::ExitStatusExt as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{
    batches::batches,
    deployment::{Dice, scaled},
    folder::Data,
    place::{Place, sum},
};
use serde_json::{Value, json};
use servers::firestore::{Firestore, Owner};

const WRITERS: usize = 4;

/// The table that the guide shows, with the emulator in the place of the example's store.
fn configuration(emulator: &Firestore) -> String {
    let guide = include_str!("../../../docs/configure.md");
    let block = guide.split("```toml\n").find(|block| block.contains("firestore-document")).unwrap();
    let shown = block.split("```").next().unwrap();
    assert!(shown.lines().count() <= 10);
    let configured = shown.replace("firestore://my-project/(default)", &emulator.address());
    assert_ne!(configured, shown);
    configured
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}

fn path(n: usize) -> String {
    format!("users/user {}/agents/agent-{n}", n % 3)
}

fn document(n: usize) -> Value {
    let key = |name: &str, secret: String| {
        json!({"mapValue": {"fields": {
            "name": {"stringValue": name}, "key": {"stringValue": secret}, "used": {"integerValue": "7"},
        }}})
    };
    json!({
        "smtp": {"mapValue": {"fields": {
            "password": {"stringValue": format!("smtp-secret-{n}")}, "port": {"integerValue": "587"},
        }}},
        "keys": {"arrayValue": {"values": [key("a", format!("key-secret-{n}")), key("b", "shared".into())]}},
        "created": {"timestampValue": "2026-01-02T03:04:05.678901Z"},
        "share": {"doubleValue": 0.1},
        "version": {"integerValue": "0"},
    })
}

const SECRETS: [&str; 3] = [
    "/smtp/mapValue/fields/password/stringValue",
    "/keys/arrayValue/values/0/mapValue/fields/key/stringValue",
    "/keys/arrayValue/values/1/mapValue/fields/key/stringValue",
];

fn plaintexts(n: usize) -> [String; 3] {
    [format!("smtp-secret-{n}"), format!("key-secret-{n}"), "shared".into()]
}

fn read(owner: &Owner, n: usize) -> Value {
    wait(owner.get(&path(n))).unwrap().0
}

/// A document with its secrets, and the writer's count, taken out.
fn rest(mut document: Value) -> Value {
    for pointer in SECRETS.into_iter().chain(["/version/integerValue"]) {
        *document.pointer_mut(pointer).unwrap() = Value::Null;
    }
    document
}

fn secrets(document: &Value) -> [String; 3] {
    SECRETS.map(|pointer| document.pointer(pointer).unwrap().as_str().unwrap().to_owned())
}

fn start(count: usize) -> Option<(Firestore, Owner, Data)> {
    let emulator = Firestore::start()?;
    let owner = emulator.owner();
    wait(async {
        for n in 0..count {
            owner.put(&path(n), &document(n)).await;
        }
    });
    let data = Data::new(&configuration(&emulator));
    Some((emulator, owner, data))
}

/// Moves everything to a format that binds no context, and opens it by itself.
fn opens(owner: &Owner, data: &Data, count: usize) {
    data.call("migrate --to v1 --quiet").run().text();
    for n in 0..count {
        let now = read(owner, n);
        assert_eq!(rest(now.clone()), rest(document(n)));
        for (sealed, plain) in secrets(&now).iter().zip(plaintexts(n)) {
            assert_eq!(data.call("open").stdin(sealed).run().text(), plain);
        }
    }
}

#[test]
fn nested_secrets_in_ten_lines_of_configuration_are_migrated_and_rotated() {
    const COUNT: usize = 5;
    let Some((mut emulator, owner, data)) = start(COUNT) else { return };
    let changed = |arguments: &str| data.call(arguments).arg("--json").run().json()["changed_values"].as_u64();
    assert_eq!(changed("migrate --dry-run"), Some(3 * COUNT as u64));
    for n in 0..COUNT {
        assert_eq!(read(&owner, n), document(n), "a dry run changes nothing");
    }
    assert_eq!(changed("migrate"), Some(3 * COUNT as u64));
    let (_, new) = data.rotated();
    assert_eq!(changed("rotate"), Some(0), "all of it is under the new key");
    for n in 0..COUNT {
        let now = read(&owner, n);
        assert_eq!(rest(now.clone()), rest(document(n)));
        assert!(secrets(&now).iter().all(|sealed| sealed.starts_with("kf1.")), "{now}");
    }
    let verified = data.call("verify --json").run().json();
    assert_eq!(verified["found"][0]["kid"], new.as_str(), "{verified}");

    // With another key, nothing opens, and nothing is changed.
    let before: Vec<Value> = (0..COUNT).map(|n| read(&owner, n)).collect();
    let stranger = Data::new(&configuration(&emulator));
    assert_eq!(stranger.call("rotate").run().code, 1, "p01: what does not open is told");
    assert!((0..COUNT).map(|n| read(&owner, n)).eq(before), "p01: what does not open is left alone");

    opens(&owner, &data, COUNT);
    emulator.kill();
    data.call("rotate").run().fails(5, &["Firestore test-project/(default)"]);
}

/// As odd as ids can be: slashes alone are not allowed, nor the names of the folder and its parent.
fn hostile_ids() -> Vec<String> {
    let odd = [
        " ",
        "it's",
        "quo\"te",
        "back\\slash",
        "`tick`",
        "100%",
        "%2F",
        "a*[b]?{c}",
        "a:b#c",
        "...",
        "__x",
        "new\r\nline",
        "\t",
        "e\u{301}",
        "🔑",
        "\u{202e}evil",
        "\u{feff}",
        "'; drop table users; --",
    ];
    odd.iter().map(|id| (*id).to_owned()).chain(["x".repeat(1500), "🔑".repeat(375)]).collect()
}

/// The documents of a store of which much does not open.
struct Wrecked {
    /// Sealed under a key that nobody here holds.
    unknown: Vec<String>,
    /// One whose envelope lost its end.
    damaged: String,
    /// Sealed under the folder's key, each with the secrets of the document of that number.
    fine: BTreeMap<String, usize>,
}

impl Wrecked {
    fn make(owner: &Owner, data: &Data, stranger: &Data) -> Self {
        const COUNT: usize = 24;
        let put = |path: &str, n: usize| wait(owner.put(path, &document(n)));
        let unknown: Vec<String> = (1..COUNT).step_by(2).map(path).collect();
        unknown.iter().for_each(|path| put(path, 1));
        stranger.call("migrate --quiet").run().text();
        let odd = hostile_ids().into_iter().map(|id| (format!("users/user 1/agents/{id}"), 1));
        let fine: BTreeMap<_, _> = (2..COUNT).step_by(2).map(|n| (path(n), n)).chain(odd).collect();
        fine.iter().for_each(|(path, n)| put(path, *n));
        put(&path(0), 0);
        assert_eq!(data.call("migrate").run().code, 1, "half of it is sealed under a key that is missing");
        let mut document = read(owner, 0);
        let sealed = document.pointer_mut(SECRETS[0]).unwrap();
        *sealed = sealed.as_str().map(|text| &text[..text.len() - 9]).into();
        wait(owner.put(&path(0), &document));
        Self { unknown, damaged: path(0), fine }
    }

    /// What every document holds, by its path.
    fn all(&self, owner: &Owner) -> BTreeMap<String, Value> {
        wait(async {
            let mut held = BTreeMap::new();
            for path in self.unknown.iter().chain([&self.damaged]).chain(self.fine.keys()) {
                held.insert(path.clone(), owner.get(path).await.unwrap().0);
            }
            held
        })
    }
}

/// Runs a job: its exit code, how many records it changed, and the code and the record of what it left.
fn told(data: &Data, arguments: &str) -> (i32, u64, BTreeSet<(String, String)>) {
    let (code, summaries) = Place::told(data.call(arguments));
    let left = summaries[0]["quarantined"].as_array().unwrap().iter().map(|value| {
        assert!(!value["reason"].as_str().unwrap().is_empty() && !value["hint"].as_str().unwrap().is_empty());
        (value["code"].as_str().unwrap().to_owned(), value["record"].as_str().unwrap().to_owned())
    });
    (code, sum(&summaries, "changed"), left.collect())
}

#[test]
fn p01_in_firestore_what_does_not_open_is_named_and_left_and_the_rest_moves_whatever_its_name() {
    let Some((emulator, owner, data)) = start(0) else { return };
    let another = || Data::new(&configuration(&emulator));
    let wrecked = Wrecked::make(&owner, &data, &another());
    let before = wrecked.all(&owner);

    let (code, _, lost) = told(&data, "verify");
    assert_eq!((code, lost.len()), (1, wrecked.unknown.len() + 1), "{lost:?}");
    assert_eq!(lost.iter().filter(|(code, _)| code == "unknown_key").count(), wrecked.unknown.len(), "{lost:?}");
    assert_eq!(lost.iter().filter(|(code, _)| code == "malformed").count(), 1, "{lost:?}");

    // With a key that opens nothing of it, everything is named and nothing is changed.
    let (code, changed, left) = told(&another(), "rotate");
    let records: BTreeSet<_> = left.iter().map(|(_, record)| record).collect();
    assert_eq!((code, changed, records.len()), (1, 0, before.len()), "{left:?}");
    assert!(wrecked.all(&owner) == before, "something was changed without its key");

    let new = data.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    data.call("keys promote --quiet").arg(&new).run().text();
    let fine = wrecked.fine.len() as u64;
    assert_eq!(told(&data, "rotate --dry-run"), (1, fine, lost.clone()));
    assert!(wrecked.all(&owner) == before, "a dry run changed something");
    assert_eq!(told(&data, "rotate"), (1, fine, lost.clone()));
    let after = wrecked.all(&owner);
    for (path, now) in &after {
        assert_eq!(*now != before[path], wrecked.fine.contains_key(path), "{path}");
        assert_eq!(rest(now.clone()), rest(before[path].clone()), "{path}");
    }
    assert_eq!(told(&data, "rotate"), (1, 0, lost.clone()), "a rerun finds nothing to do");
    assert!(wrecked.all(&owner) == after, "a rerun changed something");
    // What moved opens to what it was.
    assert_eq!(told(&data, "migrate --to v1"), (1, fine, lost));
    let moved = wrecked.all(&owner);
    for (path, n) in &wrecked.fine {
        for (sealed, plain) in secrets(&moved[path]).iter().zip(plaintexts(*n)) {
            assert_eq!(data.call("open").stdin(sealed).run().text(), plain, "{path}");
        }
    }
    assert_eq!(data.call("audit verify").run().code, 0);
}

/// Changes whole documents of every fourth one, with whatever sealed values they hold, as their owner does; gives the versions.
fn writes(owner: &Owner, (first, count): (usize, usize), stop: &AtomicBool) -> BTreeMap<usize, u64> {
    let (mut dice, mut written) = (Dice::new(), BTreeMap::new());
    let runtime = runtime();
    let own: Vec<usize> = (first..count).step_by(WRITERS).collect();
    while !stop.load(Ordering::Relaxed) {
        let n = own[dice.below(own.len())];
        let version = runtime.block_on(async {
            let (mut now, updated) = owner.get(&path(n)).await.unwrap();
            let version = now["version"]["integerValue"].as_str().unwrap().parse::<u64>().unwrap();
            now["version"]["integerValue"] = (version + 1).to_string().into();
            owner.put_if(&path(n), &now, &updated).await.then_some(version + 1)
        });
        written.extend(version.map(|version| (n, version)));
        // The emulator is slow where many want the same.
        std::thread::sleep(Duration::from_millis(80));
    }
    written
}

/// Ends the writers, also when the test fails beside them.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn p03_p14_killed_30_times_at_random_beside_four_writers_a_rotation_loses_and_undoes_nothing() {
    const COUNT: usize = 24;
    let Some((emulator, owner, data)) = start(COUNT) else { return };
    data.call("migrate --quiet").run().text();
    let stop = AtomicBool::new(false);
    let begun = || batches(data.path(), "rotate_batch");
    let written: BTreeMap<usize, u64> = std::thread::scope(|scope| {
        let (stop, stops) = (&stop, Stops(&stop));
        // Connections of their own, since those of one runtime end with it.
        let owners = (0..WRITERS).map(|n| (n, emulator.owner()));
        let writers: Vec<_> = owners.map(|(n, owner)| scope.spawn(move || writes(&owner, (n, COUNT), stop))).collect();
        let (mut dice, mut killed, mut early, mut writing, mut lasts) = (Dice::new(), 0, 0, 0, Duration::from_secs(2));
        while killed < scaled(30) {
            let (before, began) = (begun(), Instant::now());
            let (mut child, _home) = data.call("rotate --reseal").start();
            // Every other one at any moment, the others once they write.
            while killed % 2 == 1 && begun().len() == before.len() && child.try_wait().unwrap().is_none() {
                assert!(began.elapsed() < Duration::from_secs(120), "the job does not begin");
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(dice.moment(if killed % 2 == 1 { lasts / 4 } else { lasts }));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.signal() == Some(9) {
                killed += 1;
                writing += begun().len() - before.len();
            } else {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}");
                lasts = began.elapsed();
                early += 1;
                assert!(early < 200, "the job ends before it can be killed");
            }
            assert_eq!(data.call("verify --quiet").run().code, 0, "everything opens after kill {killed}");
        }
        println!("{killed} killed, {writing} of them after their first batch; {early} ended before");
        assert!(writing * 4 >= killed, "only {writing} of {killed} were killed while they wrote");
        drop(stops);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    println!("{} writes", written.values().sum::<u64>());
    assert!(written.len() > WRITERS, "hardly anybody wrote");
    data.call("rotate --quiet").run().text();
    for (n, version) in written {
        let now = read(&owner, n);
        assert_eq!(now["version"]["integerValue"], version.to_string().as_str(), "a change of a writer is undone");
    }
    opens(&owner, &data, COUNT);
}
