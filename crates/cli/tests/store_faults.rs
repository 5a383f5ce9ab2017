//! Rotation of another program's records while that program writes: killed at random moments, nothing is lost, nothing becomes
//! unreadable, and no writer's change is undone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, outside the functions that clippy knows as such"
)]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Output},
    time::{Duration, Instant},
};

use common::{
    batches::{Batches, batches},
    deployment::{Dice, scaled},
    keyfold,
    place::{Place, sum},
};
use servers::{postgres::Postgres, redis::Redis};

const WRITERS: usize = 4;
/// How long a job may take to begin, on however busy a machine.
const BOUND: Duration = Duration::from_secs(120);

/// Of each record, the change that was stored last, and the last one that brought a new secret.
type Versions = BTreeMap<usize, [u64; 2]>;

fn versions(text: &str) -> Versions {
    let numbers = |line: &str| line.split(' ').map(|number| number.parse().unwrap()).collect::<Vec<u64>>();
    let of = |line: &str| match numbers(line)[..] {
        [record, touched, secret] => (usize::try_from(record).unwrap(), [touched, secret]),
        _ => panic!("{line}"),
    };
    text.lines().map(of).collect()
}

/// What a writer stored: the last versions of each record, and how often it wrote.
fn stored(mut writer: Child) -> (Versions, usize) {
    drop(writer.stdin.take());
    let mut text = String::new();
    writer.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(writer.wait().unwrap().success(), "a writer failed");
    (versions(&text), text.lines().count())
}

/// Starts writers. Each stores now a document of its own making, now the whole document that it read a moment before, with one
/// member changed. Two hold the former key only, as programs do that were not restarted yet.
fn writers(place: &Place, [first, second]: [&str; 2]) -> Vec<Child> {
    (0..WRITERS).map(|n| place.writer(n, WRITERS, if n % 2 == 0 { first } else { second })).collect()
}

/// The processes that have announced a batch of a rotation.
fn begun(place: &Place) -> BTreeMap<String, Batches> {
    batches(&place.data(), "rotate_batch")
}

