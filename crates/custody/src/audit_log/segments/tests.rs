use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
};

use keyfold_core::{
    audit::{Event, Report, Verdict, VerifierKey},
    clock::UnixTime,
    error::{Code, Hint as _},
    id::WriterId,
};
use tempfile::TempDir;

use super::*;
use crate::audit_log::{
    AuditLog, AuditSink, Pruned, Pruner,
    conformance::{Bench, event, suite},
    follow::{Follower, Source, not_copied},
};

const SEED: [u8; 32] = [1; 32];

struct Bed {
    dir: TempDir,
    next: AtomicU8,
}

impl Bed {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), next: AtomicU8::new(1) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn writer(&self) -> Queued {
        self.rolling_at(ROLL_AT)
    }

    fn rolling_at(&self, roll_at: u64) -> Queued {
        let random = [self.next.fetch_add(1, Ordering::Relaxed); 48];
        let clock = Arc::new(UnixTime(1_800_000_000));
        Segments::open_rolling_at(roll_at, (&self.path(), "d"), &SEED, random, clock).unwrap()
    }

    fn report(&self) -> Report {
        let key = SigningKey::from_seed(&SEED).unwrap().public();
        AuditLog::at(&self.path()).verify(&VerifierKey::of(&Deployment::new("d").unwrap(), key)).unwrap()
    }

    fn verdict(&self) -> Verdict {
        self.report().verdict()
    }

    fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in [self.path(), self.path().join("closed")] {
            found.extend(fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.retain(|path| path.to_str().unwrap().ends_with(suffix));
        found.sort();
        found
    }

    /// A process that wrote `events` and closed.
    async fn run(&self, events: std::ops::Range<u64>) {
        let sink = self.writer();
        for n in events {
            let _proof = sink.append(&[event(n)]).await.unwrap();
        }
        sink.close(1).await.unwrap();
    }

    /// A process that wrote `events` and was killed: the thread ends, the lock goes, nothing is signed.
    async fn killed(&self, events: std::ops::Range<u64>) -> WriterId {
        let sink = self.writer();
        let id = sink.writer();
        for n in events {
            let _proof = sink.append(&[event(n)]).await.unwrap();
        }
        drop(sink);
        let path = self.path().join(format!("{id}-000000.open"));
        while fs::File::open(&path).unwrap().try_lock().is_err() {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        id
    }
}

impl Bench for Bed {
    fn sink(&self) -> Box<dyn AuditSink> {
        Box::new(self.writer())
    }

    fn stored(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let each = async |entry: &crate::audit_log::Entry| {
            events.extend(entry.event.clone());
            true
        };
        // Files are read without ever waiting for anything.
        futures::FutureExt::now_or_never(AuditLog::at(&self.path()).export(each)).unwrap().unwrap();
        events
    }
}

fn append_to(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test]
async fn the_segments_conform() {
    suite(Bed::new).await;
}

#[tokio::test]
async fn closed_processes_leave_a_log_that_is_ok_and_private() {
    let bed = Bed::new();
    bed.run(0..3).await;
    bed.run(3..5).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 5, chains: 2 });
    assert!(bed.files(".open").is_empty());
    for file in bed.files("") {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if file.is_dir() { 0o700 } else { 0o600 }, "{file:?}");
    }
    let tail = AuditLog::at(&bed.path()).tail(3).unwrap();
    assert_eq!(tail.into_iter().filter_map(|entry| entry.event).collect::<Vec<_>>(), [event(2), event(3), event(4)]);
}

#[tokio::test]
async fn a_log_that_was_never_written_is_ok_and_empty() {
    let bed = Bed::new();
    drop(bed.writer());
    assert_eq!(bed.verdict(), Verdict::Ok { events: 0, chains: 0 });
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn p41_the_tail_of_a_killed_process_is_unanchored_until_the_next_one_anchors_it() {
    let bed = Bed::new();
    let id = bed.killed(0..4).await;
    assert_eq!(bed.verdict(), Verdict::Unanchored { writer: id, events: 4 });
    bed.run(4..5).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 5, chains: 2 });
    assert!(bed.files(".open").is_empty());
}

#[tokio::test]
async fn a_live_process_is_not_taken_for_a_dead_one() {
    let bed = Bed::new();
    let live = bed.writer();
    let _proof = live.append(&[event(1)]).await.unwrap();
    bed.run(2..3).await;
    assert_eq!(bed.verdict(), Verdict::Unanchored { writer: live.writer(), events: 1 });
    live.close(1).await.unwrap();
    assert_eq!(bed.verdict(), Verdict::Ok { events: 2, chains: 2 });
}

