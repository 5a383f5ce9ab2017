//! `keyfold session`: people who signed in.

use std::sync::Arc;

use keyfold_core::{clock::UnixTime, error::Hint};
use keyfold_custody::{
    access::{Permit, op},
    jobs::Kind,
    preset::{Preset, Wishes},
    sessions::{Imported, Narrowing, Refused, Session, SessionId, Sessions, auto_sre},
};
use keyfold_server::client::path;
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure, one_line},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    location::Location,
    output,
    people::Configured,
    remote::Remote,
    stores::Needs,
    system,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  keyfold session list\n  keyfold session revoke 3f0c…\n  \
                  keyfold session import --store sqlite:///srv/auto-sre/sessions.db")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the sessions, without their tokens
    List {
        /// The imports that wait, instead
        #[arg(long)]
        imports: bool,
    },
    /// Show one session, without its token
    Show {
        /// Its id, as `list` shows it
        id: String,
    },
    /// End a session: at once where it is done, elsewhere within five seconds
    Revoke {
        /// Its id, as `list` shows it
        id: String,
    },
    /// Take over the sessions of Auto SRE; their tokens are used once the person signs in or an operator vouches
    Import {
        /// Auto SRE's session database: sqlite:///PATH, or env:NAME or file:PATH that holds a postgresql:// URL
        #[arg(long, value_name = "URI")]
        store: Location,
        /// The issuer that its users sign in at; not needed where only one is configured
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
    },
    /// Say that an import is its person's; its issuer must still know the token. Prints a handle, which is not shown again
    Vouch {
        /// Its id, as `list --imports` shows it
        id: String,
        /// The one agent that may use the handle, such as agent:triage
        #[arg(long, value_name = "ACTOR")]
        agent: Option<String>,
    },
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        return over(&remote, args.command, invocation).await;
    }
    let folder = Folder::of(invocation)?;
    let config = folder::config(invocation, &folder)?;
    let configured = Configured::of(&config, system::place(invocation, &config)?.is_some(), (false, false))?
        .ok_or_else(|| {
            Failure::usage("there are no sessions here")
                .hint("configure [[sessions.issuers]] in keyfold.toml; docs/sessions.md says how")
        })?;
    let needs = match &args.command {
        Command::Import { store, .. } => {
            let wishes = Wishes { today: invocation.now().date(), extension_secrets: false };
            let mut collections = Preset::AutoSre.collections(Kind::Verify, wishes);
            collections.retain(|collection| collection.name == "sessions");
            Needs::Preset { collections, store: store.clone() }
        }
        _ => Needs::Nothing,
    };
    folder::with_stores(invocation, "session", &needs, async |opened| {
        let people = configured.open(opened, invocation)?;
        let sessions = people.sessions();
        sessions.look().await?;
        here(opened, sessions, &configured, args.command, invocation).await
    })
    .await
}

fn id(text: &str) -> Result<SessionId, Failure> {
    text.parse().map_err(|error: keyfold_custody::sessions::NotAnId| {
        Failure::usage(error.to_string()).hint(error.hint().unwrap_or_default())
    })
}

async fn here(
    opened: &Opened,
    sessions: &Arc<Sessions>,
    configured: &Configured,
    command: Command,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    match command {
        Command::List { imports: true } => {
            let _permit: Permit<op::Manage> = opened.permit()?;
            let waiting = sessions.imports().await?;
            let waiting = waiting.iter().map(|import| {
                json!({
                    "id": import.id, "email": import.email, "issuer": import.issuer, "source": import.source,
                    "imported": import.imported, "expires": import.until,
                })
            });
            list_imports(&waiting.collect::<Vec<_>>(), invocation)?;
        }
        Command::List { imports: false } => {
            let _permit: Permit<op::Manage> = opened.permit()?;
            list(&all(sessions).await?, invocation)?;
        }
        Command::Show { id: text } => {
            let _permit: Permit<op::Manage> = opened.permit()?;
            let id = id(&text)?;
            let found = all(sessions).await?.into_iter().find(|session| session["id"] == json!(id));
            output::json(&found.ok_or_else(unknown)?)?;
        }
        Command::Revoke { id: text } => {
            let permit: Permit<op::Manage> = opened.permit()?;
            sessions.revoke(permit.actor(), id(&text)?, None).await?;
            said(&text, "revoked", invocation)?;
        }
        Command::Import { issuer, .. } => {
            let issuer = configured.issuer(issuer.as_deref())?;
            return import(opened, sessions, issuer, invocation).await;
        }
        Command::Vouch { id: text, agent } => {
            let permit: Permit<op::Manage> = opened.permit()?;
            let agent = agent.map(|agent| {
                keyfold_core::audit::Actor::new(agent)
                    .map_err(|_| Failure::usage("not an actor").hint("write agent:NAME or service:NAME"))
            });
            let narrowing = Narrowing { agent: agent.transpose()?, ..Narrowing::default() };
            let made = sessions.vouch(&permit, id(&text)?, Some(&narrowing)).await?;
            let handle = made.handle.as_ref().and_then(|(handle, _)| std::str::from_utf8(handle.expose()).ok());
            vouched(&json!({ "id": made.session.id, "handle": handle }), invocation)?;
        }
    }
    Ok(Exit::Done)
}

async fn all(sessions: &Sessions) -> Result<Vec<Value>, Failure> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = sessions.list(None, after, 1000).await?;
        found.extend(page.iter().map(shown));
        match next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

