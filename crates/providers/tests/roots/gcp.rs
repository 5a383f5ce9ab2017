//! GCP KMS against a FAKE: Google offers no emulator. What is shown is that we send what the API asks for and refuse answers
//! that it says to refuse.

use crate::{
    components::forwarder::{Forwarder, Mode},
    gcp_fake::{Fault, InsecureGcp},
    remote::{block_on, fails, open as connect, open_shortly, wrapped},
    suite,
};

#[test]
fn gcp_kms_meets_the_suite_on_a_fake() {
    let gcp = InsecureGcp::start();
    block_on(suite::run(&connect(&gcp.key("one", None)), &connect(&gcp.key("two", None))));
}

#[test]
fn a_checksum_that_does_not_fit_is_refused_both_ways() {
    let gcp = InsecureGcp::start();
    block_on(async {
        let root = open_shortly(&gcp.key("one", None));
        let old = wrapped(&root).await;
        gcp.set(Fault::Damaged);
        let before = gcp.calls();
        let error = fails(&root, &old).await;
        assert!(error.to_string().contains("CRC32C"), "{error}");
        assert_eq!(gcp.calls() - before, 4, "damage may pass: tried again, within bounds");
        let key = keyfold_core::secret::Key32::new([1; 32]);
        for fault in [Fault::Damaged, Fault::Unverified] {
            gcp.set(fault);
            let error = keyfold_core::root::RootKey::wrap(&root, &key, b"aad").await.unwrap_err();
            assert!(error.to_string().contains("CRC32C"), "{error}");
        }
    });
}

#[test]
fn gcp_says_apart_what_is_wrong() {
    let gcp = InsecureGcp::start();
    let forwarder = Forwarder::start(gcp.port);
    block_on(async {
        let root = open_shortly(&gcp.key("one", Some(forwarder.port)));
        let old = wrapped(&root).await;
        assert_eq!(fails(&connect(&gcp.key("missing", None)), &old).await.kind(), "missing");
        assert_eq!(fails(&connect(&gcp.key("disabled", None)), &old).await.kind(), "disabled");
        for (status, word, kind) in [
            (403, "PERMISSION_DENIED", "denied"),
            (401, "UNAUTHENTICATED", "denied"),
            (429, "RESOURCE_EXHAUSTED", "throttled"),
            (503, "UNAVAILABLE", "unavailable"),
        ] {
            gcp.set(Fault::Refuses(status, word));
            let error = fails(&root, &old).await;
            assert_eq!(error.kind(), kind, "{word}: {error}");
            assert!(!error.to_string().contains("refused by the fake"));
        }
        gcp.set(Fault::None);
        forwarder.set(Mode::Hang);
        assert_eq!(fails(&root, &old).await.kind(), "timed_out");
        forwarder.set(Mode::Pass);
        assert!(keyfold_core::root::RootKey::unwrap(&root, &old, b"aad").await.is_ok());
    });
}
