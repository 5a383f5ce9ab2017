use super::*;
use crate::{
    audit::{Action, Actor, Cut, Deployment, Event, EventId, Genesis, Note, SigningKey},
    clock::UnixTime,
};

const NOW: UnixTime = UnixTime(1_800_000_000);

/// A log in memory that can be tampered with.
#[derive(Clone)]
struct Log {
    chains: Vec<(WriterId, Vec<u8>, Vec<Vec<u8>>)>,
    notes: Vec<String>,
}

fn deployment() -> Deployment {
    Deployment::new("d").unwrap()
}

fn event(n: u8) -> Event {
    Event::intent(NOW, EventId([n; 8]), Actor::new("local:0").unwrap(), Action::Open)
}

/// A writer of `events` events that signs a note after each of `at`.
fn write(log: &mut Log, n: u8, events: u8, at: &[u8], roster: &[Tip]) -> Tip {
    let (root, own) = (SigningKey::from_seed(&[1; 32]).unwrap(), SigningKey::from_seed(&[n; 32]).unwrap());
    let writer = WriterId([n; 16]);
    let genesis = Genesis { deployment: deployment(), key: own.public(), predecessor: None, time: NOW, writer };
    let genesis = genesis.sign(&root);
    let mut chain = Chain::start(writer, &genesis);
    let mut lines = Vec::new();
    let mut note = |chain: &Chain, roster: &[Tip]| {
        let previous = log.notes.last().map(|note| SignedNote::hash(note));
        let roster = roster.to_vec();
        let note = Note { deployment: deployment(), tip: chain.tip(), time: NOW, generation: 1, previous, roster };
        log.notes.push(note.sign(&own));
    };
    for i in 1..=events {
        lines.push(chain.append(&event(i)).unwrap());
        if at.contains(&i) {
            note(&chain, roster);
        }
    }
    log.chains.push((writer, genesis, lines));
    chain.tip()
}

/// Two writers; the second was killed after five events and anchored by the third's note.
fn log() -> Log {
    let mut log = Log { chains: vec![], notes: vec![] };
    write(&mut log, 2, 6, &[3, 6], &[]);
    let dead = write(&mut log, 3, 5, &[], &[]);
    write(&mut log, 4, 2, &[2], &[dead]);
    log
}

fn verify(log: &Log) -> Report {
    let key = SigningKey::from_seed(&[1; 32]).unwrap().public();
    let mut verifier = Verifier::new(VerifierKey::of(&deployment(), key));
    for (writer, genesis, _) in &log.chains {
        verifier.genesis(*writer, genesis);
    }
    for note in &log.notes {
        verifier.note(note);
    }
    for (writer, genesis, lines) in &log.chains {
        let mut check = verifier.chain(*writer, genesis);
        lines.iter().for_each(|line| check.event(line));
        check.end();
    }
    verifier.finish()
}

fn tampered(how: impl FnOnce(&mut Log)) -> Report {
    let mut log = log();
    how(&mut log);
    verify(&log)
}

fn w(n: u8) -> WriterId {
    WriterId([n; 16])
}

fn replace(line: &mut Vec<u8>) {
    *line = String::from_utf8(line.clone()).unwrap().replace("local:0", "local:1").into_bytes();
}

#[test]
fn an_untouched_log_is_ok() {
    let report = verify(&log());
    assert_eq!(report.verdict(), Verdict::Ok { events: 13, chains: 3 });
    assert_eq!(report.notes, 3);
}

#[test]
fn p41_a_changed_event_is_named() {
    for event in 1..=6u64 {
        let at = usize::try_from(event - 1).unwrap();
        let report = tampered(|log| replace(&mut log.chains[0].2[at]));
        let [Verdict::ChangedAt { writer, event: named, .. }] = report.findings[..] else { panic!("{report:?}") };
        assert_eq!((writer, named), (w(2), event));
    }
}

#[test]
fn p41_a_changed_event_of_a_chain_that_another_writer_anchored_is_named() {
    let report = tampered(|log| replace(&mut log.chains[1].2[4]));
    assert_eq!(report.findings, [Verdict::ChangedAt { writer: w(3), event: 5, since: 1 }]);
}

#[test]
fn p41_a_removed_event_is_named() {
    let report = tampered(|log| drop(log.chains[0].2.remove(3)));
    assert_eq!(
        report.findings,
        [
            Verdict::ChangedAt { writer: w(2), event: 4, since: 4 },
            Verdict::Removed { writer: w(2), anchored: 6, found: Some(5) }
        ]
    );
}

#[test]
fn p41_reordered_events_are_named() {
    let report = tampered(|log| log.chains[0].2.swap(3, 4));
    assert_eq!(report.findings, [Verdict::ChangedAt { writer: w(2), event: 4, since: 4 }]);
}

#[test]
fn p41_a_cut_tail_is_named() {
    let report = tampered(|log| log.chains[0].2.truncate(4));
    assert_eq!(
        report.findings,
        [
            Verdict::Removed { writer: w(2), anchored: 6, found: Some(4) },
            Verdict::Unanchored { writer: w(2), events: 1 }
        ]
    );
}

#[test]
fn p41_a_removed_chain_is_named_though_another_writer_anchored_it() {
    for at in 0..2 {
        let report = tampered(|log| drop(log.chains.remove(at)));
        let (writer, anchored) = [(w(2), 6), (w(3), 5)][at];
        assert_eq!(report.verdict(), Verdict::Removed { writer, anchored, found: None });
    }
}

