//! Jobs whose server ends, or whose slots move, while they run.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use keyfold_custody::{
    config::Config,
    jobs::{Ended, Job, Kind, Silent, Summary},
    store::redis::RedisStore,
};

use crate::{
    common::{self, Process, permit},
    faults::Mover,
    foreign::{Raw, command},
    servers::redis::Redis,
};

const CONFIG: &str = r#"
[collections.apps]
layout = "redis-hash-json"
store = "env:UNUSED"
keys = "app:*"
field = "data"
fields = ["/token"]
accept = ["kf1", { format = "plaintext", until = 2999-12-31 }]
"#;

async fn process(folder: &std::path::Path, redis: &Redis) -> Process {
    common::init(folder).await;
    let mut process = Process::after_the_others(folder).await;
    process.custody.config = Config::parse(CONFIG).unwrap();
    let apps = process.custody.collection("apps").unwrap();
    let (id, layout) = (apps.id.clone(), apps.layout.clone());
    let store = RedisStore::connect(&redis.address.parse().unwrap(), [(id.clone(), layout)].into()).await.unwrap();
    process.custody.foreign.insert(id, Arc::new(store));
    process
}

async fn seed(raw: &Raw, names: impl Iterator<Item = String>) {
    for name in names {
        let data = format!("{{\"name\": \"{name}\",  \"token\":\"hunter2-{name}\", \"ratio\":1e3}}");
        raw.run(&[b"HSET", format!("app:{name}").as_bytes(), b"data", data.as_bytes(), b"other", b"o"]).await;
    }
}

async fn done(process: &Process, job: &Job) -> Result<Summary, keyfold_custody::error::CustodyError> {
    match process.custody.run(&permit(), job, process.collection(), &Silent::default()).await? {
        Ended::Done(summary) => Ok(summary),
        Ended::Stopped(_) => panic!("nobody stopped it"),
    }
}

/// Every record is there, sealed, opens to what it was, and has what it had beside.
async fn all_is_well(process: &Process, raw: &Raw, names: impl Iterator<Item = String>) {
    let mut count = 0;
    for name in names {
        count += 1;
        let held: Vec<Option<String>> =
            raw.ask(&command(&[b"HMGET", format!("app:{name}").as_bytes(), b"data", b"other"])).await;
        let data = held[0].as_ref().unwrap();
        assert!(data.contains("kf1") && !data.contains("hunter2"), "{name}: {data}");
        let start = format!("{{\"name\": \"{name}\",  \"token\":\"");
        assert!(data.starts_with(&start) && data.ends_with("\", \"ratio\":1e3}") && held[1].as_deref() == Some("o"));
    }
    let verified = done(process, &Job::new(Kind::Verify)).await.unwrap();
    assert!(verified.is_clean(), "{:?}", verified.quarantined);
    assert_eq!((verified.records, verified.values), (count, count));
}

fn slowly() -> Job {
    Job { batch: 20, rate: NonZeroU32::new(1600), ..Job::new(Kind::Migrate) }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_slot_that_moves_during_a_job_makes_it_look_again_and_nothing_is_missed() {
    let Some(redis) = Redis::cluster() else { return };
    let raw = Raw::to(&redis).await;
    let names = || (0..900).map(|n| if n % 3 == 0 { format!("{{moved}}{n}") } else { n.to_string() });
    seed(&raw, names()).await;
    let folder = common::folder();
    let process = process(folder.path(), &redis).await;
    let mut mover = Mover::new(&redis, b"{moved}").await;
    let moving = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        mover.begin().await;
        while mover.some().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        mover.end().await;
    });
    let migrated = done(&process, &slowly()).await.unwrap();
    assert!(moving.is_finished(), "a job beside a moving slot is not done");
    moving.await.unwrap();
    assert!(migrated.is_clean() && migrated.records == 900, "{migrated:?}");
    all_is_well(&process, &raw, names()).await;
    let again = done(&process, &Job::new(Kind::Migrate)).await.unwrap();
    assert_eq!((again.changed, again.records), (0, 900));
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_server_restarted_during_a_job_costs_a_rerun_and_no_record() {
    let Some(mut redis) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let names = || (0..1000).map(|n| n.to_string());
    seed(&Raw::to(&redis).await, names()).await;
    let folder = common::folder();
    let process = process(folder.path(), &redis).await;
    let (mut broken, mut changed) = (0, 0);
    for round in 0..60_u64 {
        let restart = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(20 + 60 * round));
            redis.servers[0].kill();
            redis.servers[0].restart();
            redis
        });
        let ended = done(&process, &slowly()).await;
        redis = restart.await.unwrap();
        match ended {
            Ok(summary) => {
                changed = summary.records;
                break;
            }
            Err(error) => {
                assert!(error.to_string().contains("is unavailable"), "{error}");
                broken += 1;
            }
        }
    }
    assert_eq!(changed, 1000, "after {broken} restarts");
    assert!(broken > 0, "the job was faster than the restart");
    all_is_well(&process, &Raw::to(&redis).await, names()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_job_that_was_alone_looks_once_and_beside_any_other_writer_until_nothing_is_left() {
    let Some(redis) = Redis::single(&[]) else { return };
    let raw = Raw::to(&redis).await;
    let names = || (0..400).map(|n| n.to_string());
    seed(&raw, names()).await;
    let folder = common::folder();
    let process = process(folder.path(), &redis).await;
    // In the second in which a server started it cannot be said to have been alone.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let alone = done(&process, &slowly()).await.unwrap();
    assert_eq!((alone.changed, alone.passes), (400, 1));
    all_is_well(&process, &raw, names()).await;

    seed(&raw, names()).await;
    let writer = raw.clone();
    let writing = tokio::spawn(async move {
        loop {
            writer.run(&[b"INCR", b"elsewhere"]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let beside = done(&process, &slowly()).await.unwrap();
    writing.abort();
    assert_eq!((beside.changed, beside.passes), (400, 2));
    all_is_well(&process, &raw, names()).await;
}
