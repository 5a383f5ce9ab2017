//! The secret itself: bytes that are wiped when dropped and that nothing can print.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

/// The longest secret that is sealed, in bytes (1 MiB).
pub const MAX_SECRET: usize = 1 << 20;

/// Plaintext. It has no `Debug`, `Clone`, `Display` or `Serialize`; [`Secret::expose`] is the one way to look inside.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes; they are wiped on drop.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Looks inside. Every use of this verb is a place where plaintext can leave.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the secret is the empty string.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Equality in time that depends on the lengths only.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}
