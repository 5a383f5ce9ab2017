//! The transit engine of a real OpenBao.

use std::time::Duration;

use keyfold_core::{
    error::Hint,
    root::RootKey,
    secret::{Key32, Secret},
};
use keyfold_providers::{SourceUri, open, source};
use serde_json::json;

use crate::{
    components::{
        bao::{Bao, POLICY, ROOT_TOKEN},
        forwarder::{Forwarder, Mode, answer},
        in_child, is_child,
        kubernetes::{InsecureKubernetes, service_account_token},
        told,
    },
    remote::{block_on, fails, open as connect, open_shortly, wrapped},
    suite,
};

/// Starts a server and runs the test of this name again in a process that may use it.
fn child(name: &str, prepare: impl FnOnce(&Bao) -> Vec<(&'static str, String)>) {
    let Some(bao) = Bao::start() else { return };
    let mut variables = vec![("BAO_PORT", bao.port.to_string()), ("BAO_TOKEN", ROOT_TOKEN.to_owned())];
    let more = prepare(&bao);
    variables.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    variables.extend(more);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    in_child(name, &variables);
}

fn uri(key: &str) -> String {
    through(told("BAO_PORT").parse().unwrap(), key)
}

fn through(port: u16, key: &str) -> String {
    format!("hcvault://127.0.0.1:{port}/transit/keys/{key}?tls=off")
}

/// A request with the root token, from the child.
fn admin(method: &str, path: &str, body: &serde_json::Value) {
    let port = told("BAO_PORT").parse().unwrap();
    let path = format!("/v1/{path}");
    let (status, text) =
        crate::components::http(method, port, &path, &[("X-Vault-Token", ROOT_TOKEN)], &body.to_string()).unwrap();
    assert!(status < 300, "{path}: {status} {text}");
}

#[test]
fn openbao_transit_meets_the_suite() {
    const NAME: &str = "openbao::openbao_transit_meets_the_suite";
    if !is_child(NAME) {
        return child(NAME, |bao| {
            bao.key("other");
            Vec::new()
        });
    }
    block_on(suite::run(&connect(&uri("root")), &connect(&uri("other"))));
}

#[test]
fn without_tls_nothing_goes_through_a_proxy_of_the_environment() {
    const NAME: &str = "openbao::without_tls_nothing_goes_through_a_proxy_of_the_environment";
    if !is_child(NAME) {
        return child(NAME, |_| {
            // Nobody answers there; whoever did would read the token.
            let proxy = "http://127.0.0.1:1".to_owned();
            let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
            let mut variables: Vec<_> = names.into_iter().map(|name| (name, proxy.clone())).collect();
            variables.extend([("NO_PROXY", String::new()), ("no_proxy", String::new())]);
            variables
        });
    }
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        assert!(root.unwrap(&old, b"aad").await.is_ok());
    });
}

#[test]
fn a_key_whose_publication_is_answered_by_nobody_is_looked_for_and_not_called_unchanged() {
    const NAME: &str = "openbao::a_key_whose_publication_is_answered_by_nobody_is_looked_for_and_not_called_unchanged";
    if !is_child(NAME) {
        return child(NAME, |_| Vec::new());
    }
    let forwarder = Forwarder::start(told("BAO_PORT").parse().unwrap());
    let secret: SourceUri = format!("hcvault-kv://127.0.0.1:{}/secret/shared?tls=off", forwarder.port).parse().unwrap();
    let value = |text: &str| Secret::from(text.to_owned());
    block_on(async {
        assert_eq!(source::store(&secret, &value("one")).await.unwrap(), "1");
        // The server stores it, its answer is lost, and the second attempt is refused since the version moved on.
        forwarder.set(Mode::LoseWrites);
        assert_eq!(source::store(&secret, &value("two")).await.unwrap(), "2");
        forwarder.set(Mode::Pass);
        assert_eq!(source::fetch(&secret).await.unwrap().value.expose(), b"two");
        // Deleted, the secret goes on with its next version.
        admin("DELETE", "secret/data/shared", &json!({}));
        assert_eq!(source::store(&secret, &value("three")).await.unwrap(), "3");
    });
}

