//! What a caller of the proxy shows: its own proof, and the handle of the session it acts for.
//!
//! Stock clients can set few headers, so both are found in more than one place and told apart by how they begin:
//! - the proof: `Keyfold-Token`, else `Proxy-Authorization`, else `Authorization`, else the connection's client certificate;
//! - the handle: `Keyfold-Session`, else `Authorization`, else `Proxy-Authorization`, whose user name may be the handle and whose
//!   password the proof.
//!
//! `Authorization` of a request that has its proof elsewhere is the agent's own, and dropped. None of these headers ever leaves.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use keyfold_custody::{
    access::{Known, Subject},
    sessions::{Kind, Reason, Refused},
    tokens::KINDS,
};
use std::sync::Arc;
use zeroize::Zeroizing;

use super::{Proxy, sigv4::Signed};
use crate::{
    auth::{self, Caller, Peer, person::HEADER as SESSION},
    problem::Problem,
};

/// The header for a proof beside an `Authorization` that the client needs for something else.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("keyfold-token");

type Text = Zeroizing<String>;

/// What was shown, unlooked at.
#[derive(Default, Clone)]
pub(super) struct Proof {
    token: Option<Text>,
    handle: Option<Text>,
}

fn is_handle(text: &str) -> bool {
    text.starts_with("kfh_") || text.starts_with("kfc_")
}

fn is_token(text: &str) -> bool {
    KINDS.iter().any(|(_, prefix)| text.starts_with(prefix))
}

/// The value of a header that may come once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Problem::bad_request(format!("there are two {name} headers"))),
        (first, None) => Ok(first),
    }
}

/// The texts of a `Basic` or `Bearer` value.
fn texts(value: &HeaderValue) -> Vec<Text> {
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else { return Vec::new() };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return vec![Zeroizing::new(rest.to_owned())];
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        // AWS's clients sign with the handle as access key id.
        let handle = value.to_str().ok().and_then(|text| Signed::parse(text).ok()).map(|signed| signed.handle);
        return handle
            .filter(|handle| is_handle(handle.0))
            .map(|handle| Zeroizing::new(handle.0.to_owned()))
            .into_iter()
            .collect();
    }
    let decoded = base64_simd::STANDARD.decode_to_vec(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(decoded) = decoded.map(Zeroizing::new) else { return Vec::new() };
    let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    [user, password].into_iter().filter(|text| !text.is_empty()).map(|text| Zeroizing::new(text.to_owned())).collect()
}

