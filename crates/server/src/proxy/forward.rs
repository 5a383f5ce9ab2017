//! One call, from the rules to the answer. The order is the promise: who, whether a rule lets it leave, whether a grant does, the
//! credential with its intent made durable, and only then the destination.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use keyfold_core::error::Hint;
use keyfold_custody::{
    access::{Permit, Place, op},
    broker::{Credential, Wanted},
};
use zeroize::Zeroizing;

use super::{
    Proxy, Way,
    answer::{Answer, Progress, Question, Watchers},
    answers::{self, MAX_ANSWER},
    call::{Call, YOUNG},
    grounds::{Asker, Grounds},
    headers,
    host::Host,
    inject::{self, Inject, Injected},
    path::Path,
    proof::Proof,
    refused, rules,
    scrub::{Patterns, Scrubber},
    settings::Reach,
    sigv4, upstream,
};
use crate::{
    auth::Caller,
    body::{self, Room},
    listen::Origin,
    problem::Problem,
};

/// The longest body that is held to be hashed.
const MAX_SIGNED: usize = 8 << 20;
/// How long a token endpoint may take for its answer.
const WHOLE: Duration = Duration::from_secs(30);

/// Where a request wants to go.
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    /// Path and query, as they came.
    pub(super) raw: String,
}

/// A request that was let through, and what it takes to send it.
struct Allowed {
    way: Arc<Way>,
    host: String,
    path: Path,
    method: Method,
    permit: Permit<op::Use>,
    template: String,
}

impl Allowed {
    fn reach(&self) -> &Arc<Reach> {
        &self.way.reach
    }

    fn grounds(&self, proxy: &Arc<Proxy>, asker: Asker) -> Arc<Grounds> {
        let destination = self.reach().destination.name.clone();
        let (method, path) = (self.method.as_str().to_owned(), self.path.path().to_owned());
        Arc::new(Grounds { proxy: Arc::clone(proxy), asker, destination, method, path })
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { destination: &self.reach().destination, method: self.method.as_str(), path: Some(&self.template) }
    }
}

/// Sends one request on, or says why not.
pub(super) async fn forward(
    asker: Asker,
    proxy: &Arc<Proxy>,
    target: Target,
    (mut parts, body): (Parts, Incoming),
) -> Result<Response<Body>, Problem> {
    let allowed = allow(proxy, &asker.caller, target, &parts).await?;
    let grounds = allowed.grounds(proxy, asker);
    let proof = &grounds.asker.proof;
    let begun = Arc::clone(&proxy.service.begun).read_owned().await;
    let broker = &proxy.people.broker;
    let credential = broker.credential_for(&allowed.permit, proof.handle(), &allowed.wanted()).await?;
    // From here on there is an intent; its outcome is written whatever happens.
    let origin = parts.extensions.remove::<Origin>();
    let mut call = Call::new(Arc::clone(&grounds), &credential, (origin, begun));
    call.fly(&credential)?;
    let websocket = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && headers::wants_websocket(&parts.headers)
        && body.is_end_stream();
    let upgrade = websocket.then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
    let empty = body.is_end_stream();
    let progress = Progress::new();
    let body = Body::new(Question::new(body, allowed.reach(), &progress));
    let (body, payload) = match &allowed.reach().inject {
        Inject::AwsSigV4(_) => {
            hashed(&allowed, &proxy.service.room, (&parts.headers, body)).await.inspect_err(|problem| {
                call.result = problem.code();
            })?
        }
        _ => (body, String::new()),
    };
    let mut sending =
        Sending { allowed: &allowed, from: &parts.headers, call: &mut call, progress: &progress, payload: &payload };
    let (mut response, mut secrets) = sending.send(&credential, body, upgrade.is_some()).await?;
    let refreshes = credential.session().is_some_and(|session| session.refreshes);
    if response.status() == StatusCode::UNAUTHORIZED
        && empty
        && refreshes
        && allowed.reach().destination.secret.is_none()
    {
        // It may have been revoked early; with a new one the same question is asked once more.
        if let Ok(other) = broker.instead_of(&allowed.permit, proof.handle(), &allowed.wanted(), &credential).await {
            call.again(&other, 401);
            let mut sending =
                Sending { allowed: &allowed, from: &parts.headers, call: &mut call, progress: &progress, payload: "" };
            (response, secrets) = sending.send(&other, Body::empty(), upgrade.is_some()).await?;
        }
    }
    drop(credential);
    let (head, body) = (response.status(), response.headers());
    if allowed.reach().scrub
        && let Err(problem) = headers::check(head, body)
    {
        call.result = problem.code();
        return Err(problem);
    }
    match (head, upgrade) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(agents)) => Ok(switch(&allowed, (call, secrets), agents, response)),
        (StatusCode::SWITCHING_PROTOCOLS, None) => {
            call.result = "upstream_broken";
            let what = "the destination changed the protocol without being asked";
            Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream_broken", what)
                .hint("it does not speak HTTP as it should"))
        }
        _ if allowed.reach().is_token_endpoint(allowed.path.path()) => token(proof, (call, secrets), response).await,
        _ => Ok(answer((&allowed, &proxy.watchers), (call, secrets), response)),
    }
}