/// As the service shows it.
fn shown(session: &Session) -> Value {
    json!({
        "id": session.id, "person": session.person.id(), "email": session.person.email, "issuer": session.issuer,
        "created": session.created, "expires": session.until, "project": session.project,
        "refreshes": session.refreshes, "vouched": session.vouched,
    })
}

async fn import(opened: &Opened, sessions: &Sessions, issuer: &str, invocation: &Invocation) -> Result<Exit, Failure> {
    let permit: Permit<op::Seal> = opened.permit()?;
    let collection = opened.custody.collection("sessions")?;
    let (mut taken, mut left) = (0_u64, Vec::new());
    auto_sre::visit(&opened.custody, collection, async |found| {
        match found {
            Ok(found) => {
                let imported = Imported {
                    issuer: issuer.to_owned(),
                    email: found.email,
                    source: found.source,
                    token: found.token,
                };
                sessions.import(&permit, imported).await?;
                taken += 1;
            }
            Err(skipped) => left.push(skipped),
        }
        Ok::<_, Failure>(())
    })
    .await?;
    if invocation.json() {
        let left: Vec<_> =
            left.iter().map(|skipped| json!({ "record": skipped.source, "reason": skipped.why })).collect();
        output::json(&json!({ "imported": taken, "left": left }))?;
    } else {
        output::line(&format!("{taken} sessions imported; they wait for their person to sign in"))?;
        for skipped in &left {
            output::line(&one_line(&format!("  left: {}: {}", skipped.source, skipped.why)))?;
        }
    }
    Ok(if left.is_empty() { Exit::Done } else { Exit::RecordsLeft })
}

/// The same over a server.
async fn over(remote: &Remote, command: Command, invocation: &Invocation) -> Result<Exit, Failure> {
    match command {
        Command::List { imports: true } => {
            let listed = remote.json("GET", "/v1/sessions/imports", None).await?;
            list_imports(listed["imports"].as_array().map_or(&[][..], Vec::as_slice), invocation)?;
        }
        Command::List { imports: false } => list(&all_over(remote).await?, invocation)?,
        Command::Show { id: text } => {
            let id = id(&text)?.to_string();
            let found = all_over(remote).await?.into_iter().find(|session| session["id"] == json!(id));
            output::json(&found.ok_or_else(unknown)?)?;
        }
        Command::Revoke { id } => {
            remote.json("DELETE", &path(&["sessions", &id]), None).await?;
            said(&id, "revoked", invocation)?;
        }
        Command::Import { .. } => Remote::refuse(invocation, "session import")?,
        Command::Vouch { id, agent } => {
            let mut body = json!({});
            if let Some(agent) = agent {
                body["agent"] = agent.into();
            }
            let made = remote.json("POST", &path(&["sessions", "imports", &id, "vouch"]), Some(&body)).await?;
            vouched(&json!({ "id": made["id"], "handle": made["handle"] }), invocation)?;
        }
    }
    Ok(Exit::Done)
}

async fn all_over(remote: &Remote) -> Result<Vec<Value>, Failure> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let listed = remote.json("GET", &format!("/v1/sessions?limit=1000{after}"), None).await?;
        found.extend(listed["sessions"].as_array().into_iter().flatten().cloned());
        match listed["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(found),
        }
    }
}

fn unknown() -> Failure {
    Failure::new(Exit::RecordsLeft, "not_found", "there is no such session").hint("see `keyfold session list`")
}

fn said(id: &str, what: &str, invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() { Ok(()) } else { output::line(&format!("{what} {id}")) }
}

fn vouched(made: &Value, invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return output::json(made);
    }
    output::line(made["handle"].as_str().unwrap_or(""))?;
    invocation.hint(&format!("session {}; the handle is not shown again", made["id"].as_str().unwrap_or("")));
    Ok(())
}

fn list(sessions: &[Value], invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return sessions.iter().try_for_each(output::json);
    }
    let rows = sessions.iter().map(|session| {
        ["id", "email", "issuer", "created", "expires", "project"].map(|key| cell(&session[key], key)).to_vec()
    });
    output::table(&["SESSION", "EMAIL", "ISSUER", "CREATED", "EXPIRES", "PROJECT"], &rows.collect::<Vec<_>>())
}

fn list_imports(imports: &[Value], invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return imports.iter().try_for_each(output::json);
    }
    let rows = imports
        .iter()
        .map(|import| ["id", "email", "issuer", "source", "expires"].map(|key| cell(&import[key], key)).to_vec());
    output::table(&["IMPORT", "SAYS", "ISSUER", "SOURCE", "EXPIRES"], &rows.collect::<Vec<_>>())
}

fn cell(value: &Value, key: &str) -> String {
    match (value.as_u64(), value.as_str()) {
        (Some(time), _) if ["created", "expires", "imported"].contains(&key) => UnixTime(time).to_string(),
        (_, Some(text)) => text.to_owned(),
        _ => "-".into(),
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let hint = refused.hint().unwrap_or_default();
        match refused {
            Refused::Failed(error) => error.into(),
            Refused::For(reason) => Self::new(Exit::Refused, reason.code(), reason.to_string()).hint(hint),
            Refused::Issuer(error @ keyfold_custody::sessions::IssuerError::Refused { .. }) => {
                Self::new(Exit::Refused, "token_refused", error.to_string()).hint(hint)
            }
            Refused::Issuer(error) => Self::unavailable(error.to_string()).hint(hint),
        }
    }
}
