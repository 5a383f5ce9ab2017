//! Another program's data that is not as it should be, and how a job on it is watched and stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    deployment::signal,
    keyfold,
    place::{Place, sum},
};
use serde_json::Value;
use servers::{postgres::Postgres, redis::Redis};

const COUNT: usize = 40;

fn raw(place: &Place) -> BTreeMap<String, String> {
    serde_json::from_str(&place.agent("raw", place.keys[0]).unwrap()).unwrap()
}

/// What a dry run must have said: everything but how it went about it.
fn foretold(summaries: &[Value]) -> Vec<Value> {
    let mut told = summaries.to_vec();
    for summary in &mut told {
        let summary = summary.as_object_mut().unwrap();
        // Of a dry run these are as they would not be.
        for name in ["dry_run", "passes", "found"] {
            summary.remove(name);
        }
        let named = summary["quarantined"].as_array_mut().unwrap();
        named.sort_by_key(Value::to_string);
        if let Some(named) = summary.get_mut("reported") {
            named.as_array_mut().unwrap().sort_by_key(Value::to_string);
        }
    }
    told
}

/// Half of the main records under a key that nobody holds, one of them damaged, others with names as odd as the store takes.
fn wrecked(place: &Place) {
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    assert_eq!(place.report("migrate", old, None).0, 0);
    let unknown = keyfold(if place.program == "redis" { "keygen" } else { "keygen --fernet" }).run().text();
    place.agent("odd", old).unwrap();
    place.agent("wreck", &unknown).unwrap();
    let (before, rest) = (raw(place), place.agent("dump", old));
    // The odd ones and the first are lost.
    let lost = COUNT / 2 + 1;

    let (code, seen) = place.report("verify", old, None);
    let named: BTreeSet<_> = seen
        .iter()
        .flat_map(|summary| summary["quarantined"].as_array().unwrap())
        .map(|value| {
            assert!(!value["reason"].as_str().unwrap().is_empty() && !value["hint"].as_str().unwrap().is_empty());
            (value["code"].as_str().unwrap().to_owned(), value["record"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!((code, named.len()), (1, lost), "{named:?}");
    assert_eq!(named.iter().filter(|(code, _)| code == "wrong_key_or_tampered").count(), COUNT / 2, "{named:?}");
    assert_eq!(named.iter().filter(|(code, _)| code == "malformed").count(), 1, "{named:?}");

    let (code, dry) = place.report("rotate --readers-ready --dry-run", new, Some(old));
    assert_eq!(code, 1);
    assert!(raw(place) == before, "a dry run changed something");
    let (code, told) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, foretold(&told)), (1, foretold(&dry)));
    let after = raw(place);
    let changed: BTreeSet<_> = after.iter().filter(|(name, value)| before[*name] != **value).collect();
    assert_eq!(changed.len() as u64, sum(&told, "changed"));
    assert_eq!(sum(&told, "changed") + lost as u64, sum(&told, "records"));
    assert_eq!(after.len() as u64, sum(&told, "records"), "every record was looked at");
    assert_eq!(place.agent("dump", old), rest);
    // Under the new key alone what was lost before is lost, and nothing else; a rerun finds nothing to do.
    let (code, seen) = place.report("verify", new, None);
    assert_eq!((code, sum(&seen, "quarantined_values")), (1, sum(&told, "quarantined_values")));
    let (code, again) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, sum(&again, "changed")), (1, 0));
    // With the key that was missing, all but the damaged one come along.
    let both = format!("{old},{unknown}");
    let (code, mended) = place.report("rotate --readers-ready", new, Some(&both));
    assert_eq!((code, sum(&mended, "changed")), (1, lost as u64 - 1));
    assert_eq!(sum(&mended, "records"), after.len() as u64);
    assert_eq!(keyfold("audit verify").data_dir(&place.data()).run().code, 0);
}

