//! AWS KMS against moto.

use keyfold_core::{error::Hint, root::RootKey};

use crate::{
    components::{
        forwarder::{Forwarder, Mode, answer},
        in_child, is_child,
        moto::Moto,
        told,
    },
    remote::{block_on, fails, open as connect, open_shortly, wrapped},
    suite,
};

fn child(name: &str, more: &[(&str, &str)]) {
    let Some(moto) = Moto::start() else { return };
    let forwarder = Forwarder::start(moto.port);
    let (one, two) = (moto.key(), moto.key());
    let port = moto.port.to_string();
    let mut variables = Moto::variables(forwarder.port);
    variables.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    let mut variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    variables.extend([("KEY_ONE", &*one), ("KEY_TWO", &*two), ("MOTO_PORT", &*port)]);
    variables.extend_from_slice(more);
    in_child(name, &variables);
}

fn uri(name: &str) -> String {
    format!("aws-kms://{}", told(name))
}

#[test]
fn aws_kms_meets_the_suite() {
    const NAME: &str = "aws::aws_kms_meets_the_suite";
    if !is_child(NAME) {
        return child(NAME, &[]);
    }
    // Where AWS says that a ciphertext is of another key, moto says that nobody may use it.
    let refusals = ["authentication", "denied"];
    block_on(suite::run_where(&connect(&uri("KEY_ONE")), &connect(&uri("KEY_TWO")), &refusals));
}

/// moto enforces neither keys that are disabled nor who may ask, and never throttles: a forwarder answers as AWS documents it.
#[test]
fn aws_says_apart_what_is_wrong() {
    const NAME: &str = "aws::aws_says_apart_what_is_wrong";
    if !is_child(NAME) {
        let Some(moto) = Moto::start() else { return };
        let forwarder = Forwarder::start(moto.port);
        let arn = moto.key();
        // The child cannot reach this forwarder's switch, and starts one of its own in front of it.
        let port = forwarder.port.to_string();
        let variables = Moto::variables(forwarder.port);
        let mut variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
        variables.extend([("KEY_ONE", &*arn), ("MOTO_PORT", &*port)]);
        variables.retain(|(name, _)| *name != "AWS_ENDPOINT_URL");
        let own = crate::components::free_port().to_string();
        let endpoint = format!("http://127.0.0.1:{own}");
        variables.extend([("OWN_PORT", &*own), ("AWS_ENDPOINT_URL", &*endpoint)]);
        return in_child(NAME, &variables);
    }
    let forwarder = Forwarder::start_at(told("OWN_PORT").parse().unwrap(), told("MOTO_PORT").parse().unwrap());
    let refusal =
        |code: &str| answer("400 Bad Request", &format!(r#"{{"__type":"{code}","message":"echo BwcHBwcH"}}"#));
    block_on(async {
        let root = open_shortly(&uri("KEY_ONE"));
        let old = wrapped(&root).await;
        for (code, kind) in [
            ("DisabledException", "disabled"),
            ("KMSInvalidStateException", "disabled"),
            ("NotFoundException", "missing"),
            ("AccessDeniedException", "denied"),
            ("ExpiredTokenException", "denied"),
            ("InvalidCiphertextException", "authentication"),
            ("ThrottlingException", "throttled"),
            ("KMSInternalException", "unavailable"),
        ] {
            forwarder.set(Mode::Answer(refusal(code)));
            let error = fails(&root, &old).await;
            assert_eq!(error.kind(), kind, "{code}: {error}");
            assert!(!format!("{error} {error:?}").contains("BwcH"));
            assert!(error.hint().is_some());
        }
        forwarder.set(Mode::Answers(2, refusal("ThrottlingException")));
        assert!(root.unwrap(&old, b"aad").await.is_ok(), "not tried again");
        forwarder.set(Mode::Hang);
        assert_eq!(fails(&root, &old).await.kind(), "timed_out");
        forwarder.set(Mode::Break);
        let before = forwarder.connections();
        let broken = fails(&root, &old).await;
        assert!(broken.to_string().contains("cannot be reached"), "{broken}");
        assert_eq!(forwarder.connections() - before, 4, "tried again, and not for ever");
        forwarder.set(Mode::Pass);
        assert!(root.unwrap(&old, b"aad").await.is_ok(), "AWS came back");
        let arn = told("KEY_ONE");
        let (most, last) = arn.split_at(arn.len() - 1);
        let elsewhere = format!("{most}{}", if last == "0" { "1" } else { "0" });
        let gone = fails(&connect(&format!("aws-kms://{elsewhere}")), &old).await;
        assert!(["missing", "authentication", "denied"].contains(&gone.kind()), "{gone}");
    });
}

#[test]
fn p45_without_credentials_nothing_is_opened() {
    const NAME: &str = "aws::p45_without_credentials_nothing_is_opened";
    if !is_child(NAME) {
        return child(NAME, &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")]);
    }
    block_on(async {
        let denied = fails(&connect(&uri("KEY_ONE")), b"x").await;
        assert_eq!(denied.kind(), "denied", "{denied}");
        assert!(denied.to_string().contains("credentials"));
    });
}
