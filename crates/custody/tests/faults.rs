//! Killed at every write in turn, overtaken by writers, kept from its files: what the jobs and the keys promise.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use common::{Process, SOON, copy, docs, folder, fuse::Fuse, incoming, init, permit};
use keyfold_core::{
    audit::{Action, Event},
    envelope::Format,
    id::KeyId,
    keyring::{Purpose, State},
    rewrap::How,
};
use keyfold_custody::{
    jobs::{Job, Kind},
    keys::Copies,
    records::{Intake, prepare_batch},
    store::{OnExisting, RecordKey, RecordStore},
};

const RECORDS: usize = 10;

fn job(kind: Kind) -> Job {
    Job { batch: 4, ..Job::new(kind) }
}

async fn new_key(process: &Process) -> KeyId {
    let kid = process.custody.create_key(&permit(), &[Format::Kf1, Format::V1]).await.unwrap();
    process.custody.promote_key(&permit(), kid, SOON).await.unwrap();
    kid
}

async fn stored(process: &Process) -> BTreeMap<RecordKey, String> {
    let mut stored = BTreeMap::new();
    for key in docs(RECORDS, 0).into_keys() {
        let record = process.store.read(&process.collection().id, &key).await.unwrap().unwrap();
        stored.insert(key, record.cells[0].value.as_str().unwrap().to_owned());
    }
    stored
}

/// Whatever was changed was announced before.
fn announced(events: &[Event], before: &BTreeMap<RecordKey, String>, after: &BTreeMap<RecordKey, String>) {
    let batches: Vec<_> = events
        .iter()
        .filter(|event| event.result.is_none() && matches!(event.action, Action::MigrateBatch | Action::RotateBatch))
        .map(|event| (event.first.as_ref().unwrap().to_string(), event.last.as_ref().unwrap().to_string()))
        .collect();
    for (key, _) in after.iter().filter(|(key, text)| before[key] != **text) {
        let covered = batches.iter().any(|(first, last)| &**first <= key.as_str() && key.as_str() <= &**last);
        assert!(covered, "{key} was changed without an intent");
    }
}

/// Kills a job at every write in turn, both before the write and just after it, and lets another process finish.
async fn kill_at_every_write(prepared: &Path, job: Job, format: Format) {
    let expected = docs(RECORDS, 0);
    for reached in [false, true] {
        for n in 1.. {
            let place = folder();
            copy(prepared, place.path());
            let fuse = Fuse::at(n, reached);
            if let Some(process) = Process::start(place.path(), &fuse).await {
                let before = stored(&process).await;
                process.run(&job).await;
                announced(&process.log.events(), &before, &stored(&process).await);
                process.drop().await;
            }

            let next = Process::after_the_others(place.path()).await;
            next.opens(&expected).await;
            next.run(&job).await.unwrap();
            next.opens(&expected).await;
            let census = next.custody.census().await.unwrap();
            let primary = next.custody.keys.opening().primary(format).unwrap().kid();
            assert_eq!(census.values.len(), 1, "{:?}", census.values);
            assert_eq!((census.values[0].format, census.values[0].kid), (format.as_str(), primary));
            next.drop().await;
            if !fuse.is_blown() {
                assert!(fuse.writes() > 12, "only {} writes: is the fuse where the writes are?", fuse.writes());
                break;
            }
        }
    }
}

async fn prepared(intake: Intake, to: Option<Format>, key: bool) -> tempfile::TempDir {
    let place = folder();
    init(place.path()).await;
    let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
    process.import(&docs(RECORDS, 0), intake).await;
    if to.is_some() {
        process.run(&Job { to, ..job(Kind::Migrate) }).await.unwrap();
    }
    if key {
        new_key(&process).await;
    }
    process.custody.close().await.unwrap();
    process.drop().await;
    place
}

#[tokio::test]
async fn p03_a_migration_killed_at_every_write_in_turn_leaves_everything_open_and_a_rerun_finishes() {
    let plain = prepared(Intake::AsIs, None, false).await;
    kill_at_every_write(plain.path(), job(Kind::Migrate), Format::Kf1).await;
}

#[tokio::test]
async fn p03_a_change_of_format_killed_at_every_write_in_turn_loses_nothing() {
    let sealed = prepared(Intake::Seal, None, true).await;
    kill_at_every_write(sealed.path(), Job { to: Some(Format::V1), ..job(Kind::Migrate) }, Format::V1).await;
}

#[tokio::test]
async fn p03_a_rotation_killed_at_every_write_in_turn_loses_nothing() {
    let sealed = prepared(Intake::Seal, None, true).await;
    kill_at_every_write(sealed.path(), job(Kind::Rotate), Format::Kf1).await;
}

#[tokio::test]
async fn p03_a_rotation_of_v1_values_killed_at_every_write_in_turn_loses_nothing() {
    let sealed = prepared(Intake::Seal, Some(Format::V1), true).await;
    kill_at_every_write(sealed.path(), job(Kind::Rotate), Format::V1).await;
}

