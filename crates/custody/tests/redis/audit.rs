//! The audit log in Redis Streams.

use keyfold_core::error::Hint as _;
use keyfold_custody::{
    audit_log::{AuditSink as _, Stored, conformance},
    store::{StoreError, redis},
};

use crate::{
    foreign::Raw,
    servers::redis::Redis,
    suite::{Bench, old_events_go_and_what_is_left_verifies, several_writers_are_anchored_and_told_in_order},
};

const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn stored(server: &Redis) -> Result<Stored, StoreError> {
    redis::audit(&server.address.parse().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_conforms() {
    let Some(server) = Redis::single(&SAFE) else { return };
    let raw = Raw::to(&server).await;
    let place = stored(&server).await.unwrap();
    conformance::suite(|| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(raw.run(&[b"FLUSHALL"])));
        Bench::on(place.clone())
    })
    .await;
    raw.run(&[b"FLUSHALL"]).await;
    several_writers_are_anchored_and_told_in_order(&Bench::on(place.clone())).await;
    raw.run(&[b"FLUSHALL"]).await;
    old_events_go_and_what_is_left_verifies(&Bench::on(place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_checkpoint_that_was_taken_away_is_named_and_keeps_no_other_back() {
    const NOTES: &[u8] = b"{keyfold-audit}:notes";
    let Some(server) = Redis::single(&SAFE) else { return };
    let raw = Raw::to(&server).await;
    // Of the last one there is no trace in the others, which say all that it said.
    for (gone, verdict) in [("1-1", "note_chain_broken"), ("1-2", "note_chain_broken"), ("1-3", "ok")] {
        raw.run(&[b"FLUSHALL"]).await;
        let bench = Bench::on(stored(&server).await.unwrap());
        let sink = bench.writer();
        for n in 0..5 {
            let _proof = sink.append(&[conformance::event(n)]).await.unwrap();
            sink.checkpoint(1).await.unwrap();
            if n == 2 {
                raw.run(&[b"XDEL", NOTES, gone.as_bytes()]).await;
                assert_ne!(bench.verdict().await.0, "ok", "{gone}");
            }
        }
        assert_eq!(bench.verdict().await, (verdict, 5, 4), "{gone}");
        sink.close(1).await.unwrap();
    }
    let bench = Bench::on(stored(&server).await.unwrap());
    raw.run(&[b"DEL", NOTES]).await;
    // The first one's id is taken.
    let (_, next) = (bench.writer(), bench.writer());
    let _proof = next.append(&[conformance::event(9)]).await.unwrap();
    next.close(1).await.unwrap();
    assert_eq!(bench.verdict().await, ("unanchored", 6, 1));
}

#[tokio::test]
async fn p40_a_server_that_answers_before_it_flushed_is_refused_with_the_setting_to_change() {
    for (arguments, setting) in [
        (&["--appendonly", "yes"][..], "appendfsync always"),
        (&["--appendonly", "no", "--appendfsync", "always"], "appendonly yes"),
        (&[&SAFE[..], &["--no-appendfsync-on-rewrite", "yes"]].concat(), "no-appendfsync-on-rewrite no"),
    ] {
        let Some(server) = Redis::single(arguments) else { return };
        let error = stored(&server).await.err().unwrap();
        assert!(matches!(error, StoreError::Unsuitable { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(setting), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_server_that_stops_flushing_is_found_out_by_the_next_checkpoint_and_after_a_restart_at_once() {
    let Some(mut server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "everysec"]) else { return };
    server.servers[0].configure("appendfsync", "always");
    let bench = Bench::on(stored(&server).await.unwrap());
    let sink = bench.writer();
    let _proof = sink.append(&[conformance::event(1)]).await.unwrap();
    server.servers[0].configure("appendfsync", "everysec");
    let error = sink.checkpoint(1).await.unwrap_err();
    assert!(error.to_string().contains("appendfsync"), "{error}");
    assert!(sink.append(&[conformance::event(2)]).await.is_err());
    server.servers[0].configure("appendfsync", "always");
    let _proof = sink.append(&[conformance::event(3)]).await.unwrap();
    sink.checkpoint(1).await.unwrap();
    // Another server is behind the address now: it flushes each second, as its arguments say.
    server.servers[0].restart();
    for _ in 0..3 {
        assert!(sink.append(&[conformance::event(4)]).await.is_err());
    }
    server.servers[0].configure("appendfsync", "always");
    let _proof = sink.append(&[conformance::event(5)]).await.unwrap();
    sink.close(1).await.unwrap();
    assert_eq!(bench.events().await, [1, 3, 5].map(conformance::event));
    assert_eq!(bench.verdict().await.0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_server_that_is_gone_fails_the_call_and_the_chain_goes_on_when_it_is_back() {
    let Some(mut server) = Redis::single(&SAFE) else { return };
    let bench = Bench::on(stored(&server).await.unwrap());
    let sink = bench.writer();
    let _proof = sink.append(&[conformance::event(1)]).await.unwrap();
    server.servers[0].kill();
    assert!(sink.append(&[conformance::event(2)]).await.is_err());
    let outcome =
        conformance::event(1).outcome(keyfold_core::clock::UnixTime(1_800_000_009), keyfold_core::audit::Word::done());
    assert!(sink.append_outcome(std::slice::from_ref(&outcome)).await.is_err());
    server.servers[0].restart();
    // What was refused may stand there all the same; what was taken stands there once.
    let mut again = sink.append(&[conformance::event(3)]).await;
    for _ in 0..100 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        again = sink.append(&[conformance::event(3)]).await;
    }
    let _proof = again.unwrap();
    sink.close(1).await.unwrap();
    let events = bench.events().await;
    assert_eq!(events[0], conformance::event(1));
    let times = |wanted: &keyfold_core::audit::Event| events.iter().filter(|event| *event == wanted).count();
    assert_eq!(times(&conformance::event(1)), 1, "{events:?}");
    assert_eq!(times(&outcome), 1, "{events:?}");
    assert!(times(&conformance::event(3)) >= 1, "{events:?}");
    assert_eq!(bench.verdict().await.0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_chain_whose_process_died_is_anchored_by_the_next_and_a_changed_line_is_named() {
    let Some(server) = Redis::single(&SAFE) else { return };
    let raw = Raw::to(&server).await;
    let bench = Bench::on(stored(&server).await.unwrap());
    let dead = bench.writer();
    let _proof = dead.append(&[conformance::event(1), conformance::event(2)]).await.unwrap();
    let id = dead.writer();
    drop(dead);
    // Five minutes pass without a word of it.
    raw.run(&[b"ZADD", b"{keyfold-audit}:open", b"1", id.to_string().as_bytes()]).await;
    let next = bench.writer();
    let _proof = next.append(&[conformance::event(3)]).await.unwrap();
    next.close(1).await.unwrap();
    assert_eq!(bench.verdict().await, ("ok", 3, 2));
    let lines = format!("{{keyfold-audit}}:lines:{id}");
    raw.run(&[b"XDEL", lines.as_bytes(), b"1-3"]).await;
    assert_ne!(bench.verdict().await.0, "ok");
}