/// Rules, then grants. What either refuses is in the audit log before this returns.
async fn allow(proxy: &Proxy, caller: &Caller, target: Target, parts: &Parts) -> Result<Allowed, Problem> {
    let Target { host, port, raw } = target;
    let method = parts.method.as_str();
    let Some(destination) = proxy.people.broker.routes().at(host.as_str(), port) else {
        return Err(refused::unknown(proxy, caller, (&host, port, method)).await);
    };
    let way = proxy.way(&destination.name)?;
    let path = match read(&way.reach, &raw, parts) {
        Ok(path) => path,
        Err(problem) => return Err(refused::noted(proxy, caller, (&destination.name, method, None), problem).await),
    };
    let grpc = headers::is_grpc(&parts.headers);
    let asked = rules::Request { host: &host, port, method, path: &path, grpc };
    if let Err(unmatched) = way.reach.rules.decide(&asked) {
        let problem = Problem::new(StatusCode::FORBIDDEN, "rule_missing", unmatched.to_string());
        let problem = match unmatched.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        };
        let at = (destination.name.as_str(), method, Some(path.template()));
        return Err(refused::noted(proxy, caller, at, problem).await);
    }
    let place = Place::Destination(&destination.name, Some((method, path.path())));
    let permit = caller.permit::<op::Use>(&proxy.service, &place).await?;
    let template = path.template();
    let host = if port == 443 { host.to_string() } else { format!("{host}:{port}") };
    Ok(Allowed { way: Arc::clone(way), host, path, method: parts.method.clone(), permit, template })
}

/// Reads what was asked for, in the one way in which it can be read.
fn read(reach: &Reach, raw: &str, parts: &Parts) -> Result<Path, Problem> {
    headers::check_request(&parts.headers)?;
    let path = Path::parse(raw, reach.lenient).map_err(|error| {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "path_refused", error.to_string());
        problem.hint(error.hint().unwrap_or_default())
    })?;
    inject::refuse_rivals(&reach.inject, path.query())?;
    Ok(path)
}

/// The answer of a token endpoint: the tokens in it become the caller's handle, and what cannot be read stays here.
async fn token(
    proof: &Proof,
    (mut call, mut secrets): (Call, Injected),
    response: Response<Incoming>,
) -> Result<Response<Body>, Problem> {
    let (head, body) = response.into_parts();
    let read = tokio::time::timeout(WHOLE, Limited::new(body, MAX_ANSWER).collect()).await;
    let Ok(Ok(whole)) = read else {
        call.result = "upstream_broken";
        let what = "the token endpoint's answer did not come to its end, or is too long";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream_broken", what));
    };
    let whole = Zeroizing::new(whole.to_bytes().to_vec());
    call.bytes = u64::try_from(whole.len()).unwrap_or(0);
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let handle = proof.handle().unwrap_or("");
    let form = kind.starts_with("application/x-www-form-urlencoded");
    let replaced = match (whole.is_empty(), form) {
        (true, _) => Ok(None),
        (false, true) => answers::form(&whole, handle),
        (false, false) => answers::json(&whole, handle),
    };
    let replaced = replaced.map_err(|error| {
        call.result = "token_kept";
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "token_kept", error.to_string());
        problem.hint(error.hint().unwrap_or_default())
    })?;
    if replaced.is_some() && handle.is_empty() {
        call.result = "token_kept";
        let what = "the token endpoint gave a token, and there is no handle to put in its place";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "token_kept", what)
            .hint("call token endpoints with the session's handle"));
    }
    call.result = "done";
    // Some endpoints say a token twice, under another name; and what was injected may be echoed.
    secrets.extend(answers::live(&whole, form));
    let mut scrubber = Scrubber::new(&Arc::new(Patterns::new(&secrets)));
    let mut out = BytesMut::from(scrubber.scrub(replaced.unwrap_or_else(|| whole.to_vec().into())));
    out.extend_from_slice(&scrubber.finish());
    let mut answer = Response::new(Body::from(out.freeze()));
    *answer.status_mut() = head.status;
    let headers = answer.headers_mut();
    // Of its headers only these: others could carry what was taken out of the body.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let json = HeaderValue::from_static(if form { "application/x-www-form-urlencoded" } else { "application/json" });
    headers.insert(header::CONTENT_TYPE, json);
    Ok(answer)
}