#[tokio::test]
async fn p41_a_torn_last_line_is_said_to_be_torn_and_not_changed() {
    let bed = Bed::new();
    let id = bed.killed(0..2).await;
    append_to(&bed.files(".open")[0], b"{\"action\":\"op");
    bed.run(2..3).await;
    assert_eq!(bed.report().findings, [Verdict::TornTail { writer: id, bytes: 13 }]);
}

#[tokio::test]
async fn a_torn_note_is_cut_off_by_the_next_process() {
    let bed = Bed::new();
    bed.run(0..2).await;
    append_to(&bed.path().join("notes"), "keyfold/d/01\nkeyfold-chain-v1\n3\n\n— keyf".as_bytes());
    assert_eq!(bed.verdict(), Verdict::Ok { events: 2, chains: 1 });
    bed.run(2..3).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 3, chains: 2 });
}

#[tokio::test]
async fn segments_roll_and_a_killed_one_is_anchored_from_its_last() {
    let bed = Bed::new();
    let sink = bed.rolling_at(1000);
    for n in 0..20 {
        let _proof = sink.append(&[event(n)]).await.unwrap();
    }
    sink.checkpoint(1).await.unwrap();
    assert!(bed.files(".jsonl").len() > 2 && bed.files(".open").len() == 1);
    assert_eq!(bed.verdict(), Verdict::Ok { events: 20, chains: 1 });
    drop(sink);
    thread::sleep(std::time::Duration::from_millis(100));
    bed.run(20..21).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 21, chains: 2 });
    let tail = AuditLog::at(&bed.path()).tail(15).unwrap();
    assert_eq!(
        tail.into_iter().filter_map(|entry| entry.event).collect::<Vec<_>>(),
        (6..21).map(event).collect::<Vec<_>>()
    );

    fs::remove_file(&bed.files(".jsonl")[1]).unwrap();
    assert!(matches!(bed.verdict(), Verdict::Removed { found: Some(_), .. }), "{:?}", bed.report());
}

#[tokio::test]
async fn p41_tampering_with_the_files_is_named() {
    async fn after(tamper: impl Fn(&Bed)) -> Verdict {
        let bed = Bed::new();
        bed.run(0..5).await;
        bed.run(5..8).await;
        tamper(&bed);
        bed.verdict()
    }
    let lines = |bed: &Bed, edit: &dyn Fn(&mut Vec<String>)| {
        let path = &bed.files(".jsonl")[0];
        let mut lines: Vec<String> =
            fs::read_to_string(path).unwrap().lines().map(|line| format!("{line}\n")).collect();
        edit(&mut lines);
        fs::write(path, lines.concat()).unwrap();
    };
    let writer = WriterId([1; 16]);
    let changed = |event| Verdict::ChangedAt { writer, event, since: event };
    assert_eq!(after(|bed| lines(bed, &|l| l[2] = l[2].replace("1000", "1001"))).await, changed(2));
    assert_eq!(after(|bed| lines(bed, &|l| drop(l.remove(2)))).await, changed(2));
    assert_eq!(after(|bed| lines(bed, &|l| l.swap(2, 3))).await, changed(2));
    let cut = Verdict::Removed { writer, anchored: 5, found: Some(3) };
    assert_eq!(after(|bed| lines(bed, &|l| l.truncate(4))).await, cut);
    let gone = Verdict::Removed { writer, anchored: 5, found: None };
    assert_eq!(after(|bed| fs::remove_file(&bed.files(".jsonl")[0]).unwrap()).await, gone);
    let all_notes_too = |bed: &Bed| {
        fs::remove_file(&bed.files(".jsonl")[0]).unwrap();
        fs::remove_file(bed.path().join("notes")).unwrap();
    };
    assert_eq!(after(all_notes_too).await, gone, "the successor's genesis still names it");
}

#[tokio::test]
async fn p40_a_file_where_the_folder_should_be_fails_every_append() {
    let bed = Bed::new();
    fs::write(bed.path(), b"").unwrap();
    let sink = bed.writer();
    for _ in 0..2 {
        let error = sink.append(&[event(1)]).await.unwrap_err();
        assert_eq!(error.code(), Code::AuditUnavailable);
        assert!(error.hint().is_some());
    }
    fs::remove_file(bed.path()).unwrap();
    let _proof = sink.append(&[event(2)]).await.unwrap();
    assert_eq!(bed.stored(), [event(2)]);
}

