//! Sealing, opening and looking at values: what goes in comes out, and what is not sealed does not.

mod common;

use common::{FERNET_VARIABLE, MASTER_VARIABLE, OTHER_FERNET, keyed, keyfold};

const FORMATS: [&str; 3] = ["kf1", "v1", "fernet"];

fn sealed(format: &str, secret: impl AsRef<[u8]>) -> String {
    keyed(&format!("seal --format {format}")).stdin(secret).run().text()
}

#[test]
fn what_is_sealed_opens_to_the_same_bytes_and_nothing_is_added() {
    for format in FORMATS {
        for secret in ["s3cret", " lead and trail ", "two\nlines\n", "ключ 🔑", "kf1.looks-sealed", "**********"]
        {
            let opened = keyed("open").stdin(sealed(format, secret)).run();
            assert_eq!((&*opened.stdout, &*opened.stderr, opened.code), (secret.as_bytes(), "", 0), "{format}");
        }
    }
    for format in ["kf1", "fernet"] {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(keyed("open").stdin(sealed(format, &bytes)).run().stdout, bytes);
    }
    keyed("seal --format v1").stdin([0xff]).run().fails(4, &["not UTF-8", "--format kf1"]);
}

#[test]
fn the_longest_secret_passes_and_one_byte_more_is_refused() {
    let secret = vec![b'x'; 1 << 20];
    for format in FORMATS {
        assert!(keyed("open").stdin(sealed(format, &secret)).run().stdout == secret, "{format}");
    }
    let longer = vec![b'x'; (1 << 20) + 1];
    keyed("seal --format kf1").stdin(&longer).run().fails(4, &["1048577 bytes", "at most 1048576"]);
    keyed("seal --format kf1").stdin(vec![b'x'; 4 << 20]).run().fails(4, &["over 2097152 bytes", "1 MiB"]);
}

#[test]
fn a_newline_at_the_end_is_sealed_with_a_word_about_it_or_left_out_when_asked() {
    let with = keyed("seal --format kf1").stdin("s3cret\n").run();
    assert!(with.stderr.starts_with("hint: the secret ends with a newline"), "{}", with.stderr);
    assert_eq!(keyed("open").stdin(with.stdout).run().stdout, b"s3cret\n");
    for (given, kept) in
        [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("a", "a")]
    {
        let without = keyed("seal --format kf1 --trim-newline").stdin(given).run();
        assert_eq!(without.stderr, "");
        assert_eq!(keyed("open").stdin(without.stdout).run().stdout, kept.as_bytes());
    }
    assert_eq!(keyed("seal --format kf1 --quiet").stdin("s3cret\n").run().stderr, "");
}

#[test]
fn an_empty_secret_is_sealed_with_a_warning() {
    let empty = keyed("seal --format kf1").run();
    assert_eq!(empty.stderr, "warning: the secret is empty, and is sealed as such\n");
    let opened = keyed("open").stdin(empty.stdout).run();
    assert_eq!((&*opened.stdout, opened.code), (&b""[..], 0));
}

#[test]
fn white_space_around_an_envelope_is_ignored() {
    for format in FORMATS {
        let envelope = sealed(format, "s3cret");
        for around in [format!("{envelope}\n"), format!("\r\n \t{envelope}  \r\n")] {
            assert_eq!(keyed("open").stdin(around).run().stdout, b"s3cret");
        }
    }
}

#[test]
fn p06_plaintext_is_refused_and_not_returned_as_if_it_were_the_secret() {
    let failed = keyed("open").stdin("redis://u:hunter2@host").run().fails(4, &[]);
    assert_eq!(
        failed.stderr,
        "error: the value is not encrypted\n  hint: seal it with `keyfold seal`, or find out who stored it in plaintext\n"
    );
    for plaintext in ["hunter2", "{}", "**********", "aGVsbG8=", "  \n", "", "\u{feff}hunter2", "a.b.c"] {
        keyed("open").stdin(plaintext).run().fails(4, &["not encrypted"]);
    }
    keyed("open").stdin([0xff, 0xfe]).run().fails(4, &["not encrypted"]);
}

