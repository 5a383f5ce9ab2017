//! `records`: what goes in comes out, what does not belong in is named, and everything but the secrets stays as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use common::folder::{Data, INSTANCES, instances};

fn put(data: &Data, key: &str, doc: impl AsRef<[u8]>) -> common::Ended {
    data.call("records put instances").arg(key).stdin(doc).run()
}

#[test]
fn p07_what_was_put_is_what_opens_byte_for_byte() {
    let data = Data::new(INSTANCES);
    for (n, (written, secret)) in [
        ("**********", "**********"),
        ("***", "***"),
        (r"a\u00fcb", "aüb"),
        ("aüb🔑", "aüb🔑"),
        (r"\ud83d\udd11", "🔑"),
        (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r"\u0000", "\0"),
        ("", ""),
        (" padded ", " padded "),
        ("redis://u:p%40ss@h:6379/0?x=1&y=2#z", "redis://u:p%40ss@h:6379/0?x=1&y=2#z"),
        ("kf1.looks-sealed", "kf1.looks-sealed"),
        ("gAAAAABsomething", "gAAAAABsomething"),
        (r"e\u0301", "e\u{301}"),
    ]
    .iter()
    .enumerate()
    {
        let key = format!("r{n}");
        let ended = put(&data, &key, format!("{{\"admin_password\":\"{written}\",\"n\":{n}}}"));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("mask of asterisks"), written.starts_with('*'), "{}", ended.stderr);
        assert!(data.doc("instances", &key).starts_with("{\"admin_password\":\"kf1."), "{written}");
        assert_eq!(data.field(&key, "/admin_password"), secret.as_bytes(), "{written}");
        let revealed = data.call("records get instances --reveal").arg(&key).run().json();
        assert_eq!(revealed["admin_password"], *secret);
    }
    let long = "x".repeat(1 << 20);
    put(&data, "long", format!("{{\"admin_password\":\"{long}\"}}")).text();
    assert_eq!(data.field("long", "/admin_password"), long.as_bytes());
    put(&data, "longer", format!("{{\"admin_password\":\"{long}x\"}}")).fails(4, &["instances/longer#/admin_password"]);
}