#[tokio::test]
async fn p03_a_reseal_killed_at_every_write_in_turn_loses_nothing() {
    let sealed = prepared(Intake::Seal, None, true).await;
    kill_at_every_write(sealed.path(), Job { how: How::Reseal, ..job(Kind::Rotate) }, Format::Kf1).await;
}

/// One step in the life of a key; `None` where it was killed.
async fn step(process: &Process, to: Option<State>, kid: KeyId) -> Option<()> {
    let custody = &process.custody;
    let done = match to {
        Some(State::Primary) => custody.promote_key(&permit(), kid, SOON).await,
        Some(State::Retired) => custody.retire_key(&permit(), kid, SOON).await.map(drop),
        None => custody.destroy_key(&permit(), kid, std::time::Duration::ZERO).await,
        Some(_) => custody.create_key(&permit(), &[Format::Kf1, Format::V1]).await.map(drop),
    };
    done.map_err(|error| assert!(process.fused.fuse().is_blown(), "{error}")).ok()
}

#[tokio::test]
async fn p03_p13_keys_change_killed_at_every_write_in_turn_and_the_copy_is_there_before_anything_is_sealed() {
    let sealed = prepared(Intake::Seal, None, false).await;
    let expected = docs(RECORDS, 0);
    let first = Process::start(sealed.path(), &Fuse::never()).await.unwrap();
    let old = first.custody.keys.opening().primary_of(Purpose::Master).unwrap().kid();
    first.custody.close().await.unwrap();
    first.drop().await;

    for to in [Some(State::Staged), Some(State::Primary), Some(State::Retired), None] {
        for reached in [false, true] {
            for n in 1.. {
                let place = folder();
                copy(sealed.path(), place.path());
                let fuse = Fuse::at(n, reached);
                if let Some(process) = Process::start(place.path(), &fuse).await {
                    step(&process, to, subject(&process, to, old)).await;
                    process.drop().await;
                }

                let next = Process::after_the_others(place.path()).await;
                let generation = next.custody.keys.opening().generation();
                assert_eq!(Copies::in_folder(place.path()).seen().unwrap(), generation);
                next.import(&docs(1, 0), Intake::Seal).await;
                next.opens(&expected).await;
                // Done again where it was not done; refused, and harmless, where it was.
                let _ = step_again(&next, to, old).await;
                next.opens(&expected).await;
                next.drop().await;
                if !fuse.is_blown() {
                    break;
                }
            }
        }
        let process = Process::after_the_others(sealed.path()).await;
        step(&process, to, subject(&process, to, old)).await.unwrap();
        if to == Some(State::Primary) {
            process.run(&job(Kind::Rotate)).await.unwrap();
        }
        process.custody.close().await.unwrap();
        process.drop().await;
    }
}

/// Which key a step is about: the staged one is promoted, the old one goes.
fn subject(process: &Process, to: Option<State>, old: KeyId) -> KeyId {
    let keyring = process.custody.keys.opening();
    let staged = keyring.entries().iter().find(|entry| entry.state() == State::Staged);
    match to {
        Some(State::Primary) => staged.map_or(old, keyfold_core::keyring::Entry::kid),
        _ => old,
    }
}

async fn step_again(process: &Process, to: Option<State>, old: KeyId) -> Option<()> {
    let kid = subject(process, to, old);
    let keyring = process.custody.keys.opening();
    let state = keyring.entry(kid).map(keyfold_core::keyring::Entry::state);
    let done = match to {
        Some(State::Primary) => kid == old,
        Some(State::Retired) => state == Some(State::Retired),
        None => state.is_none(),
        Some(_) => false,
    };
    if done { None } else { step(process, to, kid).await }
}

