//! A person, by the cookie of their session: it proves who they are, and lets them do nothing but look after their own sessions.
//!
//! A browser sends a cookie along whoever made it call. So a call that changes something also says `Keyfold-Session: cookie`, a header
//! that no other site's page can make a browser send.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, Method, header, request::Parts},
};
use keyfold_custody::{
    access::{Known, Subject},
    sessions::{Kind, Reason, Standing},
};

use super::Caller;
use crate::{people::People, problem::Problem, service::Service};

/// The cookie. Its prefix makes browsers insist on `Secure`, on no domain and on the whole site.
pub(crate) const COOKIE: &str = "__Host-keyfold";
/// The header that carries a handle, or says that the cookie is meant.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("keyfold-session");

/// The cookie of that name; `None` where there is none, or more than one.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    found.next().filter(|_| found.next().is_none())
}

/// Somebody's cookie, held.
#[derive(Clone)]
pub(crate) struct Person(pub(crate) Arc<Standing>);

/// The person whose cookie came, where one did.
///
/// # Errors
/// It does not hold; a change without the header that only our own pages can send.
pub(super) async fn by_cookie(
    service: &Service,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Option<(Caller, Person)>, Problem> {
    let (Some(people), Some(cookie)) = (service.signing_in(), cookie(headers, COOKIE)) else { return Ok(None) };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if !reads && headers.get(&HEADER).is_none_or(|value| value != "cookie") {
        return Err(Problem::no_proof("unauthenticated", "a cookie alone does not change anything")
            .hint("send the header `Keyfold-Session: cookie` too"));
    }
    let standing = people.sessions().hold(cookie).await?;
    if standing.head.kind != Kind::Cookie {
        return Err(keyfold_custody::sessions::Refused::from(Reason::OtherKind).into());
    }
    let actor = standing.actor()?;
    let known = Known {
        actor: actor.clone(),
        grants: Arc::from([]),
        narrowed: None,
        today: service.custody.auditor.clock().now().date(),
    };
    let caller = Caller { subject: Arc::new(Subject::Known(known)), actor };
    Ok(Some((caller, Person(Arc::new(standing)))))
}

/// Who calls, and for whom: the caller, the person where a cookie came, the handle where one was sent.
pub(crate) struct Who {
    pub(crate) caller: Caller,
    pub(crate) person: Option<Arc<Standing>>,
    handle: Option<String>,
    pub(crate) people: Arc<People>,
}

impl FromRequestParts<Arc<Service>> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, service).await?;
        let people = service.signing_in().cloned().ok_or_else(|| {
            Problem::not_found("there are no sessions here")
                .hint("configure [[sessions.issuers]]; docs/sessions.md says how")
        })?;
        let person = parts.extensions.get::<Person>().map(|person| Arc::clone(&person.0));
        let mut sent = parts.headers.get_all(&HEADER).iter();
        let handle = match (sent.next(), sent.next()) {
            (Some(_), Some(_)) => return Err(Problem::bad_request("there are two Keyfold-Session headers")),
            (Some(value), None) if person.is_none() => Some(value.to_str().unwrap_or("").to_owned()),
            _ => None,
        };
        Ok(Self { caller, person, handle, people })
    }
}

impl Who {
    /// The handle, unlooked at.
    pub(crate) fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The session that the call is about: the cookie's, or the handle's where the caller may hold it.
    pub(crate) async fn standing(&self) -> Result<Arc<Standing>, Problem> {
        if let Some(person) = &self.person {
            return Ok(Arc::clone(person));
        }
        let reason = |reason: Reason| Problem::from(keyfold_custody::sessions::Refused::from(reason));
        let handle = self.handle().ok_or_else(|| reason(Reason::NoSession))?;
        let standing = self.people.sessions().hold(handle).await?;
        if standing.head.kind != Kind::Handle {
            return Err(reason(Reason::OtherKind));
        }
        if standing.head.agent.as_ref().is_some_and(|agent| *agent != self.caller.actor) {
            return Err(reason(Reason::OtherAgent));
        }
        Ok(Arc::new(standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_once() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, text.parse().unwrap());
            headers
        };
        assert_eq!(cookie(&headers("a=1; __Host-keyfold=x; b=2"), COOKIE), Some("x"));
        assert_eq!(cookie(&headers("x__Host-keyfold=x"), COOKIE), None);
        assert_eq!(cookie(&headers("__Host-keyfold=x; __Host-keyfold=y"), COOKIE), None);
        assert_eq!(cookie(&HeaderMap::new(), COOKIE), None);
    }
}