#[test]
fn a_document_that_cannot_be_taken_is_named_with_its_place_and_nothing_is_stored() {
    let data = Data::new(INSTANCES);
    let before = data.contents();
    for (doc, code, says) in [
        (&b"not json"[..], 4, "not JSON at byte 0"),
        (b"", 4, "not JSON"),
        (b"{\"a\":1}{\"b\":2}", 4, "not JSON at byte 7"),
        (b"{\"a\":1,}", 4, "not JSON at byte 7"),
        (b"{'a':1}", 4, "not JSON"),
        (b"{\"a\":NaN}", 4, "not JSON"),
        (b"{\"a\":01}", 4, "not JSON"),
        (b"\xef\xbb\xbf{}", 4, "not JSON at byte 0"),
        (b"{\"admin_password\":\"\xff\"}", 2, "not UTF-8"),
        (b"{\"admin_password\":\"\\ud83d\"}", 4, "half of a surrogate pair"),
        (b"\"hunter2\"", 2, "a JSON object or array"),
        (b"17", 2, "a JSON object or array"),
        (b"{\"admin_password\":\"a\",\"admin_password\":\"b\"}", 4, "the member `/admin_password` occurs twice"),
        (b"{\"admin_password\":\"a\",\"\\u0061dmin_password\":\"b\"}", 4, "occurs twice"),
        (b"{\"extension_secrets\":{\"t\":\"a\",\"t\":\"b\"}}", 4, "`/extension_secrets/t` occurs twice"),
        (b"{\"extension_secrets\":{},\"extension_secrets\":{\"t\":\"b\"}}", 4, "`/extension_secrets` occurs twice"),
        (b"{\"admin_password\":7}", 2, "instances/r1#/admin_password: a secret field must hold a string"),
        (b"{\"admin_password\":{\"$sealed\":{\"format\":\"kf1\"}}}", 2, "redacted document cannot be put back"),
        (b"{\"extension_secrets\":{\"t\":[\"x\"]}}", 2, "instances/r1#/extension_secrets/t"),
    ] {
        put(&data, "r1", doc).fails(code, &[says]);
        assert_eq!(data.contents(), before, "{}", String::from_utf8_lossy(doc));
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    put(&data, "r1", deep).fails(4, &["nested deeper"]);
    // Twice elsewhere is nobody's secret, and a null is nothing to seal.
    put(&data, "r1", r#"{"x":1,"x":2,"admin_password":null}"#).text();
    assert_eq!(data.doc("instances", "r1"), r#"{"x":1,"x":2,"admin_password":null}"#);
}

#[test]
fn a_redacted_document_does_not_replace_the_secrets_it_hides() {
    let data = Data::new(INSTANCES);
    data.put("r1", r#"{"admin_password":"hunter2","extension_secrets":{"a":"b"},"port":1}"#);
    let redacted = data.call("records get instances r1").run().text();
    assert!(redacted.contains("\"$sealed\"") && redacted.contains(&data.kid("primary")), "{redacted}");
    assert!(!redacted.contains("hunter2") && redacted.ends_with("\"port\":1}"), "{redacted}");
    data.call("records put instances r1 --replace").stdin(&redacted).run().fails(2, &["redacted"]);
    data.call("records import instances --as-is --on-existing replace")
        .stdin(redacted.replacen('{', "{\"id\":\"r1\",", 1))
        .run()
        .fails(2, &["redacted"]);
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
}

#[test]
fn a_record_is_written_once_unless_somebody_says_over_which_one() {
    let data = Data::new(INSTANCES);
    let revision = || data.call("records get instances r1 --json").run().json()["revision"].as_u64().unwrap();
    put(&data, "r1", r#"{"admin_password":"a"}"#).text();
    put(&data, "r1", r#"{"admin_password":"b"}"#).fails(1, &["`r1` exists already; nothing was written"]);
    assert_eq!(data.field("r1", "/admin_password"), b"a");
    data.call("records put instances r1 --replace").stdin(r#"{"admin_password":"b"}"#).run().text();
    let seen = revision();
    let over = |revision: u64, secret: &str| {
        let call = data.call("records put instances r1 --if-revision").arg(revision.to_string());
        call.stdin(format!("{{\"admin_password\":\"{secret}\"}}")).run()
    };
    over(seen, "c").text();
    over(seen, "d").fails(1, &["is at revision", "read it again"]);
    assert_eq!(data.field("r1", "/admin_password"), b"c");
    let stale = data.call(&format!("records rm instances r1 --if-revision {seen}")).run();
    stale.fails(1, &["is not there at revision"]);
    data.call(&format!("records rm instances r1 --if-revision {}", revision())).run().text();
    for arguments in ["records get instances r1", "records get instances r1 --reveal", "records rm instances r1"] {
        data.call(arguments).run().fails(1, &["no record `r1` in collection `instances`", "records list"]);
    }
    over(1, "e").fails(1, &["is not there"]);
    data.call("records put nowhere r1")
        .stdin("{}")
        .run()
        .fails(1, &["no collection `nowhere`", "configured: instances"]);
    data.call("records get instances r1 --reveal --field /a").run().fails(2, &["do not go together"]);
}

#[test]
fn a_key_is_1_to_512_bytes_without_nul_and_otherwise_anything() {
    let data = Data::new(INSTANCES);
    let longest = "ü".repeat(256);
    for key in ["a", " ", "a/b#c?d", "-", "*", "line\nbreak", "\u{1b}[31m", &longest] {
        let ended = data.call("records put instances --").arg(key).stdin(r#"{"admin_password":"x"}"#).run();
        assert_eq!(ended.code, 0, "{key:?}: {}", ended.stderr);
        let field = data.call("records get instances --field /admin_password --").arg(key).run();
        assert_eq!(field.stdout, b"x", "{key:?}: {}", field.stderr);
    }
    put(&data, "", "{}").fails(2, &["is empty"]);
    put(&data, &format!("{longest}x"), "{}").fails(2, &["513 bytes, at most 512"]);
    data.call("records import instances").stdin(r#"{"id":"a\u0000b"}"#).run().fails(2, &["document 1", "0x00"]);
    let listed = data.call("records list instances").run().text();
    assert_eq!(listed.lines().count(), 8, "a key with a line break in it looks like two: {listed:?}");
    assert!(!listed.contains('\u{1b}'), "a key cannot write to the terminal");
    let keys = data.call("records list instances --json").run().text();
    assert!(keys.contains(r#""line\nbreak""#) && keys.contains(r#""\u001b[31m""#), "{keys}");
    let export = data.call("records export instances").run().text();
    assert_eq!(export.lines().count(), 8);
    let other = Data::new(INSTANCES);
    other.call("records import instances --exported").stdin(&export).run().text();
    assert_eq!(other.contents().records.len(), 8);
}

#[test]
fn lines_and_arrays_are_imported_alike_and_the_document_at_fault_is_named_by_number() {
    let expected = ["1", "r1", "r2"];
    for text in [
        "{\"id\":\"r1\",\"admin_password\":\"a\"}\n{\"id\":\"r2\"}\n{\"id\":1}\n",
        "{\"id\":\"r1\",\"admin_password\":\"a\"}\n\n  {\"id\":\"r2\"}\r\n{\"id\":1}",
        "[{\"id\":\"r1\",\"admin_password\":\"a\"},{\"id\":\"r2\"},{\"id\":1}]",
        " [\n {\"id\":\"r1\",\n \"admin_password\":\"a\"} ,\n{\"id\":\"r2\"},{\"id\":1}\n]\n",
    ] {
        let data = Data::new(INSTANCES);
        let said = data.call("records import instances").stdin(text).run().text();
        assert!(said.contains("3 created"), "{said}");
        assert_eq!(data.call("records list instances").run().text().lines().collect::<Vec<_>>(), expected);
        assert_eq!(data.field("r1", "/admin_password"), b"a");
    }
    let data = Data::new(INSTANCES);
    for (text, says) in [
        ("{\"id\":\"a\"}\nnot json\n", "document 2"),
        ("{\"id\":\"a\"}\n{\"id\":\"b\"", "document 2"),
        ("[{\"id\":\"a\"},{\"id\":\"b\"},{\"name\":\"c\"}]", "document 3: no key at /id"),
        ("[{\"id\":\"a\"},{\"id\":null}]", "document 2: the key at /id is neither a string nor a number"),
        ("[{\"id\":\"a\"} {\"id\":\"b\"}]", "document"),
        ("[{\"id\":\"a\"}", "document"),
    ] {
        let ended = data.call("records import instances --on-existing skip").stdin(text).run();
        ended.fails(2, &[says]);
    }
    // By another pointer, and a key that several documents have.
    data.call("records import instances --id /meta/name").stdin(r#"{"meta":{"name":"deep"}}"#).run().text();
    let twice = "{\"id\":\"t\",\"admin_password\":\"1\"}\n{\"id\":\"t\",\"admin_password\":\"2\"}\n";
    data.call("records import instances").stdin(twice).run().fails(1, &["`t` exists already"]);
    data.call("records import instances --id id").stdin("{}").run().fails(2, &["does not start with `/`"]);
}

#[test]
fn what_is_there_already_is_kept_skipped_or_replaced_as_was_asked() {
    let data = Data::new(INSTANCES);
    data.put("r1", r#"{"id":"r1","admin_password":"old"}"#);
    let docs = "{\"id\":\"r0\",\"admin_password\":\"new\"}\n{\"id\":\"r1\",\"admin_password\":\"new\"}\n";
    let before = data.contents();
    data.call("records import instances").stdin(docs).run().fails(1, &["`r1` exists already"]);
    assert_eq!(data.contents(), before, "nothing of the batch is stored");
    let skipped = data.call("records import instances --json --on-existing skip").stdin(docs).run().json();
    assert_eq!(skipped["imported"], serde_json::json!({ "created": 1, "replaced": 0, "skipped": 1 }));
    assert_eq!(data.field("r1", "/admin_password"), b"old");
    let replaced = data.call("records import instances --json --on-existing replace").stdin(docs).run().json();
    assert_eq!(replaced["imported"], serde_json::json!({ "created": 0, "replaced": 2, "skipped": 0 }));
    assert_eq!(data.field("r1", "/admin_password"), b"new");
}

/// Everything that a serializer would tidy up.
const ODD: &str = "{ \"z\" : 1e3,\t\"a\":2.50,  \"big\":12345678901234567890123, \"neg\":-0.0,\n \"admin_password\" : \"s3cret\" ,\"esc\":\"\\u00e9\\/\\u2028\",\"raw\":\"é\", \"extension_secrets\":{\"b\":\"x\" , \"a\":\"y\"},\"x\":[ ],\"x\":{ } }";

/// The document with whatever stands for a secret taken out.
fn around(doc: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(doc).unwrap();
    let mut around = doc.to_owned();
    for secret in [&value["admin_password"], &value["extension_secrets"]["a"], &value["extension_secrets"]["b"]] {
        around = around.replacen(&format!("\"{}\"", secret.as_str().unwrap()), "SECRET", 1);
    }
    around
}

#[test]
fn everything_but_the_secrets_stays_byte_for_byte_through_import_migrate_rotate_and_export() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\", { format = \"plaintext\", until = 2999-01-01 }]"));
    let plain = format!("{{\"key\":\"odd\",\"doc\":{ODD}}}");
    data.call("records import instances --exported").stdin(&plain).run().text();
    data.call("records put instances put").stdin(ODD).run().text();
    let same = |what: &str| {
        for key in ["odd", "put"] {
            let doc = data.doc("instances", key);
            assert_eq!(around(&doc), around(ODD), "{key} after {what}");
            let revealed = data.call("records get instances --reveal").arg(key).run().text();
            assert_eq!(revealed, ODD, "{key} after {what}");
        }
    };
    assert_eq!(data.doc("instances", "odd"), ODD);
    data.call("migrate").run().text();
    same("migrate");
    data.rotated();
    same("rotate");
    data.call("rotate --reseal").run().text();
    same("reseal");
    data.call("migrate --to v1").run().text();
    same("migrate --to v1");
    data.call("rotate --to kf1").run().text();
    same("rotate --to kf1");
    let exported = data.call("records export instances").run().text();
    let line = exported.lines().next().unwrap();
    // A line break between tokens is the one thing that a line cannot keep.
    let doc = line.strip_prefix("{\"key\":\"odd\",\"doc\":").unwrap().strip_suffix('}').unwrap();
    assert_eq!(doc, data.doc("instances", "odd").replace('\n', " "));
}

#[test]
fn arrays_and_maps_and_names_with_slashes_are_sealed_at_every_depth() {
    let data =
        Data::new("[collections.c]\nfields = [\"/nodes/*/password\", \"/m/*/*\", \"/a~1b/x~0y\", \"/list/*\"]\n");
    let doc = r#"{"nodes":[{"password":"n0"},{"name":"none"},{"password":"n2"}],"m":{"k":{"s":"m1"},"*":{"s":"m2"}},"a/b":{"x~y":"t"},"list":["l0","l1"]}"#;
    data.call("records put c r").stdin(doc).run().text();
    let stored = data.doc("c", "r");
    for (secret, pointer) in [
        ("n0", "/nodes/0/password"),
        ("n2", "/nodes/2/password"),
        ("m1", "/m/k/s"),
        ("m2", "/m/*/s"),
        ("t", "/a~1b/x~0y"),
        ("l1", "/list/1"),
    ] {
        assert!(!stored.contains(&format!("\"{secret}\"")), "{stored}");
        let field = data.call("records get c r --field").arg(pointer).run().text();
        assert_eq!(field, secret, "{pointer}");
    }
    data.call("records get c r --field /nodes/1/name").run().fails(1, &["no secret field there", "JSON pointer"]);
    data.call("records get c r --field /nodes/*/password").run().fails(1, &["no secret field there"]);
    assert_eq!(data.call("records get c r --reveal").run().text(), doc);
}
