use proptest::prelude::*;

use super::*;
use crate::layout::path::FieldPath;

fn paths(texts: &[&str]) -> Vec<FieldPath> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn texts<'a>(found: &'a [Found<'a>]) -> Vec<(&'a str, &'a str, Option<&'a str>)> {
    found
        .iter()
        .map(|f| {
            let value = match &f.value {
                Value::Text(text) => Some(&**text),
                _ => None,
            };
            (f.pointer.as_str(), f.exact(), value)
        })
        .collect()
}

#[test]
fn declared_fields_are_found_through_arrays_and_maps() {
    let text = r#" {"connection_url":"u","nodes":[{"password":"p0"},{"x":1,"password":"p1"}],
        "extension_secrets":{"a/b":"s~","k\u00e9y":null,"n":[1]},"connection":{"url":"no"}} "#;
    let paths = paths(&["/connection_url", "/nodes/*/password", "/extension_secrets/*"]);
    let found = find(text, &paths).unwrap();
    assert_eq!(
        texts(&found),
        [
            ("/connection_url", "/connection_url", Some("u")),
            ("/nodes/*/password", "/nodes/0/password", Some("p0")),
            ("/nodes/*/password", "/nodes/1/password", Some("p1")),
            ("/extension_secrets/a~1b", "/extension_secrets/a~1b", Some("s~")),
            ("/extension_secrets/kéy", "/extension_secrets/kéy", None),
            ("/extension_secrets/n", "/extension_secrets/n", None),
        ]
    );
    assert_eq!(found.iter().map(|f| f.path).collect::<Vec<_>>(), [0, 1, 1, 2, 2, 2]);
    assert!(matches!(found[4].value, Value::Null));
    assert!(matches!(found[5].value, Value::Other(Kind::Array)));
    assert_eq!(&text[found[5].span.clone()], "[1]");
    assert!(found.iter().all(|f| paths[f.path].covers(&f.pointer)));
}

