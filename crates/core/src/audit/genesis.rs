//! The first line of a chain: who writes, for which deployment, after whom, and under which ephemeral key.
//!
//! The deployment's audit key signs it once. The ephemeral private half lives in the writer's memory and nowhere else,
//! so that after the process has ended nobody, not even the holder of the deployment's key, can sign that chain further
//! as that writer.

use crate::{
    audit::{
        chain::Tip,
        event::{EventError, MAX_INTEGER, MAX_LINE},
        key::{PublicKey, SigningKey, VerifierKey},
        text::Deployment,
    },
    clock::UnixTime,
    id::WriterId,
};

const LABEL: &[u8] = b"keyfold audit genesis v1\0";
const VERSION: &str = "keyfold-chain-v1";

/// What a genesis says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Whose log this is.
    pub deployment: Deployment,
    /// The writer's ephemeral public key.
    pub key: PublicKey,
    /// Where the writer of the latest note stood when this one started. It shows a chain's removal even where every
    /// note was removed with it.
    pub predecessor: Option<Tip>,
    /// When.
    pub time: UnixTime,
    /// Who.
    pub writer: WriterId,
}

/// A genesis with its signature, not necessarily a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGenesis {
    genesis: Genesis,
    signature: [u8; 64],
}

/// The stored line; members as RFC 8785 sorts them.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    deployment: Deployment,
    key: String,
    predecessor: Option<Tip>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    time: UnixTime,
    version: String,
    writer: WriterId,
}

impl Genesis {
    fn line(&self, signature: Option<&[u8; 64]>) -> Vec<u8> {
        let line = Line {
            deployment: self.deployment.clone(),
            key: base64_simd::STANDARD.encode_to_string(self.key.0),
            predecessor: self.predecessor,
            signature: signature.map(|bytes| base64_simd::STANDARD.encode_to_string(bytes)),
            time: self.time,
            version: VERSION.into(),
            writer: self.writer,
        };
        // A struct of texts and integers always serializes.
        serde_json::to_vec(&line).unwrap_or_default()
    }

    fn message(&self) -> Vec<u8> {
        [LABEL, &self.line(None)].concat()
    }

    /// The stored line, signed by the deployment's audit key, without its newline.
    #[must_use]
    pub fn sign(&self, deployment: &SigningKey) -> Vec<u8> {
        self.line(Some(&deployment.sign(&self.message())))
    }
}

impl SignedGenesis {
    /// Reads a stored line, which must be in its one canonical spelling. Nothing is verified yet.
    ///
    /// # Errors
    /// The line is too long, no genesis, or spelled another way.
    pub fn parse(line: &[u8]) -> Result<Self, EventError> {
        if line.len() > MAX_LINE {
            return Err(EventError::TooLong { len: line.len() });
        }
        let read: Line =
            serde_json::from_slice(line).map_err(|error| EventError::Malformed { column: error.column() })?;
        let signed = Self::from_line(read).ok_or(EventError::Malformed { column: 0 })?;
        if signed.genesis.line(Some(&signed.signature)) == line {
            Ok(signed)
        } else {
            Err(EventError::Malformed { column: 0 })
        }
    }

    fn from_line(line: Line) -> Option<Self> {
        let decode = |text: &str| base64_simd::STANDARD.decode_to_vec(text).ok();
        let key = PublicKey(decode(&line.key)?.try_into().ok()?);
        let signature = decode(line.signature.as_deref()?)?.try_into().ok()?;
        if line.version != VERSION || line.time.0 > MAX_INTEGER {
            return None;
        }
        let Line { deployment, predecessor, time, writer, .. } = line;
        Some(Self { genesis: Genesis { deployment, key, predecessor, time, writer }, signature })
    }

    /// What it says, whether or not it is true.
    #[must_use]
    pub const fn unverified(&self) -> &Genesis {
        &self.genesis
    }

    /// What it says, if the deployment's key signed it.
    #[must_use]
    pub fn verify(&self, key: &VerifierKey) -> Option<&Genesis> {
        let good = key.is_of(&self.genesis.deployment) && key.key().signed(&self.genesis.message(), &self.signature);
        good.then_some(&self.genesis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::Head;

    fn genesis() -> Genesis {
        Genesis {
            deployment: Deployment::new("d").unwrap(),
            key: PublicKey([5; 32]),
            predecessor: Some(Tip { head: Head([1; 32]), size: 9, writer: WriterId([2; 16]) }),
            time: UnixTime(1_800_000_000),
            writer: WriterId([3; 16]),
        }
    }

    #[test]
    fn it_reads_back_and_verifies_under_the_deployments_key_only() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let line = genesis().sign(&key);
        let read = SignedGenesis::parse(&line).unwrap();
        let own = VerifierKey::of(&Deployment::new("d").unwrap(), key.public());
        assert_eq!(read.verify(&own), Some(&genesis()));
        assert_eq!(read.verify(&VerifierKey::of(&Deployment::new("e").unwrap(), key.public())), None);
        assert_eq!(read.verify(&VerifierKey::of(&Deployment::new("d").unwrap(), PublicKey([9; 32]))), None);
        let forged = String::from_utf8(line).unwrap().replace("\"size\":9", "\"size\":8");
        assert_eq!(SignedGenesis::parse(forged.as_bytes()).unwrap().verify(&own), None);
    }

    #[test]
    fn another_spelling_is_refused() {
        let line = String::from_utf8(genesis().sign(&SigningKey::from_seed(&[1; 32]).unwrap())).unwrap();
        for bad in [line.replacen(',', ", ", 1), line.replacen('{', "{\"a\":1,", 1), line.to_uppercase()] {
            assert!(SignedGenesis::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line: Vec<u8>) {
            let _ = SignedGenesis::parse(&line);
        }
    }
}
