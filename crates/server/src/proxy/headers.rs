//! Headers on their way through: hop-by-hop ones end here, ours and the injected ones never pass from the agent, and answers are
//! scrubbed before they go back.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use bytes::BytesMut;

use super::{
    proof::TOKEN,
    scrub::{Patterns, Scrubber},
    settings::Reach,
};
use crate::{auth::person::HEADER as SESSION, problem::Problem};

/// Those that speak to the next hop only (RFC 9110, 7.6.1), and `Expect`, which is answered here.
const HOP: [HeaderName; 12] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const CONNECT_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
const CONNECT_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");

/// What the `Connection` headers name besides.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

/// Whether the request wants to become a WebSocket.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    let mut upgrade = headers.get_all(header::UPGRADE).iter();
    let websocket = upgrade.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket && upgrade.next().is_none() && named(headers).contains(&header::UPGRADE)
}

/// Whether it is a call of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';' | b' '))
    })
}

/// Names in which a client can say who it is, where it comes from or what it asks for behind what was matched: servers behind a
/// proxy take them from it.
const IN_OUR_NAME: [&str; 22] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-webauth-user",
    "x-remote-user",
    "remote-user",
    "x-authenticated-user",
    "x-auth-request-user",
    "x-auth-request-email",
    // Credentials beside the one that is injected: the call would be another one's.
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-auth-token",
    "x-amz-security-token",
    "private-token",
    "x-vault-token",
];
/// What asks for another method than the one that was matched.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// Whether some reader takes a name for another one: gateways turn `_` into `-`, and the other way round.
pub(super) fn reads_as(name: &HeaderName, other: &str) -> bool {
    name.as_str().len() == other.len() && begins_as(name, other)
}

fn begins_as(name: &HeaderName, with: &str) -> bool {
    let same = |a: u8, b: u8| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
    let name = name.as_str().bytes();
    name.len() >= with.len() && name.zip(with.bytes()).all(|(a, b)| same(a, b))
}

/// Refuses what would be read in another way than it was matched.
///
/// # Errors
/// Another method, two kinds of content, or a header that frames the request named as one for the next hop only.
pub(super) fn check_request(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.keys().any(|name| OVERRIDES.iter().any(|other| reads_as(name, other))) {
        return Err(Problem::bad_request("a header asks for another method than the request has")
            .hint("send the method itself"));
    }
    if headers.get_all(header::CONTENT_TYPE).iter().count() > 1 {
        return Err(Problem::bad_request("a request has one Content-Type at most"));
    }
    let framing = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::HOST];
    if named(headers).iter().any(|name| framing.contains(name)) {
        return Err(Problem::bad_request("the Connection header names a header that is not for the next hop alone"));
    }
    Ok(())
}

/// Whether a header of the agent's never leaves for this destination.
fn stays(reach: &Reach, name: &HeaderName) -> bool {
    let encodings =
        [header::RANGE, header::IF_RANGE, header::ACCEPT_ENCODING, GRPC_ACCEPT_ENCODING, CONNECT_ACCEPT_ENCODING];
    HOP.contains(name)
        || *name == header::HOST
        || *name == SESSION
        || *name == TOKEN
        || (*name == header::COOKIE && !reach.cookies)
        || begins_as(name, "x-forwarded-")
        || IN_OUR_NAME.iter().any(|other| reads_as(name, other))
        || reach.inject.takes(name)
        || (reach.scrub && encodings.contains(name))
}