#[test]
fn roots_indices_and_more_paths_than_bits_are_found() {
    assert_eq!(texts(&find(r#""whole""#, &paths(&[""])).unwrap()), [("", "", Some("whole"))]);
    let found = find(r#"["a",{"b":"c"},["d"]]"#, &paths(&["/0", "/1", "/*/b", "/2/0", "/00"])).unwrap();
    assert_eq!(
        texts(&found),
        [("/*", "/0", Some("a")), ("/*", "/1", None), ("/*/b", "/1/b", Some("c")), ("/*/*", "/2/0", Some("d")),]
    );
    let many: Vec<FieldPath> = (0..200).map(|n| format!("/f{n}").parse().unwrap()).collect();
    let found = find(r#"{"f199":"z","f3":"a","f64":"b"}"#, &many).unwrap();
    assert_eq!(found.iter().map(|f| f.path).collect::<Vec<_>>(), [199, 3, 64]);
}

#[test]
fn every_byte_outside_the_edits_stays() {
    let text = "{ \"n\" : 1e3,\t\"m\": 2.50 , \"x\":1,\"x\":2, \"u\":\"\\u00e9\\ud83d\\udd11\\/\",\"s\":\"old\"\r\n}";
    let found = find(text, &paths(&["/s"])).unwrap();
    let edit = Edit { span: found[0].span.clone(), token: encode_string("new \"one\"\n") };
    let new = splice(text, vec![edit]).unwrap();
    assert_eq!(*new, text.replace("\"old\"", r#""new \"one\"\n""#));
    let found = find(text, &paths(&["/u"])).unwrap();
    assert_eq!(texts(&found), [("/u", "/u", Some("é🔑/"))]);
}

#[test]
fn a_member_on_a_declared_path_that_occurs_twice_is_an_error() {
    for (text, path, pointer) in [
        (r#"{"s":"a","s":"b"}"#, "/s", "/s"),
        (r#"{"s":"a","\u0073":"b"}"#, "/s", "/s"),
        (r#"{"o":1,"o":{"s":"b"}}"#, "/o/s", "/o"),
        (r#"{"m":{"a":"1","b":"2","a":"3"}}"#, "/m/*", "/m/a"),
        (r#"[{},{"s":"a","s":null}]"#, "/*/s", "/1/s"),
    ] {
        match find(text, &paths(&[path])).map(|_| ()).unwrap_err() {
            JsonError::Duplicate { pointer: p, .. } => assert_eq!(p, pointer, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
    // Elsewhere it is somebody else's business.
    assert_eq!(find(r#"{"x":1,"x":2,"o":{"s":1,"s":2},"s":"a"}"#, &paths(&["/s"])).unwrap().len(), 1);
    assert_eq!(find(r#"[{"s":"a"},{"s":"b"}]"#, &paths(&["/*/s"])).unwrap().len(), 2);
}

#[test]
fn what_is_not_strict_json_is_refused_with_its_offset() {
    for (text, message) in [
        ("", "not JSON at byte 0: the text ends where a value is expected"),
        ("\u{feff}{}", "not JSON at byte 0: expected a value"),
        ("{} x", "not JSON at byte 3: text after the document"),
        ("{\"a\":1,}", "not JSON at byte 7: expected a member's name"),
        ("[1,]", "not JSON at byte 3: expected a value"),
        ("[1 2]", "not JSON at byte 3: expected `,` or `]`"),
        ("{\"a\" 1}", "not JSON at byte 5: expected `:`"),
        ("[01]", "not JSON at byte 2: a number starts with `0`"),
        ("[1.]", "not JSON at byte 3: expected a digit"),
        ("[NaN]", "not JSON at byte 1: expected a value"),
        ("[\"a\nb\"]", "not JSON at byte 3: a control character in a string"),
        ("[\"\\x\"]", "not JSON at byte 3: an unknown escape"),
        ("[\"\\u12g4\"]", "not JSON at byte 6: expected four hex digits"),
        ("[\"abc", "not JSON at byte 5: the text ends inside a string"),
        ("[\"\\ud83d\"]", "not text at byte 2: half of a surrogate pair"),
        ("[\"\\udd11\"]", "not text at byte 2: half of a surrogate pair"),
        ("[\"\\ud83d\\u0041\"]", "not text at byte 2: half of a surrogate pair"),
        ("'a'", "not JSON at byte 0: expected a value"),
    ] {
        assert_eq!(check(text).unwrap_err().to_string(), message, "{text:?}");
        assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text:?}");
    }
    let late = format!("[\"{}\u{1}\"]", "x".repeat(100));
    assert_eq!(check(&late).unwrap_err().to_string(), "not JSON at byte 102: a control character in a string");
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    check(&nested(128)).unwrap();
    assert_eq!(check(&nested(129)).unwrap_err(), JsonError::TooDeep { at: 128 });
    assert!(matches!(check(&"[".repeat(1 << 20)), Err(JsonError::TooDeep { .. })));
    let large = " ".repeat(MAX_DOCUMENT + 1);
    assert_eq!(check(&large).unwrap_err(), JsonError::TooLarge { found: MAX_DOCUMENT + 1 });
}

#[test]
fn edits_that_overlap_or_lie_outside_are_refused() {
    let edit = |&(start, end)| Edit { span: start..end, token: encode_string("x") };
    for edits in [&[(2, 4), (3, 5)][..], &[(0, 9)], &[(2, 2)], &[(3, 4), (2, 5)], &[(1, 2)]] {
        let edits: Vec<Edit> = edits.iter().map(edit).collect();
        assert!(matches!(splice("é[12]", edits), Err(JsonError::BadEdit { .. })));
    }
}

#[test]
fn every_string_is_walked_with_its_pointer_and_name() {
    let text = r#"{"a":"1","b":[["2"],{"c/d":"3"},"4"],"e":{"f":{"g\n":"5"},"h":"6"},"i":7}"#;
    let mut seen = Vec::new();
    strings(text, |leaf| {
        seen.push(format!("{} {:?} {}", leaf.pointer, leaf.name.unwrap_or("-"), leaf.value));
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            r#"/a "a" 1"#,
            r#"/b/*/* "b" 2"#,
            r#"/b/*/c~1d "c/d" 3"#,
            r#"/b/* "b" 4"#,
            "/e/f/g\n \"g\\n\" 5",
            r#"/e/h "h" 6"#,
        ]
    );
    strings(r#""root""#, |leaf| assert_eq!((leaf.pointer, leaf.name, leaf.value), ("", None, "root"))).unwrap();
}

/// `cargo test --release -p keyfold-custody -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed_of_find() {
    let text = format!(
        r#"{{"id":"redis-prod-0001","name":"cache","connection_url":"kf1.{}","environment":"production","usage":"cache","description":"Session cache of the shop","repo_url":null,"notes":"","monitoring_identifier":"redis-prod-0001","instance_type":"redis_enterprise","admin_url":"https://admin.internal:9443","admin_username":"ops","admin_password":"kf1.x","extension_data":{{"a":1,"b":[1,2,3]}},"created_at":"2026-01-01T00:00:00Z"}}"#,
        "A".repeat(100)
    );
    let paths = paths(&["/connection_url", "/admin_password"]);
    let rounds: u32 = 200_000;
    for _ in 0..3 {
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            assert_eq!(find(std::hint::black_box(&text), &paths).unwrap().len(), 2);
        }
        let find = started.elapsed() / rounds;
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            check(std::hint::black_box(&text)).unwrap();
        }
        println!("{} bytes: find {find:?}, check {:?}", text.len(), started.elapsed() / rounds);
    }
}

fn documents() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[a-z\"\\\\\n]{0,80}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[a-c~/\"é]{0,3}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_validity_is_serde_jsons(text in "[\\[\\]{}:,\"\\\\u0-9a-fd.eE+ \n\u{1}é-]{0,40}") {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        let ours = check(&text);
        let ours_found = find(&text, &paths(&["/*", "/a/*", "/*/*/a"]));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok() || theirs.unwrap_err().to_string().contains("out of range"));
        prop_assert!(ours.is_ok() || ours_found.is_err());
    }

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        prop_assert_eq!(check(&text).is_ok(), serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn a_string_token_reads_back(value in any::<String>()) {
        let token = encode_string(&value);
        prop_assert_eq!(&serde_json::from_str::<String>(token.as_str()).unwrap(), &value);
        let found = find(token.as_str(), &paths(&[""])).unwrap();
        prop_assert_eq!(texts(&found), [("", "", Some(value.as_str()))]);
    }

    #[test]
    fn splicing_nothing_is_identity_and_values_are_serde_jsons(document in documents(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        prop_assert_eq!(&*splice(&text, Vec::new()).unwrap(), &text);
        for f in find(&text, &paths(&["", "/*", "/*/*", "/a/*/b"])).unwrap() {
            let theirs = document.pointer(f.exact()).unwrap();
            match &f.value {
                Value::Text(value) => prop_assert_eq!(theirs.as_str(), Some(&**value)),
                Value::Null => prop_assert!(theirs.is_null()),
                Value::Other(_) => prop_assert!(!theirs.is_string() && !theirs.is_null()),
            }
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&text[f.span]).unwrap(), theirs);
        }
    }

    #[test]
    fn what_was_spliced_is_what_is_found(document in documents(), new in any::<String>()) {
        let text = serde_json::to_string(&document).unwrap();
        let paths = paths(&["/*", "/*/*"]);
        let before = find(&text, &paths).unwrap();
        let edits = before
            .iter()
            .filter(|f| matches!(f.value, Value::Text(_)))
            .map(|f| Edit { span: f.span.clone(), token: encode_string(&new) })
            .collect();
        let changed = splice(&text, edits).unwrap();
        let after = find(&changed, &paths).unwrap();
        prop_assert_eq!(before.len(), after.len());
        for (old, now) in before.iter().zip(&after) {
            prop_assert_eq!(old.exact(), now.exact());
            match (&old.value, &now.value) {
                (Value::Text(_), Value::Text(value)) => prop_assert_eq!(&**value, &new),
                _ => prop_assert!(!matches!(now.value, Value::Text(_))),
            }
        }
    }

    #[test]
    fn all_strings_are_walked(document in documents()) {
        fn count(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::String(_) => 1,
                serde_json::Value::Array(items) => items.iter().map(count).sum(),
                serde_json::Value::Object(members) => members.values().map(count).sum(),
                _ => 0,
            }
        }
        let mut seen = 0;
        strings(&document.to_string(), |_| seen += 1).unwrap();
        prop_assert_eq!(seen, count(&document));
    }
}

#[test]
fn p11_a_long_name_above_many_values_takes_bounded_time_and_memory() {
    let name = "n".repeat(4 << 20);
    let arrays = format!("{{\"{name}\":[{}\"x\"]}}", "[],".repeat(1 << 20));
    let mut seen = 0;
    strings(&arrays, |leaf| seen += usize::from(leaf.name == Some(&name))).unwrap();
    assert_eq!(seen, 1);

    let members: String = (0..1000).map(|n| format!("\"{n}\":\"\",")).collect();
    let wide = format!("{{\"{name}\":{{{members}\"x\":\"\"}}}}");
    let many = format!("{{\"a\":[{}\"\"]}}", "\"\",".repeat(MAX_FIELDS));
    for (doc, path) in [(&wide, "/*/*"), (&many, "/a/*")] {
        let refused = find(doc, &[path.parse().unwrap()]).err();
        assert!(matches!(refused, Some(JsonError::TooManyFields { .. })), "{refused:?}");
    }
    let most = format!("{{\"a\":[{}\"\"]}}", "\"\",".repeat(MAX_FIELDS - 1));
    assert_eq!(find(&most, &["/a/*".parse().unwrap()]).ok().unwrap().len(), MAX_FIELDS);
}