impl Proof {
    /// Reads the headers of one request.
    ///
    /// # Errors
    /// Two of a header that may come once; two different handles.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |value: &HeaderValue| value.to_str().ok().map(|text| Zeroizing::new(text.trim().to_owned()));
        let mut proof = Self {
            token: once(headers, &TOKEN)?.map(|value| text(value).unwrap_or_default()),
            handle: once(headers, &SESSION)?.map(|value| text(value).unwrap_or_default()),
        };
        // The agent's own copies of what is injected may come as often as they like; they count for nothing then.
        let mut own = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (own.next(), own.next()) {
            (Some(value), None) => texts(value),
            _ => Vec::new(),
        };
        let for_proxy = once(headers, &header::PROXY_AUTHORIZATION)?.map(texts).unwrap_or_default();
        for found in authorization.iter().chain(&for_proxy).filter(|text| is_handle(text)) {
            match &proof.handle {
                Some(handle) if **handle != **found => {
                    return Err(Problem::bad_request("the request shows two different handles")
                        .hint("send one, in `Keyfold-Session` or in the place of the token"));
                }
                _ => proof.handle = Some(found.clone()),
            }
        }
        let known = |texts: &[Text]| texts.iter().find(|text| is_token(text)).cloned();
        proof.token = proof.token.or_else(|| known(&for_proxy)).or_else(|| known(&authorization));
        if proof.token.is_none() {
            // A JWT, or what is none of ours and will be refused.
            let other = for_proxy.iter().chain(&authorization).rfind(|text| !is_handle(text));
            proof.token = other.cloned();
        }
        Ok(proof)
    }

    /// As an inner request of a tunnel shows it: what it says itself comes first, what the tunnel said counts otherwise. Its
    /// `Authorization` is no proof there: it is what the client would have sent to the destination.
    ///
    /// # Errors
    /// As [`Proof::of`].
    pub(super) fn within(&self, headers: &HeaderMap) -> Result<Self, Problem> {
        let inner = Self::of(headers)?;
        let ours = inner.token.filter(|token| is_token(token));
        Ok(Self { token: ours.or_else(|| self.token.clone()), handle: inner.handle.or_else(|| self.handle.clone()) })
    }

    /// The handle.
    pub(super) fn handle(&self) -> Option<&str> {
        self.handle.as_deref().map(String::as_str)
    }

    /// Whose room a tunnel takes: the session's where the handle holds, the caller's otherwise.
    pub(super) async fn whose(&self, proxy: &Proxy, caller: &Caller) -> String {
        let held = match self.handle() {
            Some(handle) => proxy.people.sessions().hold(handle).await.ok(),
            None => None,
        };
        held.map_or_else(|| caller.actor.to_string(), |standing| standing.session.id.to_string())
    }

    /// Who it is.
    ///
    /// # Errors
    /// Nobody who is known; one who asks too often.
    pub(super) async fn caller(&self, proxy: &Proxy, peer: &Peer) -> Result<Caller, Problem> {
        let service = &proxy.service;
        let caller = self.known(proxy, peer).await.inspect_err(|_| {
            service.metrics.unauthenticated.inc();
        })?;
        service.rates.take(&caller.actor)?;
        Ok(caller)
    }

    /// Who it is, as often as that is asked.
    ///
    /// # Errors
    /// Nobody who is known.
    pub(super) async fn known(&self, proxy: &Proxy, peer: &Peer) -> Result<Caller, Problem> {
        match (&self.token, &self.handle) {
            (None, Some(handle)) if peer.certificate.is_none() && proxy.settings.handle_alone => {
                Self::agent_of(proxy, handle).await
            }
            (token, _) => {
                let found = auth::known(&proxy.service, token.as_deref().map(String::as_str), peer).await;
                found.map_err(|problem| match token {
                    Some(_) => problem,
                    None => problem.hint(
                        "send the agent's token in `Keyfold-Token`, or as the password of the proxy's URL; `keyfold token create` \
                         makes one",
                    ),
                })
            }
        }
    }

    /// The agent that a handle was made for, where the deployment lets the handle alone speak for it.
    async fn agent_of(proxy: &Proxy, handle: &str) -> Result<Caller, Problem> {
        let standing = proxy.people.sessions().hold(handle).await?;
        // Never an operator or a service: who makes a handle says whose it is.
        let agent = standing
            .head
            .agent
            .filter(|agent| standing.head.kind == Kind::Handle && agent.as_str().starts_with("agent:"));
        let actor = agent.ok_or_else(|| Problem::from(Refused::from(Reason::OtherKind)))?;
        let known = Known {
            grants: proxy.service.grants()?.of(&actor),
            actor: actor.clone(),
            narrowed: None,
            today: proxy.service.custody.auditor.clock().now().date(),
        };
        Ok(Caller { subject: Arc::new(Subject::Known(known)), actor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append::<HeaderName>(name, value);
        }
        headers
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", base64_simd::STANDARD.encode_to_string(text))
    }

    fn read(list: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let proof = Proof::of(&headers(list)).unwrap();
        (proof.token.map(|text| text.to_string()), proof.handle.map(|text| text.to_string()))
    }

    #[test]
    fn proof_and_handle_are_found_wherever_a_stock_client_can_put_them() {
        let both = (Some("kfa_t".to_owned()), Some("kfh_h".to_owned()));
        assert_eq!(read(&[("keyfold-token", "kfa_t"), ("keyfold-session", "kfh_h")]), both);
        assert_eq!(read(&[("authorization", "Bearer kfa_t"), ("keyfold-session", "kfh_h")]), both);
        assert_eq!(read(&[("authorization", "Bearer kfh_h"), ("keyfold-token", "kfa_t")]), both);
        assert_eq!(read(&[("authorization", "Bearer kfh_h"), ("proxy-authorization", &basic("agent:kfa_t"))]), both);
        assert_eq!(read(&[("proxy-authorization", &basic("kfh_h:kfa_t"))]), both);
        assert_eq!(read(&[("proxy-authorization", "bearer kfa_t"), ("keyfold-session", "kfh_h")]), both);
        assert_eq!(read(&[("authorization", "Bearer kfh_h")]), (None, both.1));
        assert_eq!(read(&[("authorization", "Bearer e30.e30.x")]).0.as_deref(), Some("e30.e30.x"));
    }

    #[test]
    fn p36_the_agents_own_authorization_is_no_proof_beside_another_one() {
        let list = [("keyfold-token", "kfa_t"), ("authorization", "Bearer stolen"), ("authorization", "Bearer more")];
        assert_eq!(read(&list), (Some("kfa_t".into()), None));
        let tunnel = Proof::of(&headers(&[("proxy-authorization", &basic("kfh_h:kfa_t"))])).unwrap();
        let inner = tunnel.within(&headers(&[("authorization", "Bearer e30.e30.x")])).unwrap();
        assert_eq!(inner.token.as_deref().map(String::as_str), Some("kfa_t"));
        assert_eq!(inner.handle(), Some("kfh_h"));
        let narrower = tunnel.within(&headers(&[("authorization", "Bearer kfh_other")])).unwrap();
        assert_eq!(narrower.handle(), Some("kfh_other"));
    }

    #[test]
    fn two_of_what_may_come_once_are_refused() {
        for list in [
            &[("keyfold-session", "kfh_a"), ("keyfold-session", "kfh_a")][..],
            &[("keyfold-token", "kfa_a"), ("keyfold-token", "kfa_b")],
            &[("keyfold-session", "kfh_a"), ("authorization", "Bearer kfh_b")],
            &[("proxy-authorization", "Bearer kfa_b"), ("proxy-authorization", "Bearer kfa_b")],
        ] {
            assert!(Proof::of(&headers(list)).is_err(), "{list:?}");
        }
    }
}