/// What stands for the body in a signature; where its hash is left to be found, the body is held until it is whole.
async fn hashed(allowed: &Allowed, room: &Room, (from, body): (&HeaderMap, Body)) -> Result<(Body, String), Problem> {
    sigv4::refuse_presigned(allowed.path.query()).map_err(|error| {
        let problem = Problem::bad_request(error.to_string());
        problem.hint(error.hint().unwrap_or_default())
    })?;
    if let Some(said) = inject::payload(from)? {
        return Ok((body, said));
    }
    let whole = body::whole((room, MAX_SIGNED), from, body).await.map_err(|problem| match problem.code() {
        "too_large" => problem.hint(
            "it is held to be hashed for its signature: send its hash in x-amz-content-sha256, or UNSIGNED-PAYLOAD",
        ),
        _ => problem,
    })?;
    let hash = sigv4::hash(whole.bytes());
    // Its room is given back once it is sent.
    Ok((Body::from(Bytes::from_owner(whole)), hash))
}

struct Sending<'a> {
    allowed: &'a Allowed,
    from: &'a HeaderMap,
    call: &'a mut Call,
    progress: &'a Arc<Progress>,
    /// What stands for the body in a signature.
    payload: &'a str,
}

impl Sending<'_> {
    /// Puts the credential in, sends, and waits for the head of the answer.
    async fn send(
        &mut self,
        credential: &Credential,
        body: Body,
        websocket: bool,
    ) -> Result<(Response<Incoming>, Injected), Problem> {
        let sent = self.sent(credential, body, websocket).await;
        match &sent {
            Ok((response, _)) => self.call.status = Some(response.status().as_u16()),
            Err(problem) => self.call.result = problem.code(),
        }
        sent
    }

    async fn sent(
        &mut self,
        credential: &Credential,
        body: Body,
        websocket: bool,
    ) -> Result<(Response<Incoming>, Injected), Problem> {
        let Allowed { way, host, path, method, .. } = self.allowed;
        let mut headers = headers::outgoing(&way.reach, self.from, websocket);
        let mut target = Zeroizing::new(path.as_str().to_owned());
        let upstream = way.connections.of(credential)?;
        let secrets = way.reach.inject.put(credential, &mut headers, &mut target)?;
        headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|e| Problem::internal(&e))?);
        if let Inject::AwsSigV4(key_id) = &way.reach.inject {
            inject::sign((key_id, credential), self.from, (method.as_str(), path, self.payload), &mut headers)?;
        }
        let uri: Uri = format!("https://{host}{}", *target).parse().map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "path_refused", "the path is not one that can be sent")
        })?;
        // What was matched is what is sent: nothing on the way may have read it in another way.
        if uri.path_and_query().is_none_or(|sent| sent.as_str() != target.as_str()) {
            return Err(
                Problem::bad_request("the path would not be sent as it came").hint("escape what is unusual in it")
            );
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let limits = way.reach.timeouts;
        let given_up = async {
            tokio::time::sleep(YOUNG).await;
            tokio::select! {
                () = self.progress.stalled(limits.headers) => upstream::late(),
                why = self.call.ended() => {
                    let what = "the session, or what allowed the call, ended while it was under way";
                    Problem::no_proof(why, what).hint("sign in again, or ask an operator for the grant")
                }
            }
        };
        let (response, lane) = tokio::select! {
            sent = upstream.send(request, websocket) => sent?,
            problem = given_up => return Err(problem),
        };
        self.call.on(lane);
        Ok((response, secrets))
    }
}

fn answer(
    (allowed, watchers): (&Allowed, &Watchers),
    (call, secrets): (Call, Injected),
    response: Response<Incoming>,
) -> Response<Body> {
    let reach = allowed.reach();
    let (head, body) = response.into_parts();
    let secrets = reach.scrub.then(|| Arc::new(Patterns::new(&secrets)));
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = headers::incoming(reach, &head.headers, secrets.as_deref());
    *answer.body_mut() = Body::new(Answer::new(body, call, secrets, (watchers, reach.timeouts.idle)));
    answer
}

/// Lets agent and destination speak another protocol; what comes back is scrubbed as bytes.
fn switch(
    allowed: &Allowed,
    (call, secrets): (Call, Injected),
    agents: hyper::upgrade::OnUpgrade,
    mut response: Response<Incoming>,
) -> Response<Body> {
    let reach = Arc::clone(allowed.reach());
    let secrets = Arc::new(Patterns::new(if reach.scrub { &secrets } else { &[] }));
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = headers::incoming(&reach, response.headers(), Some(&secrets));
    let own = answer.headers_mut();
    own.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    own.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let theirs = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        // The whole of it, not its numbers: they are written down when it is dropped.
        let mut call = call;
        let ended = call.ended();
        let both = tokio::time::timeout(reach.timeouts.connect, async { tokio::try_join!(agents, theirs) });
        let Ok(Ok((agent, upstream))) = both.await else {
            call.result = "upstream_broken";
            return;
        };
        let (agent, upstream) = (TokioIo::new(agent), TokioIo::new(upstream));
        tokio::select! {
            (bytes, result) = super::pipe::pipe(agent, upstream, &secrets, reach.timeouts.idle) => {
                (call.bytes, call.result) = (bytes, result);
            }
            why = ended => call.result = why,
        }
    });
    answer
}
