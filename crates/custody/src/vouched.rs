//! Documents of the system store that decide over access, under a MAC: who can write the store, and holds no key of the
//! deployment, can remove them and put older ones back, and cannot make one up.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyfold_core::{
    error::Code,
    id::{from_hex, to_hex},
    keyring::Keyring,
    mac::{HmacKey, expand},
};

use crate::error::CustodyError;

/// Makes and checks the MACs.
pub struct Voucher(HmacKey);

impl Voucher {
    /// With a key derived from the deployment's audit key.
    ///
    /// # Errors
    /// The keyring comes from no document.
    pub fn of(keyring: &Keyring) -> Result<Self, CustodyError> {
        let seed = keyring.audit_seed().ok_or_else(|| CustodyError::Invalid {
            what: "the keyring document has no audit key".into(),
            hint: "make a deployment with `keyfold init`".into(),
            code: Some(Code::DocumentRefused),
        })?;
        Ok(Self(HmacKey::new(&expand(seed.expose(), b"keyfold access\0", &[]))))
    }

    /// What is stored under `name` for `value`.
    #[must_use]
    pub fn vouch(&self, name: &str, value: &[u8]) -> Vec<u8> {
        [to_hex(&self.mac(name, value)).as_bytes(), b"\n", value].concat()
    }

    /// The value in what was stored under `name`; `None` where it was not made here.
    #[must_use]
    pub fn check<'a>(&self, name: &str, stored: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, value) = (stored.get(..64)?, stored.get(65..)?);
        let mac: [u8; 32] = from_hex(std::str::from_utf8(mac).ok()?)?;
        verify_slices_are_equal(&mac, &self.mac(name, value)).ok().map(|()| value)
    }

    /// A keyed hash, for what may hold a secret and is only to be recognised.
    #[must_use]
    pub fn fingerprint(&self, name: &str, value: &[u8]) -> String {
        to_hex(&self.mac(name, value))
    }

    fn mac(&self, name: &str, value: &[u8]) -> [u8; 32] {
        self.0.sign(&[name.as_bytes(), b"\0", value])
    }
}