#[test]
fn openbao_says_apart_what_is_wrong_with_a_key() {
    const NAME: &str = "openbao::openbao_says_apart_what_is_wrong_with_a_key";
    if !is_child(NAME) {
        return child(NAME, |bao| {
            let only_encrypt = r#"path "transit/encrypt/root" { capabilities = ["update"] }"#;
            vec![("ENCRYPT_ONLY", bao.token("encrypt-only", only_encrypt, Duration::from_secs(600)))]
        });
    }
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        // A key that is not there is not made.
        let missing = connect(&uri("typo")).wrap(&Key32::new([1; 32]), b"aad").await.unwrap_err();
        assert_eq!(missing.kind(), "missing", "{missing}");
        let unmounted = connect(&uri("root").replace("transit", "elsewhere"));
        assert_eq!(fails(&unmounted, &old).await.kind(), "missing");
        // Rotated in its place, the key opens what its older version wrapped; below the minimum it is switched off.
        admin("POST", "transit/keys/root/rotate", &json!({}));
        assert_eq!(root.unwrap(&old, b"aad").await.ok().unwrap().expose(), &[7; 32]);
        admin("POST", "transit/keys/root/config", &json!({ "min_decryption_version": 2 }));
        let disabled = fails(&root, &old).await;
        assert_eq!(disabled.kind(), "disabled", "{disabled}");
        admin("POST", "transit/keys/root/config", &json!({ "min_decryption_version": 1, "deletion_allowed": true }));
        assert_eq!(root.unwrap(&old, b"aad").await.ok().unwrap().expose(), &[7; 32]);
        // A type that binds nothing is refused.
        admin("POST", "transit/keys/rsa", &json!({ "type": "rsa-2048" }));
        let unsuitable = connect(&uri("rsa")).wrap(&Key32::new([1; 32]), b"aad").await.unwrap_err();
        assert!(unsuitable.to_string().contains("does not bind"), "{unsuitable}");
        admin("DELETE", "transit/keys/root", &json!({}));
        assert_eq!(fails(&root, &old).await.kind(), "missing");
    });
}

#[test]
fn openbao_refuses_who_may_not() {
    const NAME: &str = "openbao::openbao_refuses_who_may_not";
    if !is_child(NAME) {
        return child(NAME, |bao| {
            let only_encrypt = r#"path "transit/encrypt/root" { capabilities = ["update"] }"#;
            vec![("BAO_TOKEN", bao.token("encrypt-only", only_encrypt, Duration::from_secs(600)))]
        });
    }
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        let denied = fails(&root, &old).await;
        assert_eq!(denied.kind(), "denied", "{denied}");
        assert!(denied.hint().unwrap().contains("right to encrypt and decrypt"));
        let mut errors = format!("{denied} {denied:?}");
        errors += &format!("{:?}", open(&uri("root").parse().unwrap()).map(drop));
        assert!(!errors.contains(&told("BAO_TOKEN")));
    });
}

#[test]
fn p45_without_a_way_to_log_in_nothing_is_opened() {
    const NAME: &str = "openbao::p45_without_a_way_to_log_in_nothing_is_opened";
    if !is_child(NAME) {
        return child(NAME, |_| vec![("BAO_TOKEN", String::new())]);
    }
    let error = open(&uri("root").parse().unwrap()).err().unwrap();
    assert!(error.to_string().contains("nothing lets this process in"), "{error}");
    assert!(error.hint().unwrap().contains("BAO_ROLE_ID"));
}

#[test]
fn openbao_by_app_role_renews_its_token_and_logs_in_again() {
    const NAME: &str = "openbao::openbao_by_app_role_renews_its_token_and_logs_in_again";
    if !is_child(NAME) {
        return child(NAME, |bao| {
            let (role, secret) = bao.app_role(POLICY, 2);
            vec![("BAO_TOKEN", String::new()), ("BAO_ROLE_ID", role), ("BAO_SECRET_ID", secret)]
        });
    }
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        for _ in 0..4 {
            let tended = root.tend().await.unwrap();
            assert!(tended.time.is_some() && tended.expires_in.is_some_and(|left| left <= 2), "{tended:?}");
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert!(root.unwrap(&old, b"aad").await.is_ok(), "the token ended and nobody renewed it");
        }
        // Revoked behind its back.
        admin("POST", "sys/leases/revoke-prefix/auth/approle", &json!({}));
        assert!(root.unwrap(&old, b"aad").await.is_ok(), "no second login");
    });
}

