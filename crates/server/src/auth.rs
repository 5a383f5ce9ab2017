//! Request → actor: by token, by client certificate, by JWT, by the cookie of a session.
//!
//! Exactly one proof counts, in this order: what stands in `Authorization`, else the connection's client certificate, else a cookie. A proof
//! that is there and does not hold is the end of the request; nothing weaker is tried after it.

pub(crate) mod jwt;
pub(crate) mod person;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use keyfold_core::audit::Actor;
use keyfold_custody::{
    access::{Known, Operation, Permit, Place, Refusal, Right, Subject, authorize_at},
    tokens::KINDS,
};

use crate::{problem::Problem, service::Service};

/// Why somebody without a right is refused, in the audit log.
const FORBIDDEN: &str = "forbidden";

/// What the connection says of its other end. Set by the listener, for every request on it.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address; none on a Unix socket.
    pub address: Option<IpAddr>,
    /// The actor that its client certificate stands for.
    pub certificate: Option<Actor>,
}

/// Who made a request. It can be had in handlers behind [`layer`] only.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The actor, with what was granted to it.
    pub subject: Arc<Subject>,
    /// Its name.
    pub actor: Actor,
}

/// The actor of a request, for its line in the log.
#[derive(Debug, Clone)]
pub(crate) struct Acted(pub(crate) Actor);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Only a route outside of the layer gets here without one, and that would be a fault of ours.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::internal(&"a route without authentication"))
    }
}

impl Caller {
    /// A permit, or a refusal that is in the audit log before this returns.
    ///
    /// # Errors
    /// The actor may not.
    pub async fn permit<O: Operation>(&self, service: &Service, place: &Place<'_>) -> Result<Permit<O>, Problem> {
        match authorize_at::<O>(&self.subject, place) {
            Ok(permit) => Ok(permit),
            Err(refusal) => Err(self.refused(service, refusal, place).await),
        }
    }

    /// Asked before anything that came in is parsed.
    ///
    /// # Errors
    /// The actor may do `O` nowhere at all.
    pub async fn may_somewhere<O: Operation>(&self, service: &Service) -> Result<(), Problem> {
        match self.subject.may_somewhere::<O>() {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refused(service, refusal, &Place::Anywhere).await),
        }
    }

    /// Notes a refusal. One that cannot be written is refused all the same.
    pub async fn refused(&self, service: &Service, refusal: Refusal, place: &Place<'_>) -> Problem {
        self.note(service, refusal.right(), place).await;
        refusal.into()
    }

    /// Notes the values of a call that it may not work on, in one event.
    pub async fn refused_values(&self, service: &Service, refusal: &Refusal, count: u64) {
        service.metrics.denied.inc_by(count);
        let noted = service
            .custody
            .auditor
            .refused(&self.actor, (refusal.right(), FORBIDDEN), |event| event.count = Some(count))
            .await;
        if let Err(error) = noted {
            tracing::error!(%error, "a refusal could not be written to the audit log");
        }
    }

    async fn note(&self, service: &Service, right: Right, place: &Place<'_>) {
        use crate::proxy::template;
        use keyfold_core::audit::Name;
        service.metrics.denied.inc();
        let noted = service.custody.auditor.refused(&self.actor, (right, FORBIDDEN), |event| match *place {
            Place::Collection(collection) => event.collection = Some(Name::abridge(collection.as_str())),
            Place::Record(collection, record) => {
                event.collection = Some(Name::abridge(collection.as_str()));
                event.record = Some(Name::abridge(record.as_str()));
            }
            Place::Field(collection, record, field) => {
                event.collection = Some(Name::abridge(collection.as_str()));
                event.record = Some(Name::abridge(record.as_str()));
                event.field = Some(Name::abridge(field));
            }
            Place::Destination(destination, call) => {
                event.field = Some(Name::abridge(destination));
                event.method = call.map(|(method, _)| Name::abridge(method));
                event.path = call.and_then(|(_, path)| template(path)).map(|path| Name::abridge(&path));
            }
            Place::Anywhere | Place::Everything | Place::Deployment | Place::Value(_) => {}
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, "a refusal could not be written to the audit log");
        }
    }
}

/// Lets nobody through who is not known.
pub async fn layer(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let stronger = request.headers().contains_key(header::AUTHORIZATION) || peer.certificate.is_some();
    let proven = match stronger {
        true => Ok(None),
        false => person::by_cookie(&service, request.method(), request.headers()).await,
    };
    let proven = match proven {
        Ok(Some((caller, person))) => {
            request.extensions_mut().insert(person);
            Ok(caller)
        }
        Ok(None) => authenticate(&service, request.headers(), &peer).await,
        Err(problem) => Err(problem),
    };
    let caller = match proven {
        Ok(caller) => caller,
        Err(problem) => {
            service.metrics.unauthenticated.inc();
            return problem.into_response();
        }
    };
    let acted = Acted(caller.actor.clone());
    if let Err(problem) = service.rates.take(&caller.actor) {
        return with(problem.into_response(), acted);
    }
    request.extensions_mut().insert(caller);
    with(next.run(request).await, acted)
}

fn with(mut response: Response, acted: Acted) -> Response {
    response.extensions_mut().insert(acted);
    response
}

/// Who it is. Asked again by what goes on for long.
pub(crate) async fn authenticate(service: &Service, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Problem> {
    let mut presented = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (presented.next(), presented.next()) {
        (Some(_), Some(_)) => return Err(Problem::unauthenticated("there are two Authorization headers")),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| not_bearer())?;
            let bearer = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            Some(bearer.map(|(_, token)| token.trim()).ok_or_else(not_bearer)?)
        }
        (None, _) => None,
    };
    known(service, token, peer).await
}

/// Who shows this token; without one, who the connection's certificate stands for.
pub(crate) async fn known(service: &Service, token: Option<&str>, peer: &Peer) -> Result<Caller, Problem> {
    let (actor, narrowed) = match token {
        Some(token) if KINDS.iter().any(|(_, prefix)| token.starts_with(prefix)) => {
            let now = service.custody.auditor.clock().now();
            let token = service.tokens.find(token, now, peer.address)?;
            (token.actor.clone(), token.narrowed.clone())
        }
        Some(token) => (service.jwts.actor(token).await?, None),
        None => match &peer.certificate {
            Some(actor) => (actor.clone(), None),
            None => {
                return Err(Problem::unauthenticated("no token came with the request")
                    .hint("send `Authorization: Bearer TOKEN`; `keyfold token create` makes one"));
            }
        },
    };
    let known = Known {
        grants: service.grants()?.of(&actor),
        actor: actor.clone(),
        narrowed,
        today: service.custody.auditor.clock().now().date(),
    };
    Ok(Caller { subject: Arc::new(Subject::Known(known)), actor })
}

fn not_bearer() -> Problem {
    Problem::unauthenticated("the Authorization header is not `Bearer TOKEN`")
}
