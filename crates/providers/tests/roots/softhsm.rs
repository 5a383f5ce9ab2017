//! PKCS#11 against SoftHSM.

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::Attribute,
    session::UserType,
};
use keyfold_core::{error::Hint, root::RootKey, secret::Key32};
use keyfold_providers::open;

use crate::{
    components::{
        in_child, is_child,
        softhsm::{PIN, SoftHsm},
        told,
    },
    remote::{block_on, fails, open as connect, open_shortly, wrapped},
    suite,
};

fn child(name: &str, pin: &str) {
    let Some(hsm) = SoftHsm::start() else { return };
    let (config, uri) = (hsm.config(), hsm.uri("KEY"));
    in_child(name, &[("SOFTHSM2_CONF", &config), ("KEY_URI", &uri), ("KEYFOLD_PKCS11_PIN", pin)]);
}

fn uri(key: &str) -> String {
    told("KEY_URI").replace("KEY", key)
}

/// A session of the test's own, in the same process, as the library wants it.
fn session() -> cryptoki::session::Session {
    let module = uri("x").split_once("module-path=").unwrap().1.to_owned();
    let context = Pkcs11::new(module).unwrap();
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = context.get_slots_with_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&PIN.to_owned().into()));
    session
}

fn make(label: &str, more: &[Attribute]) {
    let mut template = vec![
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ];
    for attribute in more {
        template.retain(|other| std::mem::discriminant(other) != std::mem::discriminant(attribute));
    }
    template.extend_from_slice(more);
    session().generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

#[test]
fn softhsm_meets_the_suite() {
    const NAME: &str = "softhsm::softhsm_meets_the_suite";
    if !is_child(NAME) {
        return child(NAME, PIN);
    }
    make("root", &[]);
    make("other", &[]);
    block_on(suite::run(&connect(&uri("root")), &connect(&uri("other"))));
}

#[test]
fn a_token_that_only_wraps_keys_meets_the_suite() {
    const NAME: &str = "softhsm::a_token_that_only_wraps_keys_meets_the_suite";
    if !is_child(NAME) {
        return child(NAME, PIN);
    }
    make("root", &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
    make("other", &[]);
    let wrapping = |key: &str| format!("{}&mechanism=key-wrap", uri(key));
    block_on(async {
        let (root, other) = (connect(&wrapping("root")), connect(&wrapping("other")));
        // Deterministic by design, so without the part of the suite that wants two wrappings to differ.
        let key = Key32::new([7; 32]);
        let blob = root.wrap(&key, b"aad").await.unwrap();
        assert_eq!(root.unwrap(&blob, b"aad").await.ok().unwrap().expose(), key.expose());
        for (root, aad) in [(&root, &b"other"[..]), (&root, b""), (&other, b"aad")] {
            assert_eq!(root.unwrap(&blob, aad).await.err().unwrap().kind(), "authentication");
        }
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 1;
            let error = root.unwrap(&changed, b"aad").await.err().unwrap();
            assert_eq!(error.kind(), "authentication", "byte {at}: {error}");
        }
    });
}

#[test]
fn softhsm_says_apart_what_is_wrong_with_a_key() {
    const NAME: &str = "softhsm::softhsm_says_apart_what_is_wrong_with_a_key";
    if !is_child(NAME) {
        return child(NAME, PIN);
    }
    make("root", &[]);
    make("encrypts-only", &[Attribute::Decrypt(false)]);
    make("leaves", &[Attribute::Extractable(true)]);
    make("twice", &[]);
    make("twice", &[]);
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        assert_eq!(fails(&connect(&uri("none")), &old).await.kind(), "missing");
        let one_way = connect(&uri("encrypts-only"));
        let theirs = wrapped(&one_way).await;
        assert_eq!(fails(&one_way, &theirs).await.kind(), "disabled");
        let leaves = connect(&uri("leaves")).wrap(&Key32::new([1; 32]), b"aad").await.unwrap_err();
        assert!(leaves.to_string().contains("taken out of the token"), "{leaves}");
        assert!(fails(&connect(&uri("twice")), &old).await.to_string().contains("several keys"));
        let elsewhere = uri("root").replace("token=keyfold", "token=another");
        assert_eq!(fails(&connect(&elsewhere), &old).await.kind(), "missing");
        let module = told("KEY_URI").split_once("module-path=").unwrap().1.to_owned();
        let no_module = connect(&uri("root").replace(&module, "/nonexistent.so"));
        assert!(fails(&no_module, &old).await.to_string().contains("not a PKCS#11 library"));
        let session = session();
        let found = session.find_objects(&[Attribute::Label(b"root".to_vec())]).unwrap();
        session.destroy_object(found[0]).unwrap();
        assert_eq!(fails(&root, &old).await.kind(), "missing", "deleted");
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_not_repeated() {
    const NAME: &str = "softhsm::a_wrong_pin_is_tried_once_and_not_repeated";
    if !is_child(NAME) {
        return child(NAME, "13577531");
    }
    block_on(async {
        let denied = fails(&connect(&uri("root")), &[0; 60]).await;
        assert_eq!(denied.kind(), "denied", "{denied}");
        assert!(!format!("{denied} {denied:?}").contains("13577531"));
        let unset = connect(&format!("{}&pin-source=env:NOT_SET", uri("root")));
        assert!(fails(&unset, &[0; 60]).await.to_string().contains("NOT_SET is not set"));
    });
    assert!(open(&"pkcs11:token=t;object=o".parse().unwrap()).is_err(), "no module is named");
}

#[test]
fn several_threads_share_a_token() {
    const NAME: &str = "softhsm::several_threads_share_a_token";
    if !is_child(NAME) {
        return child(NAME, PIN);
    }
    make("root", &[]);
    block_on(async {
        let root = std::sync::Arc::new(connect(&uri("root")));
        let mut tasks = tokio::task::JoinSet::new();
        for byte in 0..16 {
            let root = std::sync::Arc::clone(&root);
            tasks.spawn(async move {
                let blob = root.wrap(&Key32::new([byte; 32]), &[byte]).await.unwrap();
                assert_eq!(root.unwrap(&blob, &[byte]).await.ok().unwrap().expose(), &[byte; 32]);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}

/// Runs the test of this name again, before the library that plays faults (`components/faulty_token.c`).
fn faulty_child(name: &str, pin: &str) {
    let Some(hsm) = SoftHsm::start() else { return };
    let Some(faulty) = hsm.faulty() else { return };
    let config = hsm.config();
    let mut variables = vec![("SOFTHSM2_CONF", &*config), ("KEYFOLD_PKCS11_PIN", pin), ("KEY_URI", &*faulty.uri)];
    variables.extend(faulty.variables.iter().map(|(name, value)| (*name, &**value)));
    in_child(name, &variables);
}

fn fault(letters: &str) {
    std::fs::write(told("KEYFOLD_TEST_FAULTS"), letters).unwrap();
}

/// How often a function was called.
fn called(letter: char) -> usize {
    let calls = std::fs::read_to_string(told("KEYFOLD_TEST_FAULTS") + ".calls").unwrap_or_default();
    calls.chars().filter(|found| *found == letter).count()
}

#[test]
fn a_pin_that_was_refused_is_not_sent_again_and_another_one_is() {
    const NAME: &str = "softhsm::a_pin_that_was_refused_is_not_sent_again_and_another_one_is";
    if !is_child(NAME) {
        return faulty_child(NAME, PIN);
    }
    make("root", &[]);
    let file = told("KEYFOLD_TEST_FAULTS") + ".pin";
    let root = format!("{}&pin-source=file:{file}", uri("root"));
    block_on(async {
        let old = wrapped(&connect(&uri("root"))).await;
        let before = called('L');
        std::fs::write(&file, "13577531").unwrap();
        for _ in 0..5 {
            // As the check of every minute, and as other keys of the token do.
            let denied = fails(&connect(&root), &old).await;
            assert_eq!(denied.kind(), "denied", "{denied}");
        }
        assert_eq!(called('L') - before, 1, "the wrong PIN was sent again");
        std::fs::write(&file, PIN).unwrap();
        assert!(connect(&root).unwrap(&old, b"aad").await.is_ok(), "the PIN was put right");
    });
}

#[test]
fn a_token_that_hangs_for_hours_keeps_a_few_threads_and_no_more() {
    const NAME: &str = "softhsm::a_token_that_hangs_for_hours_keeps_a_few_threads_and_no_more";
    if !is_child(NAME) {
        return faulty_child(NAME, PIN);
    }
    make("root", &[]);
    block_on(async {
        let root = open_shortly(&uri("root"));
        let old = wrapped(&root).await;
        let before = called('O');
        fault("H*");
        for _ in 0..10 {
            assert_eq!(fails(&root, &old).await.kind(), "timed_out");
        }
        assert_eq!(called('O') - before, 8, "each call that hangs keeps a thread");
    });
}

/// SoftHSM never hangs, runs out of sessions or fails.
#[test]
fn a_token_that_hangs_is_shared_or_fails_is_waited_for_within_bounds() {
    const NAME: &str = "softhsm::a_token_that_hangs_is_shared_or_fails_is_waited_for_within_bounds";
    if !is_child(NAME) {
        return faulty_child(NAME, PIN);
    }
    make("root", &[]);
    block_on(async {
        let root = open_shortly(&uri("root"));
        let old = wrapped(&root).await;
        for (letters, kind, says) in [
            ("T*", "throttled", "throttles"),
            ("D*", "unavailable", "the token failed in C_OpenSession"),
            ("d*", "unavailable", "the token failed in C_Decrypt"),
            ("H*", "timed_out", "no answer"),
            ("h*", "timed_out", "no answer"),
        ] {
            fault(letters);
            let error = fails(&root, &old).await;
            assert_eq!(error.kind(), kind, "{letters}: {error}");
            assert!(error.to_string().contains(says), "{letters}: {error}");
            assert!(error.hint().is_some());
        }
        for passing in ["T", "D", "d", "H", "h"] {
            fault(passing);
            assert_eq!(root.unwrap(&old, b"aad").await.unwrap().expose(), &[7; 32], "{passing}: not tried again");
        }
    });
}
