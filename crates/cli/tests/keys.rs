//! Keys: made by `keygen`, taken from the environment, refused when they are not exactly right.

mod common;

use common::{FERNET, FERNET_VARIABLE, MASTER, MASTER_VARIABLE, OTHER_MASTER, keyed, keyfold};

#[test]
fn keygen_prints_one_key_that_seals_and_opens_and_never_the_same_twice() {
    for (arguments, variable, format) in
        [("keygen", MASTER_VARIABLE, "v1"), ("keygen --fernet", FERNET_VARIABLE, "fernet")]
    {
        let key = keyfold(arguments).run();
        assert_eq!((key.stdout.len(), key.stdout.last(), &*key.stderr), (45, Some(&b'\n'), ""));
        let key = key.text();
        assert_ne!(key, keyfold(arguments).run().text());
        let sealed = keyfold(&format!("seal --format {format}")).env(variable, &key).stdin("s3cret").run().text();
        let opened = keyfold("open").env(variable, &key).stdin(&sealed).run();
        assert_eq!((&*opened.stdout, opened.code), (&b"s3cret"[..], 0));
    }
}

#[test]
fn keygen_with_json_names_the_id_under_which_envelopes_will_know_the_key() {
    let made = keyfold("keygen --json").run().json();
    let sealed =
        keyfold("seal --format kf1").env(MASTER_VARIABLE, made["key"].as_str().unwrap()).stdin("x").run().text();
    assert_eq!(keyfold("inspect").stdin(sealed).run().json()["kid"], made["kid"]);
}

#[test]
fn p08_without_a_key_nothing_is_sealed_and_the_message_says_how_to_make_one() {
    for (format, variable, option) in
        [("kf1", MASTER_VARIABLE, ""), ("v1", MASTER_VARIABLE, ""), ("fernet", FERNET_VARIABLE, " --fernet")]
    {
        let call = keyfold(&format!("seal --format {format}")).stdin("s3cret");
        let folder = call.home().join(".local/share/keyfold");
        let failed = call.run().fails(4, &[]);
        assert_eq!(
            failed.stderr,
            format!(
                "error: {variable} environment variable not set, and no data folder at {}\n  hint: make one: export \
                 {variable}=\"$(keyfold keygen{option})\"; or make a data folder: keyfold init\n",
                folder.display()
            )
        );
    }
}

#[test]
fn p08_without_a_key_nothing_is_opened_and_the_envelope_is_not_returned() {
    for format in ["kf1", "v1", "fernet"] {
        let sealed = keyed(&format!("seal --format {format}")).stdin("s3cret").run().text();
        keyfold("open").stdin(sealed).run().fails(4, &["environment variable not set", "keyfold keygen"]);
    }
}

#[test]
fn p08_an_empty_variable_and_older_keys_alone_are_a_missing_key() {
    keyfold("seal --format v1")
        .env(MASTER_VARIABLE, "")
        .run()
        .fails(4, &["REDIS_SRE_MASTER_KEY environment variable not set", "keyfold keygen"]);
    keyfold("seal --format v1")
        .env("REDIS_SRE_MASTER_KEY_PREVIOUS", MASTER)
        .run()
        .fails(4, &["REDIS_SRE_MASTER_KEY environment variable not set"]);
}

#[test]
fn p09_a_key_that_is_short_long_or_has_junk_in_it_is_refused_with_the_length_found() {
    let long = format!("AAAA{}", "A".repeat(44).replace("A=", "="));
    for (key, says) in [
        ("AAAA", "Master key must be 32 bytes, 3 found"),
        (&*long, "Master key must be 32 bytes, 36 found"),
        (&format!("{MASTER}x"), "45 characters found"),
        (&format!("x{MASTER}"), "45 characters found"),
        (&format!("'{MASTER}'"), "46 characters found"),
        (MASTER.trim_end_matches('='), "43 characters found"),
        ("not a key!", "10 characters found"),
    ] {
        for command in ["seal --format v1", "seal --format kf1"] {
            let failed = keyfold(command).env(MASTER_VARIABLE, key).stdin("s3cret").run();
            let failed = failed.fails(4, &["REDIS_SRE_MASTER_KEY", says, "REDIS_SRE_MASTER_KEY=\"$(keyfold keygen)\""]);
            assert!(!failed.stderr.contains(&MASTER[2..20]), "the key is not repeated: {}", failed.stderr);
        }
    }
    keyfold("seal --format fernet")
        .env(FERNET_VARIABLE, "AAAA")
        .run()
        .fails(4, &["Fernet key must be 32 bytes, 3 found", "keyfold keygen --fernet"]);
}

#[test]
fn p09_white_space_around_a_key_is_all_that_is_forgiven() {
    let sealed = keyfold("seal --format v1").env(MASTER_VARIABLE, format!(" {MASTER}\n")).stdin("x").run().text();
    assert_eq!(keyed("open").stdin(sealed).run().stdout, b"x");
}

#[test]
fn one_kind_of_key_does_not_get_in_the_way_of_the_other() {
    let sealed = keyed("seal --format fernet").stdin("x").run().text();
    let opened = keyfold("open").env(FERNET_VARIABLE, FERNET).env(MASTER_VARIABLE, "junk").stdin(sealed).run();
    assert_eq!(opened.stdout, b"x");
}

#[test]
fn older_keys_open_and_only_the_current_one_seals() {
    let old = keyfold("seal --format kf1").env(MASTER_VARIABLE, OTHER_MASTER).stdin("old").run().text();
    let both = |arguments| keyed(arguments).env("REDIS_SRE_MASTER_KEY_PREVIOUS", OTHER_MASTER);
    assert_eq!(both("open").stdin(&old).run().stdout, b"old");
    let new = both("seal --format kf1").stdin("new").run().text();
    assert_eq!(keyed("open").stdin(new).run().stdout, b"new");
}

#[test]
fn p10_a_failed_open_names_the_keys_that_were_tried_and_what_to_do() {
    let kid = |key: &str| {
        let sealed = keyfold("seal --format kf1").env(MASTER_VARIABLE, key).stdin("x").run().text();
        keyfold("inspect").stdin(sealed).run().json()["kid"].as_str().unwrap().to_owned()
    };
    let foreign = keyfold("seal --format v1").env(MASTER_VARIABLE, MASTER).stdin("x").run().text();
    let failed = keyfold("open").env(MASTER_VARIABLE, OTHER_MASTER).stdin(foreign).run().fails(4, &[]);
    assert_eq!(
        failed.stderr,
        format!(
            "error: Decryption failed: wrong key or changed v1 value; keys tried: `{}`\n  hint: put the key that sealed \
             it into REDIS_SRE_MASTER_KEY_PREVIOUS; compare ids with `keyfold keys list`\n",
            kid(OTHER_MASTER)
        )
    );
    let foreign = keyfold("seal --format kf1").env(MASTER_VARIABLE, MASTER).stdin("x").run().text();
    keyfold("open")
        .env(MASTER_VARIABLE, OTHER_MASTER)
        .stdin(foreign)
        .run()
        .fails(4, &[&format!("key `{}` is not in the keyring", kid(MASTER)), "hint: "]);
}