#[tokio::test]
async fn p40_a_folder_removed_under_a_running_process_fails_every_later_append() {
    let bed = Bed::new();
    let sink = bed.writer();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    fs::remove_dir_all(bed.path()).unwrap();
    let error = sink.append(&[event(2)]).await.unwrap_err();
    assert!(matches!(error, AuditError::Gone { .. }), "{error}");
    let error = sink.append(&[event(3)]).await.unwrap_err();
    assert!(matches!(error, AuditError::Stopped { .. }), "{error}");
    assert!(sink.close(1).await.is_err());
}

#[tokio::test]
async fn p40_a_full_disk_under_the_notes_fails_the_checkpoint_and_drops_no_event() {
    let bed = Bed::new();
    let sink = bed.writer();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    let _ = fs::remove_file(bed.path().join("notes"));
    std::os::unix::fs::symlink("/dev/full", bed.path().join("notes")).unwrap();
    let error = sink.checkpoint(1).await.unwrap_err();
    assert!(error.hint().unwrap().contains("disk is full"), "{error:?}");
    fs::remove_file(bed.path().join("notes")).unwrap();
    sink.close(1).await.unwrap();
    assert_eq!(bed.verdict(), Verdict::Ok { events: 1, chains: 1 });
}

#[tokio::test]
async fn p40_outcomes_that_could_not_be_written_come_before_the_next_intent() {
    let bed = Bed::new();
    fs::write(bed.path(), b"").unwrap();
    let sink = bed.writer();
    assert!(sink.append_outcome(&[event(1)]).await.is_err());
    assert!(sink.append(&[event(2)]).await.is_err());
    fs::remove_file(bed.path()).unwrap();
    let _proof = sink.append(&[event(3)]).await.unwrap();
    assert_eq!(bed.stored(), [event(1), event(3)]);
}

/// Needs a folder on a small file system of its own, which it fills: `mount -t tmpfs -o size=256k tmpfs /mnt/small`.
#[tokio::test]
#[ignore = "needs KEYFOLD_TEST_SMALL_DISK"]
async fn p40_a_disk_that_fills_up_fails_appends_and_recovers_once_there_is_space() {
    let Some(disk) = std::env::var_os("KEYFOLD_TEST_SMALL_DISK") else { return };
    let bed = Bed { dir: TempDir::new_in(&disk).unwrap(), next: AtomicU8::new(1) };
    let sink = bed.writer();
    let _proof = sink.append(&[event(0)]).await.unwrap();
    let ballast = bed.dir.path().join("ballast");
    fs::write(&ballast, vec![0; 128 << 10]).unwrap();
    let mut taken = 1;
    let batch: Vec<_> = (0..7).map(event).collect();
    let error = loop {
        match sink.append(&batch).await {
            Ok(_) => taken += 7,
            Err(error) => break error,
        }
    };
    assert!(error.hint().unwrap().contains("disk is full"), "{error:?}");
    assert!(sink.append_outcome(&batch).await.is_err());
    assert!(sink.append(&batch).await.is_err());
    fs::remove_file(&ballast).unwrap();
    let _proof = sink.append(&batch).await.unwrap();
    sink.close(1).await.unwrap();
    assert_eq!(bed.verdict(), Verdict::Ok { events: taken + 14, chains: 1 });
}

#[tokio::test]
#[ignore = "measures: a million events"]
async fn a_million_events_verify_in_seconds() {
    let bed = Bed::new();
    let sink = bed.writer();
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        let batch: Vec<_> = (0..1000).map(event).collect();
        let _proof = sink.append(&batch).await.unwrap();
    }
    sink.close(1).await.unwrap();
    let written = started.elapsed();
    let started = std::time::Instant::now();
    assert_eq!(bed.verdict(), Verdict::Ok { events: 1_000_000, chains: 1 });
    println!("written in {written:?}, verified in {:?}", started.elapsed());
}

#[tokio::test]
async fn many_writers_at_once_leave_one_chain_of_notes() {
    let bed = Bed::new();
    let writers: Vec<_> = (0..8).map(|_| bed.writer()).collect();
    let work = writers.iter().map(|sink| async move {
        for n in 0..5 {
            let _proof = sink.append(&[event(n)]).await.unwrap();
            sink.checkpoint(n).await.unwrap();
        }
        sink.close(5).await.unwrap();
    });
    futures::future::join_all(work).await;
    let report = bed.report();
    assert_eq!(report.verdict(), Verdict::Ok { events: 40, chains: 8 });
    assert_eq!(report.notes, 48);
}

