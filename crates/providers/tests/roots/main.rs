//! One suite for every root key, against the real component where there is one; and the faults of each place.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

#[cfg(feature = "aws")]
mod aws;
#[path = "../components/mod.rs"]
mod components;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "gcp")]
#[path = "../components/gcp_fake.rs"]
mod gcp_fake;
mod local;
#[cfg(feature = "hcvault")]
mod openbao;
#[cfg(feature = "pkcs11")]
mod softhsm;
mod suite;

#[cfg(feature = "remote")]
mod remote {
    use std::time::Duration;

    use keyfold_core::root::{RootError, RootKey};
    use keyfold_core::secret::Key32;
    use keyfold_providers::{Bounds, Root, open_within};

    /// Short enough for tests of what never answers.
    pub(crate) fn short() -> Bounds {
        Bounds { attempt: Duration::from_millis(400), pause: Duration::from_millis(10), ..Bounds::default() }
    }

    pub(crate) fn open(uri: &str) -> Root {
        open_within(&uri.parse().unwrap(), Bounds::default()).unwrap()
    }

    pub(crate) fn open_shortly(uri: &str) -> Root {
        open_within(&uri.parse().unwrap(), short()).unwrap()
    }

    pub(crate) async fn fails(root: &dyn RootKey, wrapped: &[u8]) -> RootError {
        let error = root.unwrap(wrapped, b"aad").await.err().unwrap();
        assert!(error.to_string().starts_with(root.uri()), "{error}");
        error
    }

    pub(crate) async fn wrapped(root: &dyn RootKey) -> Vec<u8> {
        root.wrap(&Key32::new([7; 32]), b"aad").await.unwrap()
    }

    pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let done = runtime.block_on(work);
        // A library that hangs keeps its thread.
        runtime.shutdown_background();
        done
    }
}
