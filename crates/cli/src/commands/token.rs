//! `keyfold token`: who may call the service.

use std::{sync::Arc, time::Duration};

use keyfold_core::audit::Actor;
use keyfold_custody::{
    access::{Permit, op::Manage},
    config,
    tokens::{NewToken, Token, Tokens},
    vouched::Voucher,
};
use keyfold_server::{client::path, service};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder::{self, Opened},
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  keyfold token create agent:triage --lifetime 90d\n  keyfold token create service:backend --from 10.0.0.0/8"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a token and print it; it is not shown again
    Create {
        /// For whom: operator:NAME, service:NAME or agent:NAME
        actor: String,
        /// For how long, such as 90d or 12h; without end where left out
        #[arg(long, value_name = "TIME", value_parser = duration)]
        lifetime: Option<Duration>,
        /// A network it is taken from, such as 10.0.0.0/8; once for each
        #[arg(long = "from", value_name = "NETWORK")]
        addresses: Vec<ipnet::IpNet>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List the tokens, without the tokens
    List,
    /// Take a token back: at once where it was made, elsewhere within five seconds
    Revoke {
        /// Its id, as `list` shows it
        id: String,
    },
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "write a time such as 90d, 12h, 30m or 45s".into())
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        return over(&remote, args.command, invocation).await;
    }
    folder::with(invocation, "token", async |opened| {
        let permit: Permit<Manage> = opened.permit()?;
        let tokens = tokens(opened).await?;
        let auditor = &opened.custody.auditor;
        match args.command {
            Command::Create { actor, lifetime, addresses, note } => {
                let actor = Actor::new(actor).map_err(|_| {
                    Failure::usage("not an actor").hint("write operator:NAME, service:NAME or agent:NAME")
                })?;
                let new = NewToken { actor, lifetime, addresses, narrowed: None, note };
                let (token, secret) = tokens.create(&permit, auditor, new).await?;
                if invocation.json() {
                    let text = std::str::from_utf8(secret.expose()).unwrap_or("");
                    return shown(&json!({ "token": text, "id": token.id, "actor": token.actor.as_str() }));
                }
                output::data(&[secret.expose(), b"\n"].concat())?;
                invocation.hint(&format!("it is not shown again; `keyfold token revoke {}` takes it back", token.id));
            }
            Command::List => list(&tokens.list(), invocation)?,
            Command::Revoke { id } => {
                tokens.revoke(&permit, auditor, &id).await?;
                if !invocation.json() {
                    output::line(&format!("revoked {id}"))?;
                }
            }
        }
        Ok(Exit::Done)
    })
    .await
}

/// The same over a server.
async fn over(remote: &Remote, command: Command, invocation: &Invocation) -> Result<Exit, Failure> {
    match command {
        Command::Create { actor, lifetime, addresses, note } => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let mut body = json!({ "actor": actor, "addresses": addresses });
            if let Some(lifetime) = lifetime {
                body["lifetime"] = format!("{}s", lifetime.as_secs()).into();
            }
            if let Some(note) = note {
                body["note"] = note.into();
            }
            let made = remote.json("POST", "/v1/tokens", Some(&body)).await?;
            if invocation.json() {
                return shown(&made);
            }
            output::line(made["token"].as_str().unwrap_or(""))?;
        }
        Command::List => {
            let listed = remote.json("GET", "/v1/tokens", None).await?;
            for token in listed["tokens"].as_array().into_iter().flatten() {
                output::json(token)?;
            }
        }
        Command::Revoke { id } => {
            remote.json("DELETE", &path(&["tokens", &id]), None).await?;
            if !invocation.json() {
                output::line(&format!("revoked {id}"))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn shown(value: &serde_json::Value) -> Result<Exit, Failure> {
    output::json(value)?;
    Ok(Exit::Done)
}

async fn tokens(opened: &Opened) -> Result<Arc<Tokens>, Failure> {
    let voucher = Arc::new(Voucher::of(&opened.custody.keys.opening())?);
    let tokens = service::tokens(&opened.custody, &voucher);
    tokens.look().await?;
    Ok(tokens)
}

fn list(tokens: &[Arc<Token>], invocation: &Invocation) -> Result<(), Failure> {
    let networks = |token: &Token| token.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    if invocation.json() {
        for token in tokens {
            output::json(&json!({
                "id": token.id, "actor": token.actor.as_str(), "created": token.created, "expires": token.expires,
                "addresses": networks(token), "note": token.note,
            }))?;
        }
        return Ok(());
    }
    let rows = tokens.iter().map(|token| {
        let expires = token.expires.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let from = if token.addresses.is_empty() { "-".into() } else { networks(token).join(",") };
        let note = token.note.clone().unwrap_or_default();
        vec![token.id.clone(), token.actor.to_string(), token.created.to_string(), expires, from, note]
    });
    output::table(&["TOKEN", "ACTOR", "CREATED", "EXPIRES", "FROM", "NOTE"], &rows.collect::<Vec<_>>())
}
