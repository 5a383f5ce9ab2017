//! What lets this process in: a token, an AppRole, or the identity that Kubernetes gives to a pod.
//!
//! The names are those of the servers' own tools, with `BAO_` before `VAULT_`.

use std::{fs, path::PathBuf};

use keyfold_core::{root::RootError, secret::Secret};
use serde_json::json;

/// How this process logs in.
pub(super) enum Login {
    /// `BAO_TOKEN`, or the file that `bao login` writes.
    Token(Secret),
    /// `BAO_ROLE_ID` with `BAO_SECRET_ID` or `BAO_SECRET_ID_FILE`.
    AppRole { mount: String, role: String, secret: SecretId },
    /// `BAO_K8S_ROLE`, with the pod's own token.
    Kubernetes { mount: String, role: String, token: PathBuf },
}

/// A secret id, read anew at every login where it lies in a file.
pub(super) enum SecretId {
    Given(Secret),
    File(PathBuf),
}

/// `BAO_NAME`, else `VAULT_NAME`; set to nothing counts as not set.
pub(super) fn environment(name: &str) -> Option<String> {
    ["BAO_", "VAULT_"].iter().find_map(|start| std::env::var(format!("{start}{name}")).ok().filter(|v| !v.is_empty()))
}

impl Login {
    pub(super) fn from_environment(place: &str) -> Result<Self, RootError> {
        if let Some(token) = environment("TOKEN") {
            return Ok(Self::Token(Secret::from(token)));
        }
        let mount = |default: &str| environment("AUTH_MOUNT").unwrap_or_else(|| default.into());
        if let Some(role) = environment("ROLE_ID") {
            let secret = match (environment("SECRET_ID"), environment("SECRET_ID_FILE")) {
                (Some(secret), _) => SecretId::Given(Secret::from(secret)),
                (None, Some(path)) => SecretId::File(path.into()),
                (None, None) => {
                    return Err(RootError::Invalid {
                        place: place.into(),
                        why: "BAO_ROLE_ID is set and its secret id is not".into(),
                        hint: "set BAO_SECRET_ID_FILE, or BAO_SECRET_ID".into(),
                    });
                }
            };
            return Ok(Self::AppRole { mount: mount("approle"), role, secret });
        }
        if let Some(role) = environment("K8S_ROLE") {
            let token = environment("K8S_TOKEN_FILE")
                .unwrap_or_else(|| "/var/run/secrets/kubernetes.io/serviceaccount/token".into());
            return Ok(Self::Kubernetes { mount: mount("kubernetes"), role, token: token.into() });
        }
        let file = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".vault-token"));
        if let Some(token) = file.and_then(|path| fs::read(path).ok()) {
            let token = Secret::new(token);
            return Ok(Self::Token(Secret::from(token.expose().trim_ascii())));
        }
        Err(RootError::Invalid {
            place: place.into(),
            why: "nothing lets this process in".into(),
            hint: "set BAO_TOKEN; or BAO_ROLE_ID and BAO_SECRET_ID_FILE; or BAO_K8S_ROLE in a pod (VAULT_… works too)"
                .into(),
        })
    }

    /// Where a login goes, and its body.
    pub(super) fn request(&self, place: &str) -> Result<(String, Secret), RootError> {
        let read = |path: &PathBuf| {
            fs::read(path).map(Secret::new).map_err(|error| RootError::Invalid {
                place: place.into(),
                why: format!("{}: {}", path.display(), error.kind()),
                hint: "it must hold what this process logs in with".into(),
            })
        };
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose().trim_ascii()).into_owned();
        Ok(match self {
            Self::Token(_) => (String::new(), Secret::from(String::new())),
            Self::AppRole { mount, role, secret } => {
                let secret = match secret {
                    SecretId::Given(secret) => text(secret),
                    SecretId::File(path) => text(&read(path)?),
                };
                let body = json!({ "role_id": role, "secret_id": secret });
                (format!("auth/{mount}/login"), Secret::from(body.to_string()))
            }
            Self::Kubernetes { mount, role, token } => {
                let body = json!({ "role": role, "jwt": text(&read(token)?) });
                (format!("auth/{mount}/login"), Secret::from(body.to_string()))
            }
        })
    }

    /// Whether a new token can be had without a person.
    pub(super) const fn can_repeat(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    /// For messages.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "BAO_TOKEN",
            Self::AppRole { .. } => "AppRole",
            Self::Kubernetes { .. } => "Kubernetes",
        }
    }
}
