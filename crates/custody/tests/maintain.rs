//! Rotation by the clock, while another process writes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a step that fails ends the test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{NOW, Process, docs, folder, fuse::Fuse, init, permit};
use keyfold_core::{
    clock::{Clock, UnixTime},
    envelope::Format,
    keyring::Purpose,
    secret::Secret,
};
use keyfold_custody::{
    auditor::Auditor,
    jobs::Silent,
    keys::maintain::{Inline, Schedule, Step},
    records::Intake,
    store::Expect,
};

/// A clock that the test turns.
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}

async fn maintained(process: &Process, schedule: Schedule) -> Vec<Step> {
    let mover = Inline { custody: &process.custody, permit: permit(), observer: &Silent::default() };
    process.custody.maintain(&permit(), schedule, &mover).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_of_seconds_runs_three_generations_while_a_writer_is_active() {
    let folder = folder();
    init(folder.path()).await;
    let mut process = Process::after_the_others(folder.path()).await;
    let hands = Arc::new(Hands(AtomicU64::new(NOW.0)));
    process.custody.auditor = Auditor::new(Arc::clone(&process.log) as _, Arc::clone(&hands) as _);
    let writer = Process::start(folder.path(), &Fuse::never()).await.unwrap();
    let following = tokio::spawn(Arc::clone(&writer.custody.keys).follow());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let mut version = 0;
        loop {
            version += 1;
            writer.import(&docs(20, version), Intake::Seal).await;
            if stopped.load(Ordering::SeqCst) {
                return (writer, version);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let schedule = Schedule { period: Duration::from_secs(10), wait: Duration::from_secs(5) };
    let primary = |process: &Process| process.custody.keys.opening().primary_of(Purpose::Master).unwrap().kid();
    let quiet = maintained(&process, schedule).await;
    assert!(quiet.is_empty(), "nothing is due yet: {quiet:?}");
    for _ in 0..3 {
        let former = primary(&process);
        hands.0.fetch_add(11, Ordering::SeqCst);
        let mut steps = Vec::new();
        // A writer may be in between: what waits is tried again, as the command does.
        for _ in 0..50 {
            steps.extend(maintained(&process, schedule).await);
            if steps.contains(&Step::Retired { kid: former }) {
                break;
            }
        }
        let made = primary(&process);
        assert_ne!(made, former);
        assert!(steps.contains(&Step::Created { kid: made }) && steps.contains(&Step::Promoted { kid: made }));
        assert!(steps.contains(&Step::Retired { kid: former }), "{steps:?}");
    }
    stop.store(true, Ordering::SeqCst);
    let (writer, version) = writing.await.unwrap();
    following.abort();
    writer.drop().await;
    process.opens(&docs(20, version)).await;
    let census = process.custody.census().await.unwrap();
    assert_eq!(census.under(primary(&process)), 40);
    process.drop().await;
}

#[tokio::test]
async fn one_process_at_a_time_rotates_by_the_clock() {
    let folder = folder();
    init(folder.path()).await;
    let process = Process::after_the_others(folder.path()).await;
    let system = &process.custody.system;
    let schedule = Schedule { period: Duration::from_secs(10), wait: Duration::from_secs(1) };
    system.put("rotation/lease", b"another", Expect::Absent, Some(Duration::from_secs(60))).await.unwrap();
    let steps = maintained(&process, schedule).await;
    assert!(matches!(&steps[..], [Step::Waiting { message, .. }] if message.contains("another process")), "{steps:?}");
    system.delete("rotation/lease", Expect::Any).await.unwrap();
    assert!(maintained(&process, schedule).await.is_empty());
    assert!(system.get("rotation/lease").await.unwrap().is_none(), "it was given back");
    process.drop().await;
}

#[tokio::test]
async fn a_secret_of_the_deployment_is_made_once_and_follows_its_keys() {
    let folder = folder();
    init(folder.path()).await;
    let process = Process::after_the_others(folder.path()).await;
    let made = |text: &'static str| move || Ok(Secret::from(text.as_bytes()));
    let first = process.custody.own_secret("test", made("first")).await.unwrap();
    let again = process.custody.own_secret("test", made("second")).await.unwrap();
    let other = process.custody.own_secret("other", made("second")).await.unwrap();
    assert_eq!((first.expose(), again.expose(), other.expose()), (&b"first"[..], &b"first"[..], &b"second"[..]));
    let stored = process.custody.system.get("own/test").await.unwrap().unwrap();
    assert!(stored.value.starts_with(b"kf1."), "it is sealed");

    let former = process.custody.keys.opening().primary_of(Purpose::Master).unwrap().kid();
    assert_eq!(process.custody.census().await.unwrap().under(former), 2);
    let (permit, wait) = (permit(), Duration::from_secs(5));
    let kid = process.custody.create_key(&permit, &[Format::Kf1, Format::V1]).await.unwrap();
    process.custody.promote_key(&permit, kid, wait).await.unwrap();
    process.custody.retire_key(&permit, former, wait).await.unwrap();
    assert_eq!(process.custody.census().await.unwrap().under(kid), 2);
    let still = process.custody.own_secret("test", made("third")).await.unwrap();
    assert_eq!(still.expose(), b"first");

    // Moved to another's place it does not open, and nothing new takes its place.
    let stored = process.custody.system.get("own/test").await.unwrap().unwrap();
    process.custody.system.put("own/other", &stored.value, Expect::Any, None).await.unwrap();
    assert!(process.custody.own_secret("other", made("fourth")).await.is_err());
    process.custody.system.put("own/other", b"plain", Expect::Any, None).await.unwrap();
    assert!(process.custody.own_secret("other", made("fourth")).await.is_err());
    process.drop().await;
}
