//! A key of the transit engine: `hcvault://HOST/MOUNT/keys/NAME`.

use async_trait::async_trait;
use keyfold_core::{
    root::{RootError, RootKey, Tended},
    secret::{Key32, Secret},
};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::client::{Client, Method, nothing};
use crate::{Bounds, KeyUri, VaultKey};

/// Key types that authenticate associated data. Others refuse it, or leave it out.
const TYPES: &[&str] = &["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];

/// Wraps by `encrypt` and unwraps by `decrypt`, with the associated data of the API.
pub(crate) struct Transit {
    client: Client,
    key: VaultKey,
    /// Whether the key was seen to be there and of a type that binds.
    suitable: OnceCell<()>,
}

impl Transit {
    pub(crate) fn open(key: &VaultKey, bounds: Bounds) -> Result<Self, RootError> {
        let client = Client::new(KeyUri::Vault(key.clone()).to_string(), &key.address, bounds)?;
        Ok(Self { client, key: key.clone(), suitable: OnceCell::new() })
    }

    async fn ask(&self, operation: &str, body: String) -> Result<serde_json::Value, RootError> {
        let path = format!("{}/{operation}/{}", self.key.mount, self.key.name);
        Ok(self.client.ask(Method::Post, &path, &Secret::from(body)).await?.body)
    }

    /// Looked at before the first wrapping: `encrypt` makes a key where there is none, and a typing mistake must not. A
    /// process that may not read the key's settings goes on without: then the policy decides.
    async fn suit(&self) -> Result<(), RootError> {
        let invalid = |why: String, hint: &str| {
            Err(RootError::Invalid { place: self.client.place().into(), why, hint: hint.into() })
        };
        let path = format!("{}/keys/{}", self.key.mount, self.key.name);
        let body = match self.client.ask(Method::Get, &path, &nothing()).await {
            Ok(answer) => answer.body,
            Err(RootError::Denied { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let data = &body["data"];
        let kind = data["type"].as_str().unwrap_or_default();
        let hint = "make one: bao write -f transit/keys/NAME type=aes256-gcm96";
        if !TYPES.contains(&kind) {
            return invalid("the key's type does not bind associated data".into(), hint);
        }
        if data["derived"].as_bool() == Some(true) || data["convergent_encryption"].as_bool() == Some(true) {
            return invalid("the key is derived or convergent".into(), hint);
        }
        Ok(())
    }
}

#[async_trait]
impl RootKey for Transit {
    fn uri(&self) -> &str {
        self.client.place()
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.suitable.get_or_try_init(|| self.suit()).await?;
        let engine = base64_simd::STANDARD;
        let plaintext = Zeroizing::new(engine.encode_to_string(key.expose()));
        let aad = engine.encode_to_string(aad);
        let body = format!(r#"{{"plaintext":"{}","associated_data":"{aad}"}}"#, *plaintext);
        let answer = self.ask("encrypt", body).await?;
        let text =
            answer["data"]["ciphertext"].as_str().filter(|text| text.starts_with("vault:v") && text.len() < 1024);
        Ok(text.ok_or_else(|| self.client.odd("the answer holds no ciphertext"))?.as_bytes().to_vec())
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b":+/=".contains(b);
        let failed = || RootError::Authentication { place: self.client.place().into() };
        let text =
            std::str::from_utf8(wrapped).ok().filter(|text| text.starts_with("vault:v") && wrapped.iter().all(plain));
        let text = text.ok_or_else(failed)?;
        let body =
            format!(r#"{{"ciphertext":"{text}","associated_data":"{}"}}"#, base64_simd::STANDARD.encode_to_string(aad));
        let mut answer = self.ask("decrypt", body).await?;
        let serde_json::Value::String(text) = answer["data"]["plaintext"].take() else {
            return Err(self.client.odd("the answer holds no plaintext"));
        };
        let text = Zeroizing::new(text);
        let bytes = base64_simd::STANDARD.decode_to_vec(text.as_bytes()).map(Secret::new);
        let bytes = bytes.map_err(|_| self.client.odd("the answer's plaintext is not base64"))?;
        let key: &[u8; 32] = bytes.expose().try_into().map_err(|_| failed())?;
        Ok(Key32::new(*key))
    }

    async fn tend(&self) -> Result<Tended, RootError> {
        let (time, left) = self.client.tend().await?;
        Ok(Tended { time, expires_in: left.map(|left| left.as_secs()) })
    }
}