#[test]
fn p06_a_truncated_envelope_and_one_without_its_padding_are_refused() {
    for format in FORMATS {
        let envelope = sealed(format, "hunter2");
        for cut in [10, envelope.len() / 2, envelope.len() - 5, envelope.len() - 1] {
            let failed = keyed("open").stdin(&envelope[..cut]).run().fails(4, &["error: "]);
            assert!(!failed.stderr.contains(&envelope[6..10]), "the value is not repeated: {}", failed.stderr);
        }
        for around in [format!("\"{envelope}\""), format!("b'{envelope}'"), envelope.to_uppercase()] {
            keyed("open").stdin(around).run().fails(4, &["error: "]);
        }
    }
    // A v1 envelope of which the length asks for padding, whatever the length of the secret.
    let padded = (0..3).map(|more| sealed("v1", "x".repeat(10 + more))).find(|envelope| envelope.ends_with('='));
    if let Some(padded) = padded {
        keyed("open").stdin(padded.trim_end_matches('=')).run().fails(4, &["malformed"]);
        keyed("open --compat").stdin(padded.trim_end_matches('=')).run().fails(4, &["malformed"]);
    }
}

#[test]
fn plaintext_is_opened_for_a_caller_who_lists_it() {
    let opened = keyfold("open --accept kf1,plaintext").stdin("hunter2\n").run();
    assert_eq!((&*opened.stdout, opened.code), (&b"hunter2\n"[..], 0));
    keyfold("open --accept plaintext").stdin("").run().fails(4, &["nothing but white space"]);
}

#[test]
fn a_format_outside_the_list_is_refused_by_policy_before_a_key_is_asked_for() {
    let failed = keyfold("open --accept kf1,fernet").stdin(sealed("v1", "x")).run().fails(3, &[]);
    assert_eq!(
        failed.stderr,
        "error: format v1 is not accepted here; accepted: kf1, fernet\n  hint: add the format to --accept if that is \
         meant\n"
    );
}

#[test]
fn an_envelope_opens_with_its_context_and_with_no_other() {
    let envelope = keyed("seal --format kf1 --context record=1 --context field=/url").stdin("s3cret").run().text();
    let opened = keyed("open --context field=/url --context record=1").stdin(&envelope).run();
    assert_eq!(opened.stdout, b"s3cret");
    for other in ["", "--context record=1", "--context record=2 --context field=/url", "--context record=1=field=/url"]
    {
        keyed(&format!("open {other}")).stdin(&envelope).run().fails(4, &["Decryption failed", "--context"]);
    }
}

#[test]
fn formats_without_a_context_refuse_to_pretend() {
    for format in ["v1", "fernet"] {
        let failed = keyed(&format!("seal --format {format} --context a=b")).stdin("x").run().fails(2, &[]);
        assert_eq!(
            failed.stderr,
            format!(
                "error: the {format} format cannot bind a context\n  hint: seal with --format kf1, or leave --context \
                 out\n"
            )
        );
        let opened = keyed("open --context a=b").stdin(sealed(format, "x")).run();
        assert_eq!(opened.stdout, b"x");
        assert!(opened.stderr.contains("--context was not checked"), "{}", opened.stderr);
    }
}

#[test]
fn a_fernet_token_older_than_asked_for_is_refused_and_other_formats_hold_no_time() {
    // Made in 1985 with the key of the published test vectors.
    let old = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
    let call = |arguments| {
        keyfold(arguments).env(FERNET_VARIABLE, "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").stdin(old).run()
    };
    assert_eq!(call("open").stdout, b"hello");
    call("open --max-age 3600").fails(4, &["outside what is allowed"]);
    let fresh = sealed("fernet", "x");
    assert_eq!(keyed("open --max-age 3600").stdin(fresh).run().stdout, b"x");
    keyed("open --max-age 3600").stdin(sealed("v1", "x")).run().fails(3, &["only fernet holds a time"]);
    keyed("open --max-age 3600 --accept v1").run().fails(2, &["only fernet holds a time"]);
}

#[test]
fn what_only_python_would_write_opens_when_asked_for() {
    let envelope = sealed("v1", "s3cret");
    let (head, tail) = envelope.split_at(40);
    let broken = format!("{head}\n{tail}");
    keyed("open").stdin(&broken).run().fails(4, &["malformed"]);
    assert_eq!(keyed("open --compat").stdin(&broken).run().stdout, b"s3cret");
}