/// OpenBao's own login method, with a FAKE of the cluster that it asks: it knows which tokens are good, and nothing else.
#[test]
fn openbao_by_a_pods_identity_logs_in_and_takes_the_token_as_it_is_then() {
    const NAME: &str = "openbao::openbao_by_a_pods_identity_logs_in_and_takes_the_token_as_it_is_then";
    if !is_child(NAME) {
        let folder = tempfile::tempdir().unwrap();
        let (good, file) = (folder.path().join("good"), folder.path().join("token"));
        std::fs::write(&good, service_account_token(0) + "\n" + &service_account_token(1)).unwrap();
        std::fs::write(&file, service_account_token(1) + "\n").unwrap();
        let cluster = InsecureKubernetes::start(&good);
        return child(NAME, |bao| {
            bao.kubernetes(cluster.port, POLICY, 2);
            vec![
                ("BAO_TOKEN", String::new()),
                ("BAO_K8S_ROLE", "keyfold".into()),
                ("BAO_K8S_TOKEN_FILE", file.display().to_string()),
                ("GOOD", good.display().to_string()),
            ]
        });
    }
    let (good, file) = (told("GOOD"), told("BAO_K8S_TOKEN_FILE"));
    block_on(async {
        let root = connect(&uri("root"));
        let old = wrapped(&root).await;
        assert!(root.tend().await.unwrap().expires_in.is_some_and(|left| left <= 2));
        // The cluster gives the pod another token, and what the first one brought ends.
        std::fs::write(&good, service_account_token(0) + "\n" + &service_account_token(2)).unwrap();
        std::fs::write(&file, service_account_token(2)).unwrap();
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert!(root.unwrap(&old, b"aad").await.is_ok(), "no second login with the new token");
        // A token that the cluster does not know, and none.
        std::fs::write(&file, service_account_token(1)).unwrap();
        let denied = fails(&connect(&uri("root")), &old).await;
        assert_eq!(denied.kind(), "denied", "{denied}");
        assert!(denied.to_string().contains("the login by Kubernetes was refused"), "{denied}");
        let secret = service_account_token(1);
        assert!(!format!("{denied} {denied:?}").contains(&secret[secret.len() - 20..]));
        std::fs::remove_file(&file).unwrap();
        let missing = fails(&connect(&uri("root")), &old).await;
        assert!(missing.to_string().contains(&file), "{missing}");
        assert!(missing.hint().unwrap().contains("what this process logs in with"));
    });
}

#[test]
fn a_server_that_hangs_throttles_breaks_or_restarts_is_waited_for_within_bounds() {
    const NAME: &str = "openbao::a_server_that_hangs_throttles_breaks_or_restarts_is_waited_for_within_bounds";
    if !is_child(NAME) {
        return child(NAME, |_| Vec::new());
    }
    // OpenBao does none of this on request: a forwarder in front of it plays the faults.
    let forwarder = Forwarder::start(told("BAO_PORT").parse().unwrap());
    block_on(async {
        let root = open_shortly(&through(forwarder.port, "root"));
        let old = wrapped(&root).await;
        forwarder.set(Mode::Hang);
        let hung = fails(&root, &old).await;
        assert_eq!(hung.kind(), "timed_out", "{hung}");
        let limited = answer("429 Too Many Requests", r#"{"errors":["rate limit quota exceeded"]}"#);
        forwarder.set(Mode::Answer(limited.clone()));
        let before = forwarder.connections();
        let throttled = fails(&root, &old).await;
        assert_eq!(throttled.kind(), "throttled", "{throttled}");
        assert_eq!(forwarder.connections() - before, 4, "tried again, and not for ever");
        for passing in [
            Mode::Answers(2, limited),
            Mode::Answers(1, answer("503 Service Unavailable", r#"{"errors":["Vault is sealed"]}"#)),
        ] {
            forwarder.set(passing);
            assert!(root.unwrap(&old, b"aad").await.is_ok(), "not tried again");
        }
        forwarder.set(Mode::Answer(answer("503 Service Unavailable", r#"{"errors":["Vault is sealed"]}"#)));
        assert!(fails(&root, &old).await.to_string().contains("sealed"));
        forwarder.set(Mode::Break);
        assert_eq!(fails(&root, &old).await.kind(), "unavailable");
        // What a server repeats of the request is not repeated by us.
        let echo = r#"{"errors":["cannot parse BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="]}"#;
        forwarder.set(Mode::Answer(answer("400 Bad Request", echo)));
        let error = fails(&root, &old).await;
        assert!(!format!("{error} {error:?}").contains("BwcHBwcH"), "{error}");
        forwarder.set(Mode::Pass);
        assert!(root.unwrap(&old, b"aad").await.is_ok(), "the server came back");
    });
}