/// Waits until there are so many of them; `false` where the process ended before.
fn wait_for(count: usize, child: &mut Child, begun: impl Fn() -> usize) -> bool {
    let began = Instant::now();
    while begun() < count {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(began.elapsed() < BOUND, "the job does not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn killed(place: &Place, kills: usize) {
    let [mut old, mut new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    assert_eq!(place.report("migrate", old, None).0, 0);
    let mut random = Dice::new();
    let (mut hit, mut too_late, mut writing, mut cut, mut written) = (0, 0, 0, 0, 0);
    let mut known = Versions::new();
    // How long a job lasts depends on the machine: it is brought down until jobs die of it.
    let mut within = Duration::from_millis(400);
    while hit < kills {
        let writers = writers(place, [old, new]);
        let until = kills.min(hit + 10);
        while hit < until {
            let before = begun(place);
            let call = place.keyfold("rotate --readers-ready --quiet", new, Some(old)).arg("--json");
            let (mut job, _home) = call.start();
            // Every other one at any moment, the others once they write.
            let began = hit % 2 == 0 || wait_for(before.len() + 1, &mut job, || begun(place).len());
            if began {
                std::thread::sleep(random.moment(within));
            }
            // A process that has ended already is left as it is.
            job.kill().unwrap();
            let output = job.wait_with_output().unwrap();
            if output.status.signal() == Some(9) {
                hit += 1;
            } else {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                too_late += 1;
                assert!(too_late <= 20 + 2 * kills, "the job ends before it can be killed");
                within = (within * 3 / 4).max(Duration::from_millis(5));
                // Another one in this direction would find next to nothing left to do.
                (old, new) = (new, old);
                continue;
            }
            for (_, batches) in begun(place).into_iter().filter(|(writer, _)| !before.contains_key(writer)) {
                writing += 1;
                cut += batches.cut;
            }
        }
        for writer in writers {
            let (last, count) = stored(writer);
            known.extend(last);
            written += count;
        }
        // Now that nobody writes: a rerun finishes, its report is true, and Python opens everything with the new key.
        let (code, told) = place.report("rotate --readers-ready", new, Some(old));
        assert_eq!((code, sum(&told, "quarantined_values"), sum(&told, "overtaken")), (0, 0, 0), "{told:?}");
        let (code, again) = place.report("rotate --readers-ready", new, Some(old));
        assert_eq!((code, sum(&again, "changed"), sum(&again, "values")), (0, 0, sum(&told, "values")));
        let found = versions(&place.agent("versions", new).unwrap());
        assert_eq!(found.len(), place.count);
        for (record, [touched, secret]) in &known {
            // The write that was under way when its writer stopped may be stored and not told.
            let now = found[record];
            assert!(now[0] >= *touched && now[1] >= *secret, "record {record} is at {now:?}, and {touched} was stored");
        }
        (old, new) = (new, old);
    }
    println!(
        "{}: {kills} killed, {writing} of them after their first batch, {cut} batches cut; {too_late} ended before, within {within:?}; {written} writes",
        place.program
    );
    assert!(writing * 4 >= kills, "only {writing} of {kills} were killed while they wrote");
    assert!(written >= kills, "only {written} writes beside {kills} kills");
    assert_eq!(keyfold("audit verify").data_dir(&place.data()).run().code, 0);
}

#[test]
fn p03_p14_killed_at_random_beside_four_writers_no_record_in_redis_is_lost_or_undone() {
    let Some(server) = Redis::single(&[]) else { return };
    killed(&Place::redis(server.servers[0].port, 200), scaled(300));
}

#[test]
fn p03_p14_killed_at_random_beside_four_writers_no_row_in_sqlite_is_lost_or_undone() {
    killed(&Place::sqlite(200), scaled(300));
}

#[test]
fn p03_p14_killed_at_random_beside_four_writers_no_row_in_postgresql_is_lost_or_undone() {
    let Some(server) = Postgres::start() else { return };
    killed(&Place::postgres(server.address(), 200), scaled(300));
}

/// A file system of its own, so small that it can be filled.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`, with a word about it, where this user may not mount one.
    fn mounted(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "a small file system cannot be mounted, and KEYFOLD_TEST_REQUIRE=all");
        println!("not run: a full disk, since no file system can be mounted by this user");
        None
    }

    /// Leaves so many bytes free.
    fn fill(&self, free: u64) {
        let df = std::process::Command::new("df").args(["-B1", "--output=avail"]).arg(self.0.path()).output().unwrap();
        let text = String::from_utf8(df.stdout).unwrap();
        let ballast = text.lines().nth(1).unwrap().trim().parse::<u64>().unwrap().saturating_sub(free);
        std::fs::write(self.0.path().join("ballast"), vec![1; usize::try_from(ballast).unwrap()]).unwrap();
    }

    fn relieve(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn p03_where_the_disk_fills_during_a_rotation_nothing_is_lost_and_a_rerun_finishes() {
    // Its own data folder, and the program's database, take turns with being on the full disk.
    for ours in [false, true] {
        let Some(small) = Small::mounted("32m") else { return };
        let mut place = Place::sqlite(300);
        let [mut old, mut new] = place.keys;
        place.lie_in(small.0.path(), ours);
        if place.agent("write", old).is_none() {
            return;
        }
        assert_eq!(place.report("migrate", old, None).0, 0);
        let before = place.agent("dump", old);
        let mut failed = 0;
        for free in [0, 8, 32, 96, 256, 512, 1024, 2048].map(|kib: u64| kib << 10) {
            small.fill(free);
            let ended = place.keyfold("rotate --readers-ready --quiet", new, Some(old)).run();
            small.relieve();
            if ended.code == 0 {
                (old, new) = (new, old);
                continue;
            }
            failed += 1;
            assert_eq!(ended.code, 5, "{} bytes free: {}", free, ended.stderr);
            assert!(ended.stderr.contains("full") || ended.stderr.contains("space"), "{}", ended.stderr);
            let (code, told) = place.report("rotate --readers-ready", new, Some(old));
            assert_eq!((code, sum(&told, "quarantined_values")), (0, 0), "{told:?}");
            assert_eq!(place.agent("check", new).unwrap(), sum(&told, "values").to_string());
            (old, new) = (new, old);
        }
        assert!(failed > 0, "the disk was never full");
        assert!(place.agent("dump", old) == before);
        assert_eq!(keyfold("audit verify").data_dir(&place.data()).run().code, 0);
    }
}

/// What the summaries on a job's stdout say, each of everything, whoever did it.
fn told(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap()
}

/// 100,000 records in all, at full size.
fn shared_records() -> usize {
    scaled(100_000).max(3000) / 3
}

fn total(of: impl IntoIterator<Item = Batches>, count: impl Fn(&Batches) -> u64) -> u64 {
    of.into_iter().map(|batches| count(&batches)).sum()
}

#[test]
fn two_processes_share_one_rotation_and_change_no_record_twice_and_either_may_die() {
    let Some(server) = Redis::single(&[]) else { return };
    let place = Place::redis(server.servers[0].port, shared_records());
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    let all = 3 * place.count as u64;
    assert_eq!(place.report("migrate", old, None).0, 0);
    let start =
        |keys: [&str; 2]| place.keyfold("rotate --readers-ready --quiet", keys[0], Some(keys[1])).arg("--json").start();

    // One dies as soon as both have announced a batch.
    let [(mut one, _one), (two, _two)] = [start([new, old]), start([new, old])];
    assert!(wait_for(2, &mut one, || begun(&place).len()), "it ended before it could be killed");
    one.kill().unwrap();
    assert_eq!(one.wait().unwrap().signal(), Some(9), "it ended before it could be killed");
    let summaries = told(&two.wait_with_output().unwrap());
    assert_eq!(sum(&summaries, "records"), all);
    assert_eq!(versions(&place.agent("versions", new).unwrap()).len(), place.count);
    let shares = begun(&place);
    let (done, announced) =
        (total(shares.values().cloned(), |one| one.done), total(shares.values().cloned(), |one| one.announced));
    println!("{all} records, one of two killed: {shares:?}");
    assert!(done <= all && announced >= all, "{done} done and {announced} announced of {all}");
    assert_eq!(shares.len(), 2);
    let (code, again) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, sum(&again, "changed")), (0, 0));

    // Both to their end: what each changed is all there was to change, and no record was changed by both.
    let children = [start([old, new]), start([old, new])];
    for (child, _home) in children {
        let summaries = told(&child.wait_with_output().unwrap());
        assert_eq!((sum(&summaries, "records"), sum(&summaries, "quarantined_values")), (all, 0));
    }
    let now: Vec<_> = begun(&place).into_iter().filter(|(writer, _)| !shares.contains_key(writer)).collect();
    println!("{all} records, shared: {now:?}");
    assert_eq!(now.len(), 2, "one had done everything before the other began");
    assert_eq!(total(now.into_iter().map(|(_, one)| one), |one| one.announced), all, "some were changed twice");
    assert_eq!(versions(&place.agent("versions", old).unwrap()).len(), place.count);
}

#[test]
fn two_machines_share_one_rotation_and_change_no_record_twice_and_either_may_die() {
    let Some(server) = Redis::single(&["--appendonly", "yes"]) else { return };
    let port = server.servers[0].port;
    let place = Place::redis(port, shared_records());
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    let all = 3 * place.count as u64;
    let system = format!("redis://127.0.0.1:{port}/1");
    let other = tempfile::tempdir().unwrap();
    let folders = [place.data(), other.path().join("keyfold")];
    let call = |n: usize, arguments: &str, keys: [&str; 2]| {
        let call = place.keyfold(arguments, keys[0], Some(keys[1])).data_dir(&folders[n]);
        call.env("KEYFOLD_SYSTEM", &system).arg("--json")
    };
    let init = |n: usize| keyfold("init --quiet").data_dir(&folders[n]).env("KEYFOLD_SYSTEM", &system).run().text();
    init(0);
    std::fs::create_dir(&folders[1]).unwrap();
    std::fs::copy(folders[0].join("root.key"), folders[1].join("root.key")).unwrap();
    init(1);
    assert_eq!(call(1, "migrate --quiet", [old, new]).run().code, 0);
    assert!(folders.iter().all(|folder| !folder.join("keyfold.db").exists()));
    let of = |n: usize| batches(&folders[n], "rotate_batch");
    let both = |count: fn(&Batches) -> u64| [0, 1].map(|n| total(of(n).into_values(), count));
    let rotate = |n: usize, keys| call(n, "rotate --readers-ready --quiet", keys).start();

    let children = [0, 1].map(|n| rotate(n, [new, old]));
    for (child, _home) in children {
        let summaries = told(&child.wait_with_output().unwrap());
        assert_eq!((sum(&summaries, "records"), sum(&summaries, "quarantined_values")), (all, 0));
    }
    assert_eq!(versions(&place.agent("versions", new).unwrap()).len(), place.count);
    let announced = both(|one| one.announced);
    println!("{all} records, shared: {announced:?}");
    assert_eq!(announced.iter().sum::<u64>(), all, "some were changed twice");
    assert!(announced.iter().all(|share| *share > 0), "one had done everything before the other began");

    // The first one dies while both work.
    let [(mut first, _one), (mut second, _two)] = [0, 1].map(|n| rotate(n, [old, new]));
    assert!(wait_for(2, &mut first, || of(0).len()), "it ended before it could be killed");
    assert!(wait_for(2, &mut second, || of(1).len()), "one alone had done everything");
    first.kill().unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9), "it ended before it could be killed");
    assert_eq!(sum(&told(&second.wait_with_output().unwrap()), "records"), all);
    assert_eq!(versions(&place.agent("versions", old).unwrap()).len(), place.count);
    let (done, announced) = (both(|one| one.done), both(|one| one.announced));
    println!("and one killed: {done:?} done, {announced:?} announced in all");
    assert!(done.iter().sum::<u64>() <= 2 * all && announced.iter().sum::<u64>() >= 2 * all);
    for n in [0, 1] {
        assert_eq!(call(n, "verify", [old, new]).run().code, 0);
        assert_eq!(keyfold("audit verify").data_dir(&folders[n]).env("KEYFOLD_SYSTEM", &system).run().code, 0);
    }
}
