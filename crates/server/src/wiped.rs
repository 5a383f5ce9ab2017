//! Bytes that may hold secrets, on their way in and out: wiped when they are dropped, and wherever they outgrew their place.

use std::io;

use keyfold_core::secret::wipe;

/// A buffer that is wiped. By a plain fill: of an answer with a thousand secrets, stores byte by byte would be a tenth of the work.
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    /// With room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Adds bytes. A buffer that is outgrown is wiped, which `Vec` by itself would not do.
    pub(crate) fn extend(&mut self, more: &[u8]) {
        if self.0.capacity() - self.0.len() < more.len() {
            let mut larger = Self::with_capacity((self.0.len() + more.len()).max(2 * self.0.capacity()));
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
        self.0.extend_from_slice(more);
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        // All that was ever in it: nothing here makes it shorter.
        wipe(&mut self.0);
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn it_grows_and_keeps_what_it_held() {
        let mut bytes = Wiped::with_capacity(1);
        for n in 0..=255 {
            bytes.write_all(&[n; 7]).unwrap();
        }
        let whole: Vec<u8> = (0..=255).flat_map(|n| [n; 7]).collect();
        assert_eq!(bytes.as_ref(), whole);
    }
}
