//! P43: no output, no log, no file and no process listing shows a secret, whatever command runs and however it ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::{collections::BTreeSet, fs};

use common::{
    FERNET, FERNET_VARIABLE, MASTER, MASTER_VARIABLE, OTHER_FERNET, OTHER_MASTER,
    needles::Needles,
    watch::{MISPLACED, NOT_A_KEY, PASSWORD, REFUSED, TYPED, Watch, watch},
};

#[test]
fn the_search_finds_what_it_is_meant_to_find() {
    let mut needles = Needles::default();
    needles.add("secret", b"hunter2hunter2");
    for text in ["xxhunter2hunter2", "aHVudGVyMmh1bnRlcjI=", "eGh1bnRlcjJodW50ZXIyeA==", "eHhodW50ZXIyaHVudGVyMnh4eA=="]
    {
        assert!(needles.find(text.as_bytes(), None).is_some(), "{text}");
    }
    assert!(needles.find(b"68756E74657232 68756e7465723268756e74657232", None).unwrap().contains("hex"));
    assert!(needles.find(b"hunter2", None).is_none());
    assert!(needles.find(b"hunter2hunter2", Some("secret")).is_none());
}

/// What each of the tests below runs, so that none of the commands is forgotten.
const RUN: [(&str, &[&str]); 6] = [
    ("values", &["keygen", "seal", "open", "inspect"]),
    (
        "records",
        &[
            "records",
            "records put",
            "records get",
            "records list",
            "records import",
            "records export",
            "records rm",
            "migrate",
            "rotate",
            "verify",
            "doctor",
        ],
    ),
    ("configuration", &["config", "config check", "config apply", "init"]),
    (
        "keys",
        &[
            "keys",
            "keys list",
            "keys create",
            "keys promote",
            "keys retire",
            "keys activate",
            "keys destroy",
            "keys census",
            "keys backup",
            "keys restore",
            "keys forget-process",
            "keys forget-store",
            "keys import",
            "keys publish",
            "keys add-root",
            "keys add-recovery",
            "keys remove-root",
            "keys rewrap-root",
            "keys maintain",
        ],
    ),
    (
        "service",
        &[
            "serve",
            "session",
            "session import",
            "session list",
            "session revoke",
            "session show",
            "session vouch",
            "token",
            "token create",
            "token list",
            "token revoke",
            "policy",
            "policy check",
            "policy explain",
            "policy learn",
            "policy test",
            "ca",
            "run",
        ],
    ),
    (
        "reading",
        &[
            "audit",
            "audit tail",
            "audit verify",
            "audit export",
            "audit key",
            "audit prune",
            "completions",
            "man",
            "demo",
        ],
    ),
];

/// Holds the files and the list of commands against what was promised.
fn ends(watch: Watch, name: &str) {
    watch.files();
    let ran = watch.ran.into_inner();
    let (_, promised) = RUN.iter().find(|(known, _)| *known == name).unwrap();
    for command in *promised {
        assert!(ran.contains(*command), "`keyfold {command}` was not run; ran: {ran:?}");
    }
}

#[test]
fn p43_none_of_the_commands_is_left_out_below() {
    let promised: BTreeSet<_> =
        RUN.iter().flat_map(|(_, commands)| commands.iter().map(|name| name.to_string())).collect();
    assert_eq!(every_command().into_iter().collect::<BTreeSet<_>>(), promised);
}

#[test]
fn p43_values_do_not_show_where_they_are_sealed_opened_and_inspected() {
    let watch = watch();
    values(&watch);
    ends(watch, "values");
}

#[test]
fn p43_secrets_of_records_do_not_show_whatever_becomes_of_the_record() {
    let watch = watch();
    records(&watch);
    ends(watch, "records");
}

#[test]
fn p43_what_stands_where_a_key_should_does_not_show() {
    let watch = watch();
    wrong_keys(&watch);
    watch.files();
}

#[test]
fn p43_what_stands_in_a_configuration_does_not_show() {
    let watch = watch();
    wrong_configuration(&watch);
    ends(watch, "configuration");
}

#[test]
fn p43_keys_do_not_show_in_any_state() {
    ends(keys(watch()), "keys");
}

#[test]
fn p43_secrets_do_not_show_in_what_makes_the_service_ready() {
    let watch = watch();
    service(&watch);
    ends(watch, "service");
}

