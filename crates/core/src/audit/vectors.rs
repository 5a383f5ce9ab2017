//! Known answers made by `vectors/audit.py`, which shares no code with this crate.

use serde_json::Value;

use super::{Chain, Deployment, Event, Genesis, Note, SignedGenesis, SignedNote, SigningKey, Tip, VerifierKey};
use crate::{clock::UnixTime, id::from_hex};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/audit.json")).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn seed(value: &Value, name: &str) -> SigningKey {
    SigningKey::from_seed(&from_hex(text(value, name)).unwrap()).unwrap()
}

fn tip(value: &Value) -> Tip {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn the_genesis_is_the_one_python_makes() {
    let all = vectors();
    let deployment = Deployment::new(text(&all, "deployment")).unwrap();
    let root = seed(&all, "deployment_seed");
    let key = VerifierKey::of(&deployment, root.public());
    assert_eq!(key.to_string(), text(&all, "verifier_key"));
    let genesis = Genesis {
        deployment,
        key: seed(&all, "writer_seed").public(),
        predecessor: Some(tip(&all["predecessor"])),
        time: UnixTime(all["time"].as_u64().unwrap()),
        writer: text(&all, "writer").parse().unwrap(),
    };
    let line = genesis.sign(&root);
    assert_eq!(String::from_utf8(line.clone()).unwrap(), text(&all, "genesis"));
    assert_eq!(SignedGenesis::parse(&line).unwrap().verify(&key), Some(&genesis));
}

#[test]
fn the_chain_is_the_one_python_makes() {
    let all = vectors();
    let mut chain = Chain::start(text(&all, "writer").parse().unwrap(), text(&all, "genesis").as_bytes());
    assert_eq!(chain.tip().head.to_string(), text(&all, "h0"));
    for expected in all["events"].as_array().unwrap() {
        let stored = text(expected, "line");
        let line = chain.append(&Event::parse(stored.as_bytes()).unwrap()).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), stored);
        assert_eq!(chain.tip().head.to_string(), text(expected, "head"));
    }
}

#[test]
fn the_note_is_the_one_python_makes() {
    let all = vectors();
    let key = seed(&all, "writer_seed");
    let said = &all["note"];
    let note = Note {
        deployment: Deployment::new(text(&all, "deployment")).unwrap(),
        tip: tip(&said["tip"]),
        time: UnixTime(said["time"].as_u64().unwrap()),
        generation: said["generation"].as_u64().unwrap(),
        previous: Some(text(said, "previous").parse().unwrap()),
        roster: said["roster"].as_array().unwrap().iter().map(tip).collect(),
    };
    assert_eq!(note.sign(&key), text(said, "text"));
    assert_eq!(SignedNote::parse(text(said, "text")).unwrap().verify(&key.public()), Some(&note));
    assert_eq!(SignedNote::hash(text(said, "text")).to_string(), text(said, "hash"));
}