#[test]
fn inspect_needs_no_key_and_says_what_can_be_seen() {
    let kf1 = keyfold("inspect").stdin(sealed("kf1", "s3cret") + "\n").run().json();
    assert_eq!((&kf1["format"], &kf1["secret_size"]), (&"kf1".into(), &6.into()));
    assert_eq!(kf1["kid"].as_str().map(str::len), Some(16));
    assert_eq!(kf1["commitment"].as_str().map(str::len), Some(64));
    let v1 = keyfold("inspect").stdin(sealed("v1", "s3cret")).run().json();
    assert_eq!((&v1["format"], &v1["secret_size"]), (&"v1".into(), &6.into()));
    let fernet = keyfold("inspect").stdin(sealed("fernet", "s3cret")).run().json();
    assert_eq!(fernet["format"], "fernet");
    assert!(fernet["timestamp"].as_u64().unwrap() > 1_700_000_000);
    let cut = keyfold("inspect").stdin(&sealed("v1", "s3cret")[..50]).run().json();
    assert_eq!(cut["format"], "malformed_v1");
    assert!(cut["problem"].as_str().unwrap().contains("truncated"));
}

#[test]
fn inspect_shows_of_plaintext_only_its_size() {
    let run = keyfold("inspect").stdin("hunter2\n").run();
    assert_eq!((&*run.text(),), ("{\"format\":\"plaintext\",\"size\":7}",));
}

#[test]
fn a_secret_comes_from_a_file_or_the_environment_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret").unwrap();
    let from_file = keyed("seal --format kf1 --from").arg(format!("file:{}", file.display())).run().text();
    assert_eq!(keyed("open").stdin(from_file).run().stdout, b"s3cret");
    let from_env = keyed("seal --format kf1 --from env:URL").env("URL", "s3cret").run().text();
    assert_eq!(keyed("open --from env:SEALED").env("SEALED", from_env).run().stdout, b"s3cret");
    keyed("seal --format kf1 --from env:URL").run().fails(2, &["env:URL: the variable is not set"]);
    keyed("seal --format kf1 --from file:/no/such").run().fails(5, &["file:/no/such: entity not found"]);
}

#[test]
fn seal_with_json_says_which_key_sealed() {
    let made = keyed("seal --format kf1 --json").stdin("s3cret").run().json();
    let seen = keyfold("inspect").stdin(made["envelope"].as_str().unwrap()).run().json();
    for member in ["format", "kid", "commitment"] {
        assert_eq!(made[member], seen[member], "{member}");
    }
}

#[test]
fn p43_no_message_and_no_log_shows_a_secret_a_key_or_an_envelope() {
    let secret = "hunter2-S3CRET-planted";
    let mut said = String::new();
    for format in FORMATS {
        let made = keyed(&format!("seal --format {format} -vvv")).env("KEYFOLD_LOG", "trace").stdin(secret).run();
        said += &made.stderr;
        let envelope = made.text();
        let mut changed = envelope.clone().into_bytes();
        let at = changed.len() / 2;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        for (call, stdin) in [
            (keyed("open -vvv"), envelope.clone().into_bytes()),
            (keyed("open -vvv --json --context a=b"), envelope.clone().into_bytes()),
            (keyed("open -vvv"), changed),
            (keyed("open -vvv"), envelope.as_bytes()[..envelope.len() - 7].to_vec()),
            (keyed("open -vvv").env(MASTER_VARIABLE, common::OTHER_MASTER), envelope.clone().into_bytes()),
            (keyed("open -vvv").env(FERNET_VARIABLE, OTHER_FERNET), envelope.clone().into_bytes()),
            (keyed("open -vvv"), secret.as_bytes().to_vec()),
            (keyed("seal --format v1 -vvv"), [secret.as_bytes(), &[0xff]].concat()),
        ] {
            said += &call.env("KEYFOLD_LOG", "trace").stdin(stdin).run().stderr;
        }
        let inspected = keyfold("inspect -vvv").stdin(secret).run();
        said += &inspected.stderr;
        said += &inspected.text();
        assert!(!said.contains(&envelope[20..40]), "{said}");
    }
    for (plain, what) in [
        (secret, "the secret"),
        ("aHVudGVyMi1TM0NSRVQtcGxhbnRlZ", "the secret in base64"),
        ("68756e746572322d533343524554", "the secret in hex"),
        (&common::MASTER[..40], "a key"),
        (&common::FERNET[..40], "a key"),
        ("0101010101010101", "a key in hex"),
        ("[1, 1, 1, 1", "a key in Debug"),
    ] {
        assert!(!said.contains(plain), "{what} in: {said}");
    }
}
