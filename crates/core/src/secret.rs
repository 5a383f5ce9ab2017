//! The secret itself: bytes that are wiped when dropped and that nothing can print.

use aws_lc_rs::constant_time::verify_slices_are_equal;

/// The longest secret that is sealed, in bytes (1 MiB).
pub const MAX_SECRET: usize = 1 << 20;

/// Overwrites `bytes` with zeros and keeps the compiler from leaving that out.
///
/// A plain fill behind [`std::hint::black_box`] rather than volatile stores byte by byte: on the hot path the latter cost
/// a tenth of a whole seal. Not promised: that no copy was left in a register, in a swapped page or by a caller.
#[inline]
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Plaintext. It has no `Debug`, `Clone`, `Display` or `Serialize`; [`Secret::expose`] is the one way to look inside.
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes ownership of the bytes; they are wiped on drop.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
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

    /// Lets the library decrypt in place.
    pub(crate) fn with_bytes<T>(&mut self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        f(&mut self.0)
    }

    /// Cuts to `len` bytes; what is cut off is wiped.
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Some(rest) = self.0.get_mut(len..) {
            wipe(rest);
        }
        self.0.truncate(len);
    }

    /// Equality in time that depends on the lengths only.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
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

/// Text or bytes that may be secret and are worked on like any other: wiped when dropped, with all of their buffer.
///
/// By whole vectors, as [`wipe`] does it and with what that does not promise: jobs drop millions of documents, and stores byte by byte
/// would be a tenth of their work.
#[derive(PartialEq, Eq)]
pub struct Wiped<T: Buffer>(T);

/// What [`Wiped`] can hold.
pub trait Buffer {
    /// Overwrites everything that the buffer has room for.
    fn wipe_all(&mut self);
}

impl Buffer for Vec<u8> {
    fn wipe_all(&mut self) {
        fill(self);
        self.clear();
    }
}

/// Zeros for as long as there is room.
fn fill(bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.resize(bytes.capacity(), 0);
    std::hint::black_box(bytes.as_mut_slice());
}

impl Buffer for String {
    fn wipe_all(&mut self) {
        std::mem::take(self).into_bytes().wipe_all();
    }
}

impl<T: Buffer> Wiped<T> {
    /// Takes ownership of the buffer.
    #[must_use]
    pub const fn new(buffer: T) -> Self {
        Self(buffer)
    }
}

impl<T: Buffer> std::ops::Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Buffer> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.wipe_all();
    }
}

/// 32 bytes of key material, wiped when dropped. Like [`Secret`], nothing prints or copies it by accident.
pub struct Key32([u8; 32]);

impl Key32 {
    /// Takes the bytes of a key.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Looks inside.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Key32 {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_buffer_is_overwritten_where_it_lies_to_its_end() {
        let mut bytes = b"hunter2, and room behind it".to_vec();
        bytes.truncate(7);
        let (room, place) = (bytes.capacity(), bytes.as_ptr());
        fill(&mut bytes);
        assert_eq!((bytes.len(), bytes.as_ptr()), (room, place));
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.wipe_all();
        let mut text = String::from("hunter2");
        text.wipe_all();
        assert!(bytes.is_empty() && text.is_empty());
    }

    #[test]
    fn a_wiped_text_reads_as_the_text() {
        assert_eq!(Wiped::new(String::from("x")).len(), 1);
        assert!(Wiped::new(vec![1, 2]) == Wiped::new(vec![1, 2]));
    }
}