#[test]
fn p41_a_removed_note_is_named() {
    for at in 0..2 {
        let report = tampered(|log| drop(log.notes.remove(at)));
        let broken = Verdict::NoteChainBroken { note: u64::try_from(at + 1).unwrap(), how: Broken::Link };
        assert_eq!(report.verdict(), broken);
    }
    let report = tampered(|log| drop(log.notes.pop()));
    assert_eq!(
        report.findings,
        [Verdict::Unanchored { writer: w(3), events: 5 }, Verdict::Unanchored { writer: w(4), events: 2 }]
    );
}

#[test]
fn p41_a_chain_rewritten_with_its_links_is_named_by_the_next_anchor() {
    let report = tampered(|log| {
        let (writer, genesis, lines) = &mut log.chains[0];
        let mut chain = Chain::start(*writer, genesis);
        for (n, line) in (1..).zip(lines.iter_mut()) {
            *line = chain.append(&event(if n == 5 { 99 } else { n })).unwrap();
        }
    });
    assert_eq!(report.findings, [Verdict::ChangedAt { writer: w(2), event: 6, since: 4 }]);
}

#[test]
fn p41_one_writer_with_two_heads_is_a_fork() {
    let report = tampered(|log| {
        let tip = Tip { head: Head([9; 32]), size: 3, writer: w(2) };
        write(log, 5, 1, &[1], &[tip]);
    });
    assert!(matches!(report.findings[..], [Verdict::Fork { size: 3, .. }]), "{report:?}");
}

#[test]
fn p41_forged_signatures_are_named() {
    let report = tampered(|log| log.notes[2] = log.notes[2].replace("\n1\n", "\n2\n"));
    assert_eq!(report.verdict(), Verdict::BadSignature { of: Signed::Note(3) });
    let report = tampered(|log| {
        let other = log.chains[1].1.clone();
        log.chains[0].1 = other;
    });
    assert!(report.findings.contains(&Verdict::BadSignature { of: Signed::Genesis(w(2)) }), "{report:?}");
    assert!(matches!(report.verdict(), Verdict::ChangedAt { .. }), "{report:?}");
}

#[test]
fn an_unsigned_tail_is_never_plain_ok() {
    let report = tampered(|log| {
        write(log, 5, 3, &[1], &[]);
    });
    assert_eq!(report.verdict(), Verdict::Unanchored { writer: w(5), events: 2 });
}

#[test]
fn many_harmless_findings_do_not_hide_the_one_that_matters() {
    let mut report = Report::default();
    (0..20_000).for_each(|_| report.add(Verdict::Unanchored { writer: w(1), events: 1 }));
    report.add(Verdict::Removed { writer: w(1), anchored: 1, found: None });
    report.sort();
    assert!(matches!(report.verdict(), Verdict::Removed { .. }) && report.omitted == 19_000);
}

/// As [`verify`], the first chain cut after so many events.
fn verify_cut(log: &Log, at: usize, edit: impl FnOnce(&mut Tip) -> [u8; 32]) -> Report {
    let key = VerifierKey::of(&deployment(), SigningKey::from_seed(&[1; 32]).unwrap().public());
    let mut verifier = Verifier::new(key.clone());
    for (writer, genesis, _) in &log.chains {
        verifier.genesis(*writer, genesis);
    }
    log.notes.iter().for_each(|note| verifier.note(note));
    let mut edit = Some(edit);
    for (writer, genesis, lines) in &log.chains {
        let mut check = verifier.chain(*writer, genesis);
        let mut rest = &lines[..];
        if let Some(edit) = edit.take() {
            let mut chain = Chain::start(*writer, genesis);
            lines[..at].iter().for_each(|line| chain.push(line));
            let mut tip = chain.tip();
            let signer = SigningKey::from_seed(&edit(&mut tip)).unwrap();
            check.cut(&SignedCut::parse(&Cut { tip, time: NOW }.sign(&signer, &key)).unwrap());
            rest = &lines[at..];
        }
        rest.iter().for_each(|line| check.event(line));
        check.end();
    }
    verifier.finish()
}

#[test]
fn what_retention_took_out_is_counted_and_the_rest_is_ok() {
    for at in 1..=6 {
        let report = verify_cut(&log(), at, |_| [1; 32]);
        assert_eq!(report.verdict(), Verdict::Ok { events: 13 - at as u64, chains: 3 }, "{at}");
        assert_eq!(report.pruned, at as u64);
    }
}

#[test]
fn p41_a_cut_that_the_deployment_did_not_sign_or_that_lies_is_named() {
    let report = verify_cut(&log(), 6, |_| [9; 32]);
    assert!(report.findings.contains(&Verdict::BadSignature { of: Signed::Cut(w(2)) }), "{report:?}");
    assert!(report.findings.contains(&Verdict::Removed { writer: w(2), anchored: 6, found: Some(0) }), "{report:?}");
    for at in [2, 6] {
        let report = verify_cut(&log(), at, |tip| {
            tip.head = Head([9; 32]);
            [1; 32]
        });
        assert!(matches!(report.verdict(), Verdict::ChangedAt { .. }), "{at}: {report:?}");
    }
    // Past what anything signed for.
    let mut log = log();
    write(&mut log, 7, 4, &[], &[]);
    log.chains.rotate_right(1);
    let report = verify_cut(&log, 3, |_| [1; 32]);
    assert_eq!(report.findings, [Verdict::Unanchored { writer: w(7), events: 4 }]);
}
