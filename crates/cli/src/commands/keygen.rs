//! `keyfold keygen`

use keyfold_core::{
    keyring::{KeyMaterial, Purpose, fernet_to_text, master_to_text},
    rng::{self, SystemRandom},
    secret::{Key32, Secret},
};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(after_help = "Keep a copy of a key in a safe place: what is sealed under it opens with nothing else.\n\n\
                        Examples:\n  export REDIS_SRE_MASTER_KEY=\"$(keyfold keygen)\"\n  \
                        export SRE_AGENT_ENCRYPTION_KEY=\"$(keyfold keygen --fernet)\"")]
pub(crate) struct Args {
    /// A Fernet key (base64url), as Auto SRE and Python's `cryptography` take it
    #[arg(long)]
    fernet: bool,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let raw = || rng::array(&SystemRandom).map(Key32::new);
    let key = raw()?;
    let (purpose, text) = if args.fernet {
        (Purpose::Fernet, Secret::from(fernet_to_text(&key)))
    } else {
        (Purpose::Master, Secret::from(master_to_text(&key)))
    };
    let material = KeyMaterial::new(purpose, key)?;
    if invocation.json() {
        let text = String::from_utf8_lossy(text.expose());
        output::json(&json!({ "key": text, "purpose": purpose, "kid": material.kid() }))?;
    } else {
        output::data(&[text.expose(), b"\n"].concat())?;
    }
    Ok(Exit::Done)
}
