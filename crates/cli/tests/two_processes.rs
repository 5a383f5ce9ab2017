//! Several processes work in one data folder at once, and nobody sees an error.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]
#![allow(clippy::print_stdout, reason = "how much happened belongs to the result")]

mod common;

use common::deployment::{Deployment, doc, key, scaled};

#[test]
fn one_process_imports_10_000_records_while_another_rotates_again_and_again() {
    let deployment = Deployment::new();
    // Something to rotate from the beginning on.
    let (before, records) = (scaled(1_000), scaled(10_000));
    let docs: Vec<_> = (0..before + records).map(|i| doc(i, 0)).collect();
    deployment.import(&docs[..before], "");

    let import = deployment.call("records import apps").stdin(docs[before..].join("\n"));
    let rotations = std::thread::scope(|scope| {
        let import = scope.spawn(|| import.run());
        let mut rotations = 0;
        while !import.is_finished() || rotations < 3 {
            deployment.new_key();
            let rotated = deployment.call("rotate").run();
            assert_eq!((rotated.code, &*rotated.stderr), (0, ""));
            rotations += 1;
        }
        let imported = import.join().unwrap();
        assert_eq!((imported.code, &*imported.stderr), (0, ""));
        assert_eq!(imported.text(), format!("apps: {records} created, 0 replaced, 0 skipped"));
        rotations
    });
    println!("{rotations} rotations");
    let kid = deployment.new_key();
    deployment.call("rotate").run().text();
    deployment.call("verify").run().text();
    assert_eq!(deployment.census().into_iter().collect::<Vec<_>>(), [(kid, docs.len() as u64 * 3)]);
    assert!(deployment.contents() == docs.iter().enumerate().map(|(i, doc)| (key(i), doc.clone())).collect());
    assert_eq!(deployment.audit_verdict(), "ok");
}

#[test]
fn two_jobs_on_one_collection_wait_for_each_other_and_both_end_well() {
    let deployment = Deployment::new();
    let docs: Vec<_> = (0..scaled(10_000)).map(|i| doc(i, 0)).collect();
    deployment.import(&docs, "");
    let kid = deployment.new_key();
    std::thread::scope(|scope| {
        let jobs = ["rotate --reseal", "rotate", "migrate", "verify"].map(|job| {
            let call = deployment.call(job);
            scope.spawn(move || (job, call.run()))
        });
        for job in jobs {
            let (job, ended) = job.join().unwrap();
            assert_eq!((ended.code, &*ended.stderr), (0, ""), "{job}");
        }
    });
    assert_eq!(deployment.census().into_keys().collect::<Vec<_>>(), [kid]);
    assert_eq!(deployment.contents().len(), docs.len());
    assert_eq!(deployment.audit_verdict(), "ok");
}

#[test]
fn twenty_processes_that_start_at_once_in_a_new_folder_all_store_their_record() {
    let deployment = Deployment::new();
    std::thread::scope(|scope| {
        for i in 0..20 {
            let call = deployment.call("records put apps").arg(key(i)).stdin(doc(i, 0));
            scope.spawn(move || {
                let ended = call.run();
                assert_eq!((ended.code, &*ended.stderr), (0, ""));
            });
        }
    });
    assert_eq!(deployment.contents(), (0..20).map(|i| (key(i), doc(i, 0))).collect());
    assert!(deployment.processes().is_empty());
    assert_eq!(deployment.audit_verdict(), "ok");
}