/// Not a test: the process that the next one kills.
#[tokio::test]
#[ignore = "run by the test that kills it"]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os("KEYFOLD_TEST_KILLED") else { return };
    let clock = Arc::new(UnixTime(1_800_000_000));
    let sink = Segments::open(Path::new(&dir), "d", &SEED, [200; 48], clock).unwrap();
    let _proof = sink.append(&[event(1), event(2), event(3)]).await.unwrap();
    println!("durable");
    thread::sleep(std::time::Duration::from_secs(60));
}

#[tokio::test]
async fn p41_what_a_sigkill_leaves_is_whole_unanchored_and_anchored_by_the_next_process() {
    use std::io::BufRead as _;
    let bed = Bed::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit_log::segments::tests::the_process_that_is_killed", "--ignored", "--nocapture"])
        .env("KEYFOLD_TEST_KILLED", bed.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("durable")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bed.verdict(), Verdict::Unanchored { writer: WriterId([200; 16]), events: 3 });
    bed.run(3..4).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 4, chains: 2 });
}

#[tokio::test]
async fn p18_the_last_checkpoint_tells_the_generation_to_who_holds_the_deployments_key_only() {
    let bed = Bed::new();
    let log = AuditLog::at(&bed.path());
    assert!(log.last_checkpoint().unwrap().is_none());
    bed.run(0..1).await;
    let sink = bed.writer();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    sink.close(7).await.unwrap();
    let last = log.last_checkpoint().unwrap().unwrap();
    let key = |seed: u8| {
        let deployment = Deployment::new("d").unwrap();
        VerifierKey::of(&deployment, SigningKey::from_seed(&[seed; 32]).unwrap().public())
    };
    assert_eq!(last.generation(&key(1)), Some(7));
    assert_eq!(last.generation(&key(2)), None);
    let notes = fs::read_to_string(bed.path().join("notes")).unwrap();
    fs::write(bed.path().join("notes"), notes.replace("\n7\n", "\n9\n")).unwrap();
    assert_eq!(log.last_checkpoint().unwrap().unwrap().generation(&key(1)), None);
}

fn keys() -> (SigningKey, VerifierKey) {
    let key = SigningKey::from_seed(&SEED).unwrap();
    let of = VerifierKey::of(&Deployment::new("d").unwrap(), key.public());
    (key, of)
}

fn prune(bed: &Bed, before: u64) -> Result<Pruned, AuditError> {
    let (key, of) = keys();
    Pruner { key: &key, of: &of }.prune(&bed.path(), (UnixTime(before), UnixTime(1_900_000_000)), |_, _| false)
}

#[tokio::test]
async fn retention_takes_old_events_out_and_the_log_still_proves_the_rest() {
    let bed = Bed::new();
    bed.run(0..3).await;
    // One that is being written: its finished segments can go, what is open stays.
    let live = bed.rolling_at(600);
    for n in 3..40 {
        let _proof = live.append(&[event(n)]).await.unwrap();
    }
    live.checkpoint(1).await.unwrap();
    assert!(bed.files(".jsonl").len() > 5);
    assert_eq!(prune(&bed, 1_800_000_000).unwrap(), Pruned::default(), "nothing is that old");
    let pruned = prune(&bed, 1_800_000_020).unwrap();
    assert_eq!(pruned.chains, 2);
    // Whole segments, of up to four events: the last of them may hold one that is too young.
    assert!((17..=20).contains(&pruned.events), "{pruned:?}");
    let report = bed.report();
    assert_eq!(report.verdict(), Verdict::Ok { events: 40 - pruned.events, chains: 2 });
    assert_eq!(report.pruned, pruned.events);
    assert_eq!(prune(&bed, 1_800_000_020).unwrap(), Pruned::default());
    // Further, twice over the same chain, and once it has ended to its end.
    let more = prune(&bed, 1_800_000_030).unwrap();
    assert_eq!((more.chains, bed.report().verdict().as_str()), (1, "ok"));
    live.close(1).await.unwrap();
    prune(&bed, 1_900_000_000).unwrap();
    assert_eq!(bed.report().verdict(), Verdict::Ok { events: 0, chains: 2 });
    assert_eq!(bed.report().pruned, 40);
    assert_eq!(bed.files(".jsonl").len(), 2);
    bed.run(40..41).await;
    assert_eq!(bed.verdict(), Verdict::Ok { events: 1, chains: 3 });
}