/// The headers that leave, before the credential is put in.
pub(super) fn outgoing(reach: &Reach, from: &HeaderMap, websocket: bool) -> HeaderMap {
    let named = named(from);
    // About as many stay here as are put in; room for one more step would come from the allocator's slow path.
    let mut to = HeaderMap::with_capacity(from.len());
    for (name, value) in from.iter().filter(|(name, _)| !stays(reach, name) && !named.contains(name)) {
        // A cookie of ours would let its reader act as the person.
        let ours = *name == header::COOKIE && memchr::memmem::find(value.as_bytes(), b"__Host-keyfold").is_some();
        // Compressed frames would go back unscrubbed.
        let deflates = websocket && reach.scrub && *name == header::SEC_WEBSOCKET_EXTENSIONS;
        if !ours && !deflates {
            to.append(name, value.clone());
        }
    }
    if is_grpc(from) {
        to.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if websocket {
        to.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        to.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if reach.scrub {
        to.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    to
}

/// Drops what may not leave from the trailers of a request.
pub(super) fn outgoing_trailers(reach: &Reach, trailers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in trailers.iter().filter(|(name, _)| !stays(reach, name)) {
        kept.append(name, value.clone());
    }
    kept
}

/// Refuses an answer that cannot be scrubbed: one that is encoded in spite of what was asked for, or a part of something.
pub(super) fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), Problem> {
    let identity = |name: &HeaderName| {
        headers.get_all(name).iter().all(|value| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity"))
    };
    let wrong = |what: &str| {
        Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream_encoded", what)
            .hint("`scrub = false` at the destination lets such answers pass, and what they echo with them"))
    };
    let whole = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !whole || ![header::CONTENT_ENCODING, GRPC_ENCODING, CONNECT_ENCODING].iter().all(identity) {
        return wrong("the destination sent a compressed answer, which cannot be scrubbed");
    }
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE) {
        return wrong("the destination sent a part of an answer that nobody asked for");
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return wrong("the destination compresses what it sends, which cannot be scrubbed");
    }
    Ok(())
}

/// The headers that go back. A cookie of the destination's would be a credential of the user in the agent's hands.
pub(super) fn incoming(reach: &Reach, from: &HeaderMap, secrets: Option<&Patterns>) -> HeaderMap {
    let named = named(from);
    let stays = |name: &HeaderName| {
        HOP.contains(name) || named.contains(name) || *name == ALT_SVC || (is_cookie(name) && !reach.cookies)
    };
    let kept = from.iter().filter(|(name, _)| !stays(name));
    match secrets {
        None => kept.map(|(name, value)| (name.clone(), value.clone())).collect(),
        Some(secrets) => scrubbed(kept, secrets),
    }
}

fn is_cookie(name: &HeaderName) -> bool {
    *name == header::SET_COOKIE || name.as_str() == "set-cookie2"
}

/// Masks what echoes a secret; where its name does, a header is left out.
pub(super) fn scrubbed<'a>(
    from: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    secrets: &Patterns,
) -> HeaderMap {
    let kept: Vec<_> = from.filter(|(name, _)| !secrets.are_in_name(name.as_str())).collect();
    // All values at once: what is masked stays as long as it was.
    let mut joined = BytesMut::with_capacity(kept.iter().map(|(_, value)| value.len() + 2).sum());
    for (_, value) in &kept {
        joined.extend_from_slice(value.as_bytes());
        joined.extend_from_slice(b"\r\n");
    }
    let mut to = HeaderMap::with_capacity(kept.len());
    let Some(mut text) = Scrubber::whole(secrets, joined) else {
        to.extend(kept.into_iter().map(|(name, value)| (name.clone(), value.clone())));
        return to;
    };
    for (name, value) in kept {
        let masked = text.split_to((value.len() + 2).min(text.len()));
        let masked = masked.slice(..value.len().min(masked.len()));
        to.append(name, HeaderValue::from_maybe_shared(masked).unwrap_or_else(|_| HeaderValue::from_static("")));
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(text: &str) -> std::sync::Arc<Reach> {
        let text = format!("[destinations.a]\nhost = \"a.example\"\n{text}");
        let routes = keyfold_custody::broker::Routes::parse(&text.parse().unwrap()).unwrap();
        super::super::settings::Reaches::of(&routes).ok().unwrap().0.remove("a").unwrap()
    }

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn p36_nothing_of_the_agents_own_passes_for_what_is_injected_and_no_trick_takes_it_away() {
        let from = headers(&[
            ("authorization", "Bearer mine"),
            ("AUTHORIZATION", "Bearer mine too"),
            ("x_api_key", "mine"),
            ("x-api-key", "mine"),
            ("proxy-authorization", "Basic x"),
            ("keyfold-token", "kfa_x"),
            ("keyfold-session", "kfh_x"),
            ("cookie", "a=b; __Host-keyfold=kfc_x"),
            ("connection", "close, X-Custom"),
            ("connection", "x-api-key"),
            ("x-custom", "1"),
            ("te", "trailers, deflate"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
            ("range", "bytes=0-1"),
            ("accept-encoding", "gzip"),
        ]);
        let out = outgoing(&reach("inject = { header = \"X-Api-Key\" }"), &from, false);
        assert_eq!(names(&out), ["accept", "accept-encoding"]);
        assert_eq!(out["accept-encoding"], "identity");
        let raw = outgoing(&reach("inject = { header = \"X-Api-Key\" }\nscrub = false"), &from, false);
        assert_eq!(names(&raw), ["accept", "accept-encoding", "range"]);
        let trailers = outgoing_trailers(&reach(""), &headers(&[("authorization", "Bearer mine"), ("x-sum", "1")]));
        assert_eq!(names(&trailers), ["x-sum"]);
    }

    #[test]
    fn p34_an_echo_in_a_header_is_masked_and_one_in_a_name_is_dropped() {
        let secret = b"ya29.ABCDEFGHIJKLMNOP".as_slice();
        let from = headers(&[
            ("x-echo", "Bearer ya29.ABCDEFGHIJKLMNOP"),
            ("x-ya29.abcdefghijklmnop", "1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("alt-svc", "h3=\":443\""),
            ("x-fine", "fine"),
        ]);
        let to = incoming(&reach(""), &from, Some(&Patterns::new(&[secret])));
        assert_eq!(names(&to), ["x-echo", "x-fine"]);
        assert_eq!(to["x-echo"].len(), from["x-echo"].len());
        assert!(!to["x-echo"].to_str().unwrap().contains("ABCDEFGH"), "{:?}", to["x-echo"]);
        let short =
            incoming(&reach(""), &headers(&[("x-pA5s", "1"), ("x-fine", "pA5s")]), Some(&Patterns::new(&[b"pA5s"])));
        assert_eq!((names(&short), &short["x-fine"]), (vec!["x-fine"], &HeaderValue::from_static("pA5s")));
    }

    #[test]
    fn p34_what_cannot_be_scrubbed_is_refused() {
        assert!(check(StatusCode::OK, &headers(&[("content-encoding", "identity")])).is_ok());
        for (status, list) in [
            (StatusCode::OK, &[("content-encoding", "gzip")][..]),
            (StatusCode::OK, &[("content-encoding", "identity"), ("content-encoding", "br")]),
            (StatusCode::OK, &[("grpc-encoding", "gzip")]),
            (StatusCode::PARTIAL_CONTENT, &[]),
            (StatusCode::OK, &[("content-range", "bytes 0-1/2")]),
            (StatusCode::SWITCHING_PROTOCOLS, &[("sec-websocket-extensions", "permessage-deflate")]),
            (StatusCode::OK, &[("connect-content-encoding", "gzip")]),
            (StatusCode::OK, &[("transfer-encoding", "gzip, chunked")]),
        ] {
            assert_eq!(check(status, &headers(list)).unwrap_err().code(), "upstream_encoded", "{list:?}");
        }
    }

    #[test]
    fn p36_nobody_is_who_a_header_says_and_nothing_asks_for_more_than_was_matched() {
        let from = headers(&[
            ("x-forwarded-for", "127.0.0.1"),
            ("X_Forwarded_User", "admin"),
            ("forwarded", "for=127.0.0.1"),
            ("x-original-url", "/admin"),
            ("x-webauth-user", "admin"),
            ("x-goog-api-key", "another's"),
            ("accept", "*/*"),
        ]);
        assert_eq!(names(&outgoing(&reach("scrub = false"), &from, false)), ["accept"]);
        for list in [
            &[("x-http-method-override", "DELETE")][..],
            &[("x_http_method_override", "DELETE")],
            &[("content-type", "application/grpc"), ("content-type", "text/plain")],
            &[("connection", "close, content-type")],
        ] {
            assert!(check_request(&headers(list)).is_err(), "{list:?}");
        }
        assert!(check_request(&headers(&[("content-type", "a/b"), ("connection", "keep-alive, x")])).is_ok());
    }

    #[test]
    fn p20_cookies_cross_neither_users_nor_destinations_unless_a_destination_says_so() {
        let cookies = headers(&[("cookie", "sid=1")]);
        let set = headers(&[("set-cookie", "sid=1"), ("x-fine", "1")]);
        let (without, with) = (reach("scrub = false"), reach("scrub = false\ncookies = true"));
        assert!(outgoing(&without, &cookies, false).is_empty());
        assert_eq!(names(&incoming(&without, &set, None)), ["x-fine"]);
        assert_eq!(names(&outgoing(&with, &cookies, false)), ["cookie"]);
        assert_eq!(names(&incoming(&with, &set, None)), ["set-cookie", "x-fine"]);
    }
}
