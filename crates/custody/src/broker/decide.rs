//! The decision: this credential, or refused because. It asks nobody and changes nothing, and every path calls it.

use keyfold_core::{audit::Actor, clock::UnixTime};

use super::{Destination, Enforcement, Lent, ServiceAccount};
use crate::sessions::{Head, Kind, Reason};

/// What is about to be done with a credential.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Where it goes.
    pub destination: &'a Destination,
    /// How, as an HTTP method in capitals.
    pub method: &'a str,
    /// Who asks.
    pub actor: &'a Actor,
    /// When.
    pub now: UnixTime,
}

/// Whose credential it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// The user's own.
    User,
    /// The user's own, once it was refreshed: this one is over.
    UserRefreshed,
    /// A service account's, where the configuration names one and no user's came with the call.
    Fallback(&'a ServiceAccount),
    /// A secret of the deployment, where the destination takes one and no user's token.
    Deployment(&'a Lent),
}

/// What is known of the session that came with a call.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// What limits the handle.
    pub head: &'a Head,
    /// Whether there is a way to a new token.
    pub refreshes: bool,
}

/// Decides. A handle that does not hold is the end: no service account takes the place of a user who was named.
///
/// # Errors
/// Refused, and why.
pub fn decide<'a>(shown: Option<Shown<'_>>, call: &Call<'a>, enforcement: Enforcement) -> Result<Source<'a>, Reason> {
    let Some(Shown { head, refreshes }) = shown else {
        return match (enforcement, &call.destination.fallback, &call.destination.secret) {
            (_, _, Some(lent)) => Ok(Source::Deployment(lent)),
            (Enforcement::Permissive, Some(account), None) => Ok(Source::Fallback(account)),
            _ => Err(Reason::NoSession),
        };
    };
    let Head { kind, until, expires, agent, destinations, methods, session: _, generation: _ } = head;
    if *kind != Kind::Handle {
        return Err(Reason::OtherKind);
    }
    if call.now >= *until {
        return Err(Reason::Expired);
    }
    if agent.as_ref().is_some_and(|agent| agent != call.actor) {
        return Err(Reason::OtherAgent);
    }
    if destinations.as_ref().is_some_and(|names| !names.contains(&call.destination.name)) {
        return Err(Reason::Destination);
    }
    if methods.as_ref().is_some_and(|methods| !methods.iter().any(|method| method == call.method)) {
        return Err(Reason::Method);
    }
    if let Some(lent) = &call.destination.secret {
        return Ok(Source::Deployment(lent));
    }
    match (call.now < *expires, refreshes) {
        (true, _) => Ok(Source::User),
        (false, true) => Ok(Source::UserRefreshed),
        (false, false) => Err(Reason::TokenExpired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{AccountSource, Routes},
        sessions::{Person, SessionId},
    };

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn head() -> Head {
        let person = Person { iss: "https://issuer".into(), sub: "1".into(), email: None };
        Head {
            session: SessionId::new(person.id()).unwrap(),
            kind: Kind::Handle,
            until: UnixTime(NOW.0 + 600),
            expires: UnixTime(NOW.0 + 60),
            generation: 0,
            agent: None,
            destinations: None,
            methods: None,
        }
    }

    fn routes() -> Routes {
        let text = "enforcement = \"permissive\"\n[destinations.with]\nhost = \"a.example\"\nfallback = \"metadata\"\n\
                    [destinations.without]\nhost = \"b.example\"\n";
        Routes::parse(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn p21_without_a_session_strict_refuses_everywhere_and_permissive_only_where_no_fallback_is_named() {
        let routes = routes();
        let actor = Actor::new("agent:x").unwrap();
        for destination in routes.iter() {
            for method in ["GET", "POST", "CONNECT"] {
                let call = Call { destination, method, actor: &actor, now: NOW };
                assert_eq!(decide(None, &call, Enforcement::Strict), Err(Reason::NoSession));
                let permissive = decide(None, &call, Enforcement::Permissive);
                match destination.name.as_str() {
                    "with" => {
                        let Ok(Source::Fallback(account)) = permissive else { panic!("{permissive:?}") };
                        assert_eq!(account.source, AccountSource::Metadata);
                    }
                    _ => assert_eq!(permissive, Err(Reason::NoSession)),
                }
            }
        }
    }

    #[test]
    fn p21_a_handle_that_does_not_hold_is_refused_for_its_reason_and_never_replaced_by_a_service_account() {
        let routes = routes();
        let (mine, other) = (Actor::new("agent:x").unwrap(), Actor::new("agent:y").unwrap());
        type Case = (&'static str, fn(&mut Head), Reason);
        let cases: [Case; 6] = [
            ("over", |head| head.until = NOW, Reason::Expired),
            ("token over", |head| head.expires = NOW, Reason::TokenExpired),
            ("another's", |head| head.agent = Some(Actor::new("agent:z").unwrap()), Reason::OtherAgent),
            ("elsewhere", |head| head.destinations = Some(vec!["wit".into()]), Reason::Destination),
            ("otherwise", |head| head.methods = Some(vec!["HEAD".into()]), Reason::Method),
            ("a cookie", |head| head.kind = Kind::Cookie, Reason::OtherKind),
        ];
        for (name, change, reason) in cases {
            let mut head = head();
            change(&mut head);
            for enforcement in [Enforcement::Strict, Enforcement::Permissive] {
                for destination in routes.iter() {
                    for actor in [&mine, &other] {
                        let call = Call { destination, method: "GET", actor, now: NOW };
                        let shown = Shown { head: &head, refreshes: false };
                        assert_eq!(decide(Some(shown), &call, enforcement), Err(reason), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_handle_that_holds_gives_the_users_own_token_under_either_rule() {
        let routes = routes();
        let actor = Actor::new("agent:x").unwrap();
        let mut narrow = head();
        narrow.agent = Some(actor.clone());
        narrow.destinations = Some(vec!["with".into()]);
        narrow.methods = Some(vec!["GET".into()]);
        let call = Call { destination: routes.named("with").unwrap(), method: "GET", actor: &actor, now: NOW };
        for enforcement in [Enforcement::Strict, Enforcement::Permissive] {
            for head in [&head(), &narrow] {
                assert_eq!(decide(Some(Shown { head, refreshes: false }), &call, enforcement), Ok(Source::User));
            }
            let mut over = narrow.clone();
            over.expires = NOW;
            let shown = Shown { head: &over, refreshes: true };
            assert_eq!(decide(Some(shown), &call, enforcement), Ok(Source::UserRefreshed));
        }
    }
}