#[tokio::test]
async fn retention_that_was_killed_half_way_is_ended_by_the_next_run() {
    let bed = Bed::new();
    let sink = bed.rolling_at(600);
    for n in 0..20 {
        let _proof = sink.append(&[event(n)]).await.unwrap();
    }
    sink.close(1).await.unwrap();
    let before: Vec<_> = bed.files(".jsonl").into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    prune(&bed, 1_800_000_015).unwrap();
    let after = bed.files(".jsonl");
    // Its cut is in place, and what the cut stands for is still there, but for the first of it.
    for (path, bytes) in before.iter().skip(2).filter(|(path, _)| !after.contains(path)) {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(bed.verdict().as_str(), "ok");
    assert_eq!(prune(&bed, 1_800_000_015).unwrap(), Pruned::default());
    assert_eq!(bed.files(".jsonl"), after);
}

#[tokio::test]
async fn p41_retention_does_not_cover_tampering_up() {
    let bed = Bed::new();
    bed.run(0..3).await;
    bed.run(3..5).await;
    let path = &bed.files(".jsonl")[0];
    let text = fs::read_to_string(path).unwrap().replace("local:1000", "local:1001");
    fs::write(path, text).unwrap();
    assert!(matches!(prune(&bed, 1_900_000_000), Err(AuditError::Tampered { .. })));
    assert_eq!(bed.files(".jsonl").len(), 2);
    // And whoever has no audit key takes nothing out unseen.
    let bed = Bed::new();
    bed.run(0..3).await;
    let stranger = SigningKey::from_seed(&[9; 32]).unwrap();
    let (_, of) = keys();
    let range = (UnixTime(1_900_000_000), UnixTime(1_900_000_000));
    Pruner { key: &stranger, of: &of }.prune(&bed.path(), range, |_, _| false).unwrap();
    assert!(bed.report().findings.iter().any(|finding| finding.as_str() == "bad_signature"));
    assert_eq!(bed.verdict().as_str(), "removed");
}

/// What a follower brings until it has everything.
fn follow(follower: &mut Follower) -> HashMap<Source, Vec<u8>> {
    let mut all: HashMap<Source, Vec<u8>> = HashMap::new();
    loop {
        let chunks = follower.look().unwrap();
        if chunks.is_empty() {
            return all;
        }
        for chunk in chunks {
            follower.taken(&chunk).unwrap();
            all.entry(chunk.source).or_default().extend(chunk.bytes);
        }
    }
}

#[tokio::test]
async fn a_follower_brings_every_line_once_in_order_and_goes_on_where_it_was() {
    let bed = Bed::new();
    bed.run(0..3).await;
    let live = bed.rolling_at(600);
    for n in 3..20 {
        let _proof = live.append(&[event(n)]).await.unwrap();
    }
    let mut follower = Follower::open(&bed.path(), "copy").unwrap().unwrap();
    assert!(Follower::open(&bed.path(), "copy").unwrap().is_none(), "one at a time");
    let mut first = follow(&mut follower);
    assert_eq!(follower.behind().unwrap(), 0);
    drop(follower);
    for n in 20..40 {
        let _proof = live.append(&[event(n)]).await.unwrap();
    }
    live.close(1).await.unwrap();
    let missing = not_copied(&bed.path(), "copy").unwrap();
    assert!(missing(live.writer(), 9) && !missing(live.writer(), 0));
    let mut follower = Follower::open(&bed.path(), "copy").unwrap().unwrap();
    assert!(follower.behind().unwrap() > 0);
    for (source, bytes) in follow(&mut follower) {
        first.entry(source).or_default().extend(bytes);
    }
    assert_eq!(first[&Source::Notes], fs::read(bed.path().join("notes")).unwrap());
    for path in bed.files(".jsonl") {
        let name = path.file_stem().unwrap().to_str().unwrap().split_once('-').unwrap();
        let source = Source::Segment(name.0.parse().unwrap(), name.1.parse().unwrap());
        assert_eq!(first[&source], fs::read(&path).unwrap(), "{path:?}");
    }
    // Retention and its cuts bring nothing anew.
    prune(&bed, 1_900_000_000).unwrap();
    assert!(follower.look().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_crash_left_behind_the_last_line_keeps_no_copy_waiting() {
    let bed = Bed::new();
    let killed = bed.killed(0..3).await;
    append_to(&bed.path().join(format!("{killed}-000000.open")), b"{\"torn");
    let mut follower = Follower::open(&bed.path(), "copy").unwrap().unwrap();
    // The next process anchors the dead one's chain.
    bed.run(3..5).await;
    assert!(not_copied(&bed.path(), "copy").unwrap()(killed, 0));
    follow(&mut follower);
    assert_eq!(follower.behind().unwrap(), 0);
    assert!(!not_copied(&bed.path(), "copy").unwrap()(killed, 0));
}
