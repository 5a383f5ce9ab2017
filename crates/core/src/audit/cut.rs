//! What retention leaves in the place of a chain's oldest events: where they ended, signed by the deployment's audit key.
//!
//! ```text
//! {"cut":{"head":…,"size":…,"writer":…},"signature":…,"time":…}
//! ```
//!
//! It stands after the genesis, in the place of the events that it stands for. The events after it are hashed onto its head, and
//! the checkpoints that cover them cover it: a cut that lies about the head is a changed chain. Without a cut, missing events are
//! *removed*. Not promised: that what was cut was harmless. Whoever holds the audit key decided that; copies elsewhere keep it.

use crate::{
    audit::{
        chain::Tip,
        event::{EventError, MAX_INTEGER, MAX_LINE},
        key::{SigningKey, VerifierKey},
    },
    clock::UnixTime,
};

const LABEL: &[u8] = b"keyfold audit cut v1\0";

/// Where the events that are gone ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The chain's point after the last of them.
    pub tip: Tip,
    /// When they were taken out.
    pub time: UnixTime,
}

/// A cut with its signature, not necessarily a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCut {
    cut: Cut,
    signature: [u8; 64],
}

/// The stored line; members as RFC 8785 sorts them.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    cut: Tip,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    time: UnixTime,
}

impl Cut {
    fn line(&self, signature: Option<&[u8; 64]>) -> Vec<u8> {
        let signature = signature.map(|bytes| base64_simd::STANDARD.encode_to_string(bytes));
        // A struct of texts and integers always serializes.
        serde_json::to_vec(&Line { cut: self.tip, signature, time: self.time }).unwrap_or_default()
    }

    fn message(&self, deployment: &VerifierKey) -> Vec<u8> {
        [LABEL, deployment.name().as_bytes(), b"\0", &self.line(None)].concat()
    }

    /// The stored line, signed by the deployment's audit key, without its newline. `of` is the public half of `key`.
    #[must_use]
    pub fn sign(&self, key: &SigningKey, of: &VerifierKey) -> Vec<u8> {
        self.line(Some(&key.sign(&self.message(of))))
    }
}

impl SignedCut {
    /// Reads a stored line, which must be in its one canonical spelling. Nothing is verified yet.
    ///
    /// # Errors
    /// The line is too long, no cut, or spelled another way.
    pub fn parse(line: &[u8]) -> Result<Self, EventError> {
        if line.len() > MAX_LINE {
            return Err(EventError::TooLong { len: line.len() });
        }
        let malformed = || EventError::Malformed { column: 0 };
        let read: Line =
            serde_json::from_slice(line).map_err(|error| EventError::Malformed { column: error.column() })?;
        let signature = read.signature.as_deref().ok_or_else(malformed)?;
        let signature = base64_simd::STANDARD.decode_to_vec(signature).map_err(|_| malformed())?;
        let signature = signature.try_into().map_err(|_| malformed())?;
        let cut = Cut { tip: read.cut, time: read.time };
        let bounded = cut.tip.size <= MAX_INTEGER && cut.time.0 <= MAX_INTEGER;
        if bounded && cut.line(Some(&signature)) == line { Ok(Self { cut, signature }) } else { Err(malformed()) }
    }

    /// What it says, whether or not it is true.
    #[must_use]
    pub const fn unverified(&self) -> &Cut {
        &self.cut
    }

    /// What it says, if the deployment's key signed it.
    #[must_use]
    pub fn verify(&self, key: &VerifierKey) -> Option<&Cut> {
        key.key().signed(&self.cut.message(key), &self.signature).then_some(&self.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Deployment, event::Head},
        id::WriterId,
    };

    #[test]
    fn it_reads_back_and_verifies_under_its_deployments_key_only() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let of = |name: &str| VerifierKey::of(&Deployment::new(name).unwrap(), key.public());
        let tip = Tip { head: Head([1; 32]), size: 9, writer: WriterId([2; 16]) };
        let cut = Cut { tip, time: UnixTime(1_800_000_000) };
        let line = cut.sign(&key, &of("d"));
        let read = SignedCut::parse(&line).unwrap();
        assert_eq!((read.verify(&of("d")), read.verify(&of("e"))), (Some(&cut), None));
        let text = String::from_utf8(line).unwrap();
        let forged = text.replace("\"size\":9", "\"size\":8");
        assert_eq!(SignedCut::parse(forged.as_bytes()).unwrap().verify(&of("d")), None);
        for bad in [text.replacen(',', ", ", 1), text.replacen('{', "{\"a\":1,", 1), String::new()] {
            assert!(SignedCut::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line: Vec<u8>) {
            let _ = SignedCut::parse(&line);
        }
    }
}
