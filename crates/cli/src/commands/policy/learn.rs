//! `keyfold policy learn`: from what was asked to the grants that allow it.

use std::{collections::BTreeSet, time::Duration};

use keyfold_core::{audit::Actor, clock::UnixTime};
use keyfold_custody::{
    access::{Asked, Call, Learned, Permit, op::Audit, quoted},
    config::Config,
    error::CustodyError,
};
use keyfold_server::proxy;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
};

/// What to look at.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Who, such as agent:triage [default: every agent]
    actor: Option<String>,
    /// How far to look back, such as 7d [default: all of the log]
    #[arg(long, value_name = "TIME", value_parser = crate::commands::token::duration)]
    since: Option<Duration>,
}

pub(super) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let actor = args.actor.as_deref().map(Actor::new).transpose();
    let actor = actor.map_err(|_| Failure::usage("not an actor").hint("write kind:name, for example agent:triage"))?;
    let from = args.since.map_or(UnixTime(0), |since| UnixTime(invocation.now().0.saturating_sub(since.as_secs())));
    folder::with(invocation, "policy learn", async |opened| {
        let _permit: Permit<Audit> = opened.permit()?;
        let mut learned = Learned::default();
        let wanted = |who: &Actor| match &actor {
            Some(actor) => who == actor,
            None => who.as_str().starts_with("agent:"),
        };
        let each = async |entry: &keyfold_custody::audit_log::Entry| {
            if let Some(event) = entry.event.as_ref().filter(|event| event.time >= from && wanted(&event.actor)) {
                learned.take(event);
            }
            true
        };
        opened.audit.export(each).await.map_err(CustodyError::from)?;
        say(&opened.custody.config, &learned, invocation)
    })
    .await
}

fn say(config: &Config, learned: &Learned, invocation: &Invocation) -> Result<Exit, Failure> {
    let (mut grants, mut rules, mut unlisted, mut lines) = (Vec::new(), BTreeSet::new(), BTreeSet::new(), Vec::new());
    let name_of =
        |id: &str| config.collections.iter().find(|(_, one)| one.id.as_str() == id).map(|(name, _)| name.to_owned());
    for (name, asked) in learned.iter() {
        let actor = Actor::new(name).map_err(|error| Failure::usage(error.to_string()))?;
        let listed = |name: &str| config.routes.named(name).is_some();
        let own = asked.grants(&actor, &listed, &name_of);
        let calls: u64 = asked.calls.values().sum();
        lines.push(format!("# {name}: {calls} calls, {} refused for want of a rule or a grant", asked.refused));
        lines.extend(
            asked
                .elsewhere
                .iter()
                .map(|right| format!("# It lacked `{right}` on what no grant of this list is about.")),
        );
        lines.extend(own.iter().map(|grant| grant.to_toml()));
        grants.extend(own);
        rules.extend(missing_rules(config, asked));
        unlisted
            .extend(asked.calls.keys().filter(|call| !listed(&call.destination)).map(|call| call.destination.clone()));
    }
    if invocation.json() {
        let rules: Vec<_> = rules
            .iter()
            .map(|rule| json!({ "destination": rule.destination, "methods": [&rule.method], "path": rule.path }))
            .collect();
        output::json(&json!({ "grants": grants, "rules": rules, "unlisted": unlisted }))?;
        return Ok(Exit::Done);
    }
    if grants.is_empty() && rules.is_empty() && unlisted.is_empty() {
        lines.push("# The audit log holds nothing that a grant could be made of.".into());
    }
    if !rules.is_empty() {
        lines.push("# No rule of these destinations lets through:".into());
    }
    for Call { destination, method, path } in &rules {
        let path = quoted(path.as_deref().unwrap_or("/**"));
        lines.push(format!(
            "[[destinations.{}.rules]]\nmethods = [{}]\npath = {path}\n",
            quoted(destination),
            quoted(method)
        ));
    }
    for host in unlisted {
        lines.push(format!("# No destination is configured at {host}; list it only if it may have the credential."));
    }
    for line in lines {
        output::line(&line)?;
    }
    Ok(Exit::Done)
}

/// Calls to destinations that there are, which their rules refuse: each a rule of its own.
fn missing_rules<'a>(config: &'a Config, asked: &'a Asked) -> impl Iterator<Item = Call> + 'a {
    asked.calls.keys().filter_map(|call| {
        let destination = config.routes.named(&call.destination)?;
        let path = call.path.as_deref()?;
        // Any host below a wildcard, and any id.
        let (host, sent) = (destination.host.replace('*', "x"), path.replace('*', "0"));
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let url = format!("https://{host}:{}{sent}", destination.port);
        proxy::reached(&config.routes, &call.method, &url).is_err().then(|| call.clone())
    })
}