#[test]
fn p01_in_redis_what_does_not_open_is_named_and_left_and_the_rest_moves_whatever_its_name() {
    let Some(server) = Redis::single(&[]) else { return };
    wrecked(&Place::redis(server.servers[0].port, COUNT));
}

#[test]
fn p01_in_sqlite_what_does_not_open_is_named_and_left_and_the_rest_moves_whatever_its_name() {
    wrecked(&Place::sqlite(COUNT));
}

#[test]
fn p01_in_postgresql_what_does_not_open_is_named_and_left_and_the_rest_moves_whatever_its_name() {
    let Some(server) = Postgres::start() else { return };
    wrecked(&Place::postgres(server.address(), COUNT));
}

fn stopped(place: &Place) {
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    assert_eq!(place.report("migrate", old, None).0, 0);
    let (child, _home) = place.keyfold("rotate --readers-ready --rate 100 --json", new, Some(old)).start();
    common::wait_until_it_listens_to_ctrl_c(child.id());
    std::thread::sleep(Duration::from_millis(2500));
    signal("INT", child.id());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("run `keyfold rotate` again to go on from there"), "{said}");
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let progress: Vec<Value> = lines.map(|line| line["progress"].clone()).filter(Value::is_object).collect();
    let going = progress.iter().any(|now| now["done"].as_u64() > Some(0) && now["per_second"].as_f64() > Some(0.0));
    assert!(going && progress.iter().all(|now| now["title"].is_string()), "{said}");
    for now in progress.iter().filter(|now| now["finished"] == false) {
        // PostgreSQL's estimate may be too low, and then nobody knows what is left.
        let left = now["total"].as_u64().and_then(|total| total.checked_sub(now["done"].as_u64().unwrap()));
        let known = left.filter(|_| now["done"] != 0).map(|left| left > 0);
        assert_eq!(now["seconds_left"].as_u64().map(|left| left > 0), known, "{said}");
    }
    let first: Vec<Value> =
        serde_json::Deserializer::from_slice(&ended.stdout).into_iter().map(Result::unwrap).collect();
    let first = sum(&first, "changed");
    let (code, rest) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, first > 0), (0, true), "{said}");
    assert_eq!(first + sum(&rest, "changed"), sum(&rest, "records"));
    place.agent("check", new).unwrap();
}

#[test]
fn ctrl_c_stops_a_job_on_redis_between_two_batches_and_says_how_to_go_on() {
    let Some(server) = Redis::single(&[]) else { return };
    stopped(&Place::redis(server.servers[0].port, 400));
}

#[test]
fn ctrl_c_stops_a_job_on_postgresql_between_two_batches_and_says_how_to_go_on() {
    let Some(server) = Postgres::start() else { return };
    stopped(&Place::postgres(server.address(), 600));
}

/// Runs a command at a terminal and prints what the screen showed.
const TERMINAL: &str = r#"
import os, pty, select, subprocess, sys
ours, theirs = pty.openpty()
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs)
screen = b""
while child.poll() is None or select.select([ours], [], [], 0.2)[0]:
    if select.select([ours], [], [], 0.05)[0]:
        screen += os.read(ours, 4096)
print(screen.decode(errors="replace"))
"#;

#[test]
fn at_a_terminal_a_job_shows_its_rate_and_the_time_left() {
    let place = Place::sqlite(250);
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    let mut python = common::python().unwrap();
    python.args(["-c", TERMINAL, env!("CARGO_BIN_EXE_keyfold"), "rotate", "--readers-ready", "--rate", "100"]);
    python.args(["--preset", place.preset, "--store", place.store_option(), "--data-dir"]).arg(place.data());
    python.env(place.variable, new).env(format!("{}_PREVIOUS", place.variable), old);
    python.env("NO_COLOR", "1").env("TERM", "xterm").env("HOME", place.folder.path());
    let screen = String::from_utf8(python.output().unwrap().stdout).unwrap();
    let shows = |line: &str| line.contains("/s, ") && line.contains("s left") && line.contains("/250 ");
    assert!(screen.split('\r').any(shows), "{screen}");
}