#[tokio::test]
async fn p13_a_process_that_cannot_copy_the_keyring_to_its_folder_goes_on_under_the_former_key() {
    let place = prepared(Intake::Seal, None, false).await;
    let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
    let custody = &process.custody;
    let old = custody.keys.opening().primary_of(Purpose::Master).unwrap().kid();
    let new = custody.create_key(&permit(), &[Format::Kf1, Format::V1]).await.unwrap();
    let lock = place.path().join("keyring.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    // The promotion reaches the store, and the folder does not take its copy.
    assert!(custody.promote_key(&permit(), new, SOON).await.is_err());
    assert!(custody.keys.look().await.is_err());
    assert_eq!(custody.keys.opening().primary_of(Purpose::Master).unwrap().kid(), old);

    fs::remove_dir(&lock).unwrap();
    custody.keys.look().await.unwrap();
    assert_eq!(custody.keys.opening().primary_of(Purpose::Master).unwrap().kid(), new);
    assert_eq!(Copies::in_folder(place.path()).seen().unwrap(), custody.keys.opening().generation());
    process.opens(&docs(RECORDS, 0)).await;
    process.drop().await;
}

#[tokio::test]
async fn p14_a_writer_between_a_jobs_read_and_its_write_wins_and_the_job_comes_again() {
    for (how, to) in [(How::Rewrap, None), (How::Reseal, None), (How::Rewrap, Some(Format::V1))] {
        let place = prepared(Intake::Seal, None, false).await;
        let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
        let writer = Process::start(place.path(), &Fuse::never()).await.unwrap();
        // Sealed under the former key, and stored while the job holds what it read.
        let former = writer.custody.keys.opening();
        let newer: BTreeMap<_, _> = docs(RECORDS, 1).into_iter().skip(1).step_by(3).collect();
        let batch =
            prepare_batch(Arc::clone(&former), writer.collection(), incoming(&newer), Intake::Seal, common::NOW);
        drop(former);
        writer.custody.keys.close().await.unwrap();
        let kid = new_key(&process).await;
        let collection = process.collection().clone();
        *process.fused.meanwhile.lock().unwrap() = Some(Box::pin(async move {
            let stored = writer.custody.store_batch(&permit(), &collection, batch.unwrap(), OnExisting::Replace).await;
            assert_eq!(stored.unwrap().len(), 3);
            writer.drop().await;
        }));

        let summary = process.run(&Job { how, to, ..job(Kind::Rotate) }).await.unwrap();
        assert!(summary.overtaken >= 1 && summary.passes >= 2, "{summary:?}");
        let mut expected = docs(RECORDS, 0);
        expected.extend(newer);
        process.opens(&expected).await;
        let census = process.custody.census().await.unwrap();
        assert_eq!(census.values.iter().map(|line| line.kid).collect::<Vec<_>>(), [kid]);
        process.drop().await;
    }
}

#[tokio::test]
async fn p14_a_record_that_a_writer_adds_behind_a_job_under_a_former_key_is_found_by_another_pass() {
    for how in [How::Rewrap, How::Reseal] {
        let place = prepared(Intake::Seal, None, false).await;
        let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
        let writer = Process::start(place.path(), &Fuse::never()).await.unwrap();
        let former = writer.custody.keys.opening();
        let behind = BTreeMap::from([(RecordKey::new("a").unwrap(), docs(1, 7).into_values().next().unwrap())]);
        let batch =
            prepare_batch(Arc::clone(&former), writer.collection(), incoming(&behind), Intake::Seal, common::NOW);
        drop(former);
        writer.custody.keys.close().await.unwrap();
        let kid = new_key(&process).await;
        let collection = process.collection().clone();
        *process.fused.meanwhile.lock().unwrap() = Some(Box::pin(async move {
            let stored = writer.custody.store_batch(&permit(), &collection, batch.unwrap(), OnExisting::Fail).await;
            assert_eq!(stored.unwrap().len(), 1);
            writer.drop().await;
        }));

        let summary = process.run(&Job { how, ..job(Kind::Rotate) }).await.unwrap();
        assert_eq!((summary.overtaken, summary.passes), (0, 2), "{summary:?}");
        let mut expected = docs(RECORDS, 0);
        expected.extend(behind);
        process.opens(&expected).await;
        let census = process.custody.census().await.unwrap();
        assert_eq!(census.values.iter().map(|line| line.kid).collect::<Vec<_>>(), [kid]);
        process.drop().await;
    }
}

#[tokio::test]
async fn a_job_that_was_alone_goes_through_the_store_once_and_says_how_it_left_it() {
    for how in [How::Rewrap, How::Reseal] {
        let place = prepared(Intake::Seal, None, false).await;
        let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
        let kid = new_key(&process).await;
        let summary = process.run(&Job { how, ..job(Kind::Rotate) }).await.unwrap();
        assert_eq!((summary.passes, summary.changed), (1, RECORDS as u64));
        let found: Vec<_> = summary.found.iter().map(|line| (line.kid, line.values)).collect();
        assert_eq!(found, [(Some(kid), 2 * RECORDS as u64)]);
        process.opens(&docs(RECORDS, 0)).await;
        process.drop().await;
    }
}

#[tokio::test]
async fn a_pass_during_which_the_store_moved_its_parts_does_not_count() {
    let place = prepared(Intake::Seal, None, true).await;
    let process = Process::start(place.path(), &Fuse::never()).await.unwrap();
    for (job, moves, scans) in [
        (job(Kind::Verify), 0, 1),
        (job(Kind::Verify), 2, 2),
        (Job { dry_run: true, ..job(Kind::Rotate) }, 4, 3),
        (job(Kind::Rotate), 2, 2),
    ] {
        process.fused.scans.store(0, Ordering::SeqCst);
        process.fused.moves.store(moves, Ordering::SeqCst);
        let summary = process.run(&job).await.unwrap();
        assert_eq!(summary.records, RECORDS as u64, "{job:?}");
        assert_eq!(process.fused.scans.load(Ordering::SeqCst), scans, "{job:?}");
    }
    process.opens(&docs(RECORDS, 0)).await;
    process.drop().await;
}
