//! What every root key promises, whoever keeps it.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use keyfold_core::{
    clock::UnixTime,
    envelope::Format,
    error::Hint,
    keyring::{
        Entry, KeyMaterial, Keyring, Origin, Purpose, State,
        document::{self, DocumentError},
    },
    rng::SystemRandom,
    root::{RootError, RootKey},
    secret::Key32,
};
use keyfold_providers::KeyUri;

/// Counts what is asked of a root key.
pub(crate) struct Counted<'a> {
    pub(crate) inner: &'a dyn RootKey,
    pub(crate) calls: AtomicUsize,
}

#[async_trait]
impl RootKey for Counted<'_> {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.wrap(key, aad).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.unwrap(wrapped, aad).await
    }
}

/// The suite. `other` is a second key in the same place.
pub(crate) async fn run(root: &dyn RootKey, other: &dyn RootKey) {
    run_where(root, other, &["authentication"]).await;
}

/// The same where the component has another word for what does not open.
pub(crate) async fn run_where(root: &dyn RootKey, other: &dyn RootKey, refusals: &[&str]) {
    what_is_wrapped_opens(root).await;
    nothing_else_opens(root, other, refusals).await;
    a_keyring_costs_one_call(root).await;
    let uri: KeyUri = root.uri().parse().unwrap();
    assert_eq!(uri.to_string(), root.uri(), "the URI names the place for others to open");
}

async fn what_is_wrapped_opens(root: &dyn RootKey) {
    let key = Key32::new([0xA7; 32]);
    let long = [5; 300];
    for aad in [&b""[..], b"keyfold", b"\0\xff binary \n", &long] {
        let wrapped = root.wrap(&key, aad).await.unwrap();
        assert_eq!(root.unwrap(&wrapped, aad).await.ok().unwrap().expose(), key.expose());
        assert!(!wrapped.windows(8).any(|window| window == &key.expose()[..8]));
    }
    let (first, second) = (root.wrap(&key, b"x").await.unwrap(), root.wrap(&key, b"x").await.unwrap());
    assert_ne!(first, second, "two wrappings of one key look alike");
}

async fn nothing_else_opens(root: &dyn RootKey, other: &dyn RootKey, refusals: &[&str]) {
    let refused = |result: Result<Key32, RootError>, what: &str| {
        let error = result.err().unwrap_or_else(|| panic!("{what} opened"));
        assert!(refusals.contains(&error.kind()), "{what}: {error}");
        assert!(error.hint().is_some());
    };
    let wrapped = root.wrap(&Key32::new([9; 32]), b"this").await.unwrap();
    refused(root.unwrap(&wrapped, b"that").await, "another AAD");
    refused(root.unwrap(&wrapped, b"").await, "no AAD");
    refused(other.unwrap(&wrapped, b"this").await, "another key");
    refused(root.unwrap(b"", b"this").await, "nothing");
    refused(root.unwrap(&[0; 64], b"this").await, "zeros");
    for cut in [1, wrapped.len() / 2, wrapped.len() - 1] {
        refused(root.unwrap(&wrapped[..cut], b"this").await, "a part");
    }
    for at in (0..wrapped.len()).step_by((wrapped.len() / 24).max(1)).chain([wrapped.len() - 1]) {
        let mut changed = wrapped.clone();
        changed[at] ^= 2;
        refused(root.unwrap(&changed, b"this").await, "a changed byte");
    }
    refused(root.unwrap(&[&wrapped[..], b"x"].concat(), b"this").await, "a longer blob");
}

/// A keyring of this many entries.
pub(crate) fn keyring(entries: u8) -> Keyring {
    let mut keyring = Keyring::first("kr-suite", "d", Key32::new([9; 32]));
    for byte in 0..entries {
        let material = KeyMaterial::new(Purpose::Master, Key32::new([byte + 1; 32])).unwrap();
        let entry = Entry::new(material, State::Staged, vec![Format::Kf1], UnixTime(1), Origin::Document);
        keyring = keyring.staged(entry).unwrap();
    }
    keyring
}

async fn a_keyring_costs_one_call(root: &dyn RootKey) {
    let counted = Counted { inner: root, calls: AtomicUsize::new(0) };
    let keyring = keyring(20);
    let document = document::seal(&[&counted], &SystemRandom, &keyring).await.unwrap();
    assert_eq!(counted.calls.load(Ordering::SeqCst), 1, "one call to write");
    let opened = document::open(&counted, &document, 0).await.unwrap();
    assert_eq!(counted.calls.load(Ordering::SeqCst), 2, "one call to open");
    assert_eq!(opened.entries().len(), 20);
    assert_eq!(opened.roots(), [root.uri()]);
    let text = String::from_utf8(document).unwrap();
    let moved = text.replacen("kr-suite", "kr-other", 1);
    let error = document::open(root, moved.as_bytes(), 0).await.unwrap_err();
    assert!(matches!(error, DocumentError::Root(RootError::Authentication { .. })), "{error}");
}