#[test]
fn p43_what_only_reads_shows_nothing_either() {
    let watch = watch();
    reading(&watch);
    ends(watch, "reading");
}

/// Every command and every command below a command, as the help lists them.
fn every_command() -> Vec<String> {
    let listed = |of: &str| {
        let help = common::keyfold(of).arg("--help").run().text();
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
        let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
        names.into_iter().filter(|name| name != "help").collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for command in listed("") {
        for below in listed(&command) {
            all.push(format!("{command} {below}"));
        }
        all.push(command);
    }
    assert!(all.len() > 30, "{all:?}");
    all
}

/// `keygen`, `seal`, `open`, `inspect`.
fn values(watch: &Watch) {
    watch.run(None, || watch.call("keygen"));
    let keyed = |arguments: &str| watch.call(arguments).env(MASTER_VARIABLE, MASTER).env(FERNET_VARIABLE, FERNET);
    for format in ["kf1", "v1", "fernet"] {
        let seal = format!("seal --format {format} --quiet");
        let sealed = watch.once(None, keyed(&seal).stdin(TYPED)).text();
        watch.run(None, || keyed(&seal[..seal.len() - 8]).stdin(format!("{TYPED}\n")));
        watch.run(None, || keyed("seal --format kf1").env("SECRET", TYPED).arg("--from").arg("env:SECRET"));
        assert_eq!(watch.run(Some("typed"), || keyed("open").stdin(&sealed)).stdout, TYPED.as_bytes());
        watch.run(None, || keyed("inspect").stdin(&sealed));
        // Sealed under other keys, damaged, of another context.
        let other = |arguments: &str| {
            watch.call(arguments).env(MASTER_VARIABLE, OTHER_MASTER).env(FERNET_VARIABLE, OTHER_FERNET)
        };
        assert_eq!(watch.run(None, || other("open").stdin(&sealed)).code, 4);
        assert_eq!(watch.run(None, || keyed("open").stdin(&sealed[..sealed.len() - 2])).code, 4);
        // Only kf1 knows where it belongs; the others open, with a warning.
        let opens = (format != "kf1").then_some("typed");
        watch.run(opens, || keyed("open --context record=other").stdin(&sealed));
        watch.run(None, || keyed("open --accept plaintext").stdin(&sealed));
    }
    // What is no envelope: plaintext, and things that begin like one and hold a secret.
    let v1 =
        base64_simd::STANDARD.encode_to_string(format!("{{\"version\":\"v1\",\"ciphertext\":\"{TYPED}\",\"nonce\":3"));
    for given in [
        TYPED.to_owned(),
        format!("kf1.{TYPED}"),
        format!("kf9.{TYPED}"),
        format!("gAAAAA{TYPED}"),
        format!("b'gAAAAA{TYPED}'"),
        format!("vault:v1:{TYPED}"),
        v1,
    ] {
        watch.run(None, || keyed("open").stdin(&given));
        watch.run(None, || keyed("open --compat").stdin(&given));
        watch.run(None, || keyed("inspect").stdin(&given));
    }
    let not_text = [TYPED.as_bytes(), b"\xff\xfe"].concat();
    watch.run(None, || keyed("open").stdin(&not_text));
    watch.run(None, || keyed("inspect").stdin(&not_text));
    watch.run(Some("typed"), || keyed("open --accept plaintext").stdin(TYPED));
}

/// `records` in all its forms, and the jobs over what they store.
fn records(watch: &Watch) {
    let good =
        format!("{{\"id\":\"r2\",\"admin_password\":\"{PASSWORD}\",\"extension_secrets\":{{\"t\":\"{PASSWORD}\"}}}}");
    watch.run(None, || watch.call("records put instances r2 --replace").stdin(&good));
    watch.run(None, || watch.call("records put instances r2").stdin(&good));
    watch.run(None, || watch.call("records put instances r2 --if-revision 999").stdin(&good));
    watch.run(None, || watch.call("records put nowhere r2").stdin(&good));
    for bad in [
        format!("{{\"admin_password\":\"{REFUSED}"),
        format!("{{\"admin_password\":\"{REFUSED}\",\"admin_password\":\"{REFUSED}\"}}"),
        format!("{{\"admin_password\":[\"{REFUSED}\"]}}"),
        format!("{{\"admin_password\":{{\"value\":\"{REFUSED}\"}}}}"),
        format!("{{\"admin_password\":\"{REFUSED}\\ud800\"}}"),
        format!("{{\"admin_password\":\"{REFUSED}\"}} {REFUSED}"),
        format!("{REFUSED}: {{}}"),
        REFUSED.to_owned(),
        format!("\"{REFUSED}\""),
    ] {
        for arguments in
            ["records put instances bad", "records import instances", "records import instances --exported"]
        {
            let call = watch.call(arguments).arg("-vvv").env("KEYFOLD_LOG", "trace").stdin(&bad);
            assert!(matches!(watch.once(None, call).code, 2 | 4), "{arguments}: {bad}");
        }
    }
    let not_text = [b"{\"admin_password\":\"", REFUSED.as_bytes(), b"\xff\"}"].concat();
    watch.run(None, || watch.call("records put instances bad").stdin(&not_text));
    watch.run(None, || watch.call("records import instances").stdin(&not_text));
    let no_key = format!("{{\"id\":[\"{REFUSED}\"],\"admin_password\":\"{REFUSED}\"}}");
    watch.run(None, || watch.call("records import instances").stdin(&no_key));
    watch.run(None, || watch.call("records import instances --on-existing replace").stdin(&good));
    watch.run(None, || watch.call("records import instances").stdin(&good));

    // Plaintext on its way through the store: in it until the migration, and gone from every file after it.
    let plain = format!("{{\"id\":\"r3\",\"admin_password\":\"{PASSWORD}\",\"note\":\"n\"}}");
    watch.once(None, watch.call("records import instances --as-is").stdin(&plain));
    watch.run(None, || watch.call("doctor"));
    watch.run(None, || watch.call("records get instances r3"));
    watch.run(None, || watch.call("verify"));
    watch.run(None, || watch.call("migrate --dry-run"));
    assert_eq!(watch.once(None, watch.call("migrate -vvv").env("KEYFOLD_LOG", "trace")).code, 0);
    watch.files();

    // What does not open is named without being shown.
    let moved = watch.data.doc("instances", "r3");
    watch.data.plant("instances", "r4", &moved);
    watch.data.plant("instances", "r5", "{\"admin_password\":\"kf1.AAAA\",\"connection_url\":7}");
    for job in ["verify", "rotate", "rotate --reseal", "migrate", "migrate --to v1", "rotate --dry-run"] {
        assert_eq!(watch.run(None, || watch.call(job)).code, 1, "{job}");
    }
    watch.run(None, || watch.call("doctor"));
    watch.run(None, || watch.call("records get instances r4 --reveal"));
    watch.run(None, || watch.call("records rm instances r4"));
    watch.run(None, || watch.call("records rm instances r5"));
    watch.run(None, || watch.call("records list"));
    watch.run(None, || watch.call("records list instances"));
    watch.run(None, || watch.call("records get instances r2"));
    watch.run(Some("password"), || watch.call("records get instances r2 --reveal"));
    watch.run(Some("password"), || watch.call("records get instances r2 --field /admin_password"));
    watch.run(None, || watch.call("records get instances r2 --field /nothing"));
    watch.run(None, || watch.call("records export instances"));
}

/// Keys that are none, in every place where a key is read.
fn wrong_keys(watch: &Watch) {
    let damaged = format!("{MASTER}x");
    let short = &MASTER[4..];
    let list = format!("{OTHER_MASTER},{NOT_A_KEY}");
    for key in [NOT_A_KEY, &damaged, short, &list] {
        for variable in [MASTER_VARIABLE, FERNET_VARIABLE] {
            let previous = format!("{variable}_PREVIOUS");
            let good = if variable == MASTER_VARIABLE { MASTER } else { FERNET };
            for arguments in ["seal --format kf1", "seal --format fernet", "records list"] {
                watch.once(None, watch.call(arguments).arg("-vvv").env(variable, key).stdin(TYPED));
                watch
                    .once(None, watch.call(arguments).arg("-vvv").env(variable, good).env(&previous, key).stdin(TYPED));
            }
        }
        for uri in [key.to_owned(), format!("env:{NOT_A_KEY}"), format!("redis://u:{NOT_A_KEY}@h"), "env:HELD".into()] {
            for arguments in ["records list", "init", "keys restore keyring.json"] {
                let call = watch.call(arguments).arg("-vvv").env("KEYFOLD_ROOT_KEY", &uri).env("HELD", key);
                assert_ne!(watch.once(None, call).code, 0, "{arguments} with {uri}");
            }
        }
        let file = watch.data.file("root.key");
        let good = fs::read(&file).unwrap();
        fs::write(&file, key).unwrap();
        for arguments in ["records list", "init", "seal --format kf1"] {
            assert_ne!(watch.once(None, watch.call(arguments).arg("-vvv").stdin(TYPED)).code, 0, "{arguments}");
        }
        fs::write(&file, good).unwrap();
    }
}

/// Secrets in a configuration, where they do not belong.
fn wrong_configuration(watch: &Watch) {
    let config = fs::read_to_string(watch.data.file("keyfold.toml")).unwrap();
    for line in [
        format!("root_key = \"{MISPLACED}\""),
        format!("root_key = \"redis://u:{MISPLACED}@h\""),
        format!("root_key = \"env:{MISPLACED}\""),
        format!("root_key = [\"{MISPLACED}\"]"),
        format!("password = \"{MISPLACED}\""),
        format!("password = {MISPLACED}"),
        format!("password = \"{MISPLACED}"),
        format!("password {MISPLACED}"),
        format!("{{\"password\": \"{MISPLACED}\"}}"),
        format!("password = \"\\q{MISPLACED}\""),
        format!("collections = \"{MISPLACED}\""),
    ] {
        watch.data.configure(&format!("{line}\n{config}"));
        for arguments in ["config check", "records list", "init"] {
            assert_ne!(watch.once(None, watch.call(arguments).arg("-vvv")).code, 0, "{line}");
        }
    }
    for line in [
        format!("password = \"{MISPLACED}\""),
        format!("tenant = [\"{MISPLACED}\"]"),
        format!("reading = \"{MISPLACED}\""),
        format!("format = \"{MISPLACED}\""),
        format!("id = \"{MISPLACED} \""),
    ] {
        watch.data.configure(&format!("{config}\n{line}\n"));
        assert_eq!(watch.once(None, watch.call("config check").arg("-vvv")).code, 2, "{line}");
    }
    for accept in [
        format!("[\"{MISPLACED}\"]"),
        format!("\"{MISPLACED}\""),
        format!("[{{ format = \"v1\", until = \"{MISPLACED}\" }}]"),
    ] {
        watch.data.configure(&format!("[collections.instances]\nfields = [\"/admin_password\"]\naccept = {accept}\n"));
        assert_eq!(watch.once(None, watch.call("config check").arg("-vvv")).code, 2, "{accept}");
    }
    watch.data.configure(&config);
    watch.run(None, || watch.call("config check"));
    watch.run(None, || watch.call("config apply"));
    watch.run(None, || watch.call("config apply --loosen"));
    watch.run(None, || watch.call("init"));
}

/// The life of keys; afterwards the new ones are looked for too.
fn keys(watch: Watch) -> Watch {
    let old = watch.data.kid("primary");
    let created = watch.once(None, watch.call("keys create -vvv --json")).json();
    let new = created["kid"].as_str().unwrap().to_owned();
    watch.once(None, watch.call("keys create -vvv --suites fernet"));
    let watch = watch.with_keys();
    watch.run(None, || watch.call("keys create --suites kf1,fernet"));
    watch.run(None, || watch.call("keys list"));
    watch.run(None, || watch.call("keys census"));
    for arguments in [
        format!("keys promote {old}"),
        format!("keys retire {old}"),
        format!("keys promote {new}"),
        format!("keys retire {old} --wait 0"),
        "rotate".into(),
        "rotate --reseal".into(),
        format!("keys retire {old}"),
        format!("keys activate {old}"),
        format!("keys retire {old}"),
        format!("keys destroy {old}"),
        format!("keys destroy {old} --yes"),
        format!("keys destroy {old} --min-age 0 --yes"),
        format!("keys activate {old}"),
        format!("keys promote {NOT_A_KEY}"),
        "keys forget-process 00112233445566778899aabbccddeeff".into(),
        "keys forget-store redis://gone.example:6379".into(),
    ] {
        if arguments.contains(NOT_A_KEY) {
            // It stands in the arguments, since somebody put it there; what is asked is that no message repeats it.
            let ended = watch.call(&arguments).arg("-vvv").run();
            watch.clean("stderr of a kid that is none", ended.stderr.as_bytes(), None);
            continue;
        }
        watch.run(None, || watch.call(&arguments));
    }
    for held in [NOT_A_KEY, OTHER_MASTER] {
        for arguments in ["keys import --from env:HELD", "keys add-root env:HELD", "keys rewrap-root --to env:HELD"] {
            // The last one leaves the folder under a root key that only this call knows.
            if held == NOT_A_KEY || !arguments.contains("rewrap") {
                watch.once(None, watch.call(arguments).arg("-vvv").env("HELD", held));
            }
        }
    }
    watch.once(None, watch.call(&format!("keys publish {new} --to env:HELD -vvv")).env("HELD", NOT_A_KEY));
    let removed = watch.once(None, watch.call("keys remove-root env:HELD -vvv"));
    assert_eq!(removed.code, 0, "what is gone can be taken off: {}", removed.stderr);
    watch.once(None, watch.call("keys add-recovery -vvv"));
    watch.once(None, watch.call("keys maintain --every 90d --once -vvv"));
    watch.run(None, || watch.call("keys backup"));
    let backup = watch.data.file("backup");
    watch.once(None, watch.call("keys backup -vvv").arg(&backup));
    watch.once(None, watch.call("keys restore -vvv").arg(&backup));
    let text = fs::read_to_string(&backup).unwrap();
    fs::write(&backup, text.replace("kf-", "kg-")).unwrap();
    assert_ne!(watch.once(None, watch.call("keys restore -vvv").arg(&backup)).code, 0);
    fs::write(&backup, "{}").unwrap();
    assert_ne!(watch.once(None, watch.call("keys restore -vvv").arg(&backup)).code, 0);
    watch.with_keys()
}

/// Tokens, grants, and a server that is refused before it serves; what it answers while it serves is looked at elsewhere.
fn service(watch: &Watch) {
    watch.run(None, || watch.call("token create agent:bot"));
    watch.run(None, || watch.call("token list"));
    watch.run(None, || watch.call("token revoke 00112233445566778899aabbccddeeff"));
    for arguments in ["list", "show x", "revoke x", "vouch x", "import --store sqlite:///nowhere"] {
        watch.run(None, || watch.call(&format!("session {arguments}")));
    }
    watch.run(None, || watch.call("policy check"));
    watch.run(None, || watch.call("policy explain agent:bot open instances"));
    watch.run(None, || watch.call("policy learn"));
    let file = watch.data.file("expected.toml");
    fs::write(&file, format!("[[expect]]\nactor = \"{MISPLACED}\"\n")).unwrap();
    watch.once(None, watch.call("policy test -vvv").arg(&file));
    fs::remove_file(&file).unwrap();
    assert_ne!(watch.run(None, || watch.call("serve --listen 0.0.0.0:0")).code, 0);
    watch.run(None, || watch.call("ca"));
    let call = watch.call("run -vvv -- true").env("KEYFOLD_SERVER", "http://127.0.0.1:1");
    watch.once(None, call.env("KEYFOLD_HANDLE", MISPLACED).env("KEYFOLD_TOKEN", MISPLACED));
}

/// What reads, and what needs no folder.
fn reading(watch: &Watch) {
    for arguments in [
        "audit tail",
        "audit verify",
        "audit export",
        "audit key",
        "audit verify --key x",
        "audit prune --older-than 1d",
        "man",
    ] {
        watch.run(None, || watch.call(arguments));
    }
    watch.run(None, || watch.call("completions bash"));
    watch.once(None, watch.call("demo -vvv"));
    // Master keys of the environment are merged into the keyring and are secret there too.
    for arguments in ["keys list", "keys create", "keys backup", "rotate", "doctor", "audit tail"] {
        let call = watch.call(arguments).arg("-vvv");
        let call = call.env(MASTER_VARIABLE, MASTER).env(&format!("{MASTER_VARIABLE}_PREVIOUS"), OTHER_MASTER);
        watch.once(None, call.env(FERNET_VARIABLE, FERNET).env(&format!("{FERNET_VARIABLE}_PREVIOUS"), OTHER_FERNET));
    }
}
