//! What Redis and its driver answer, sorted by who can do something about it.
//!
//! A server repeats arguments in some of its errors, and arguments are values. So of what a server says only the code is
//! shown, and the text only where it cannot hold one.

use std::{error::Error, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::StoreError;

/// What the driver or a server said, as one of ours.
pub(super) fn classify(store: &str, error: RedisError) -> StoreError {
    let store = store.to_owned();
    let code = error.code().unwrap_or_default().to_owned();
    let unavailable = |store, what: &str, retry, error: Option<RedisError>| StoreError::Unavailable {
        store,
        what: what.into(),
        retry,
        source: error.map(Into::into),
    };
    let refused = |store, what: String| StoreError::Refused { store, what, source: None };
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused(store, "it does not accept the user or the password".into()),
        ErrorKind::Io if error.is_timeout() => unavailable(store, "it did not answer in time", true, Some(error)),
        ErrorKind::Io if is_tls(&error) => {
            let what = "the TLS connection failed: check `ca`, the server's certificate and that the port speaks TLS";
            unavailable(store, what, false, Some(error))
        }
        ErrorKind::Io if error.is_connection_refusal() => {
            unavailable(store, "nothing listens there", true, Some(error))
        }
        ErrorKind::Io => unavailable(store, "the connection broke off", true, Some(error)),
        ErrorKind::MasterNameNotFoundBySentinel => {
            unavailable(store, "the sentinels know no master of that name", true, None)
        }
        ErrorKind::ClusterConnectionNotFound => unavailable(store, "no node of the cluster can be reached", true, None),
        ErrorKind::InvalidClientConfig => {
            StoreError::invalid(format!("{store} cannot be connected to: {}", plain(&error)))
        }
        ErrorKind::Server(kind) => server(store, kind, &error),
        _ => match code.as_str() {
            "WRONGPASS" | "NOAUTH" => refused(store, format!("it does not accept the user or the password ({code})")),
            "OOM" => StoreError::Full { store, source: None },
            "MISCONF" => refused(store, "it takes no writes while it cannot save to its disk (MISCONF)".into()),
            "NOREPLICAS" => unavailable(store, "too few replicas follow it for it to take writes", true, None),
            "BUSY" => unavailable(store, "a script of somebody else's runs there for too long", true, None),
            "" => unavailable(store, "what it answered is not understood", false, None),
            _ => refused(store, format!("it answered {code}")),
        },
    }
}

fn server(store: String, kind: ServerErrorKind, error: &RedisError) -> StoreError {
    let unavailable =
        |store, what: &str| StoreError::Unavailable { store, what: what.into(), retry: true, source: None };
    match kind {
        ServerErrorKind::BusyLoading => unavailable(store, "it is still loading its data"),
        ServerErrorKind::ClusterDown => unavailable(store, "the cluster is down: some hash slots have no master"),
        ServerErrorKind::MasterDown => unavailable(store, "its master is down"),
        ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain => {
            unavailable(store, "hash slots are being moved; is this a cluster, to be named as redis+cluster://?")
        }
        ServerErrorKind::ReadOnly => {
            StoreError::Refused { store, what: "it is a replica, which takes no writes".into(), source: None }
        }
        ServerErrorKind::NoPerm => {
            StoreError::Refused { store, what: format!("the user may not do that: {}", plain(error)), source: None }
        }
        ServerErrorKind::ResponseError => {
            StoreError::Refused { store, what: format!("it answered: {}", plain(error)), source: None }
        }
        other => StoreError::Refused { store, what: format!("it answered {other:?}"), source: None },
    }
}

/// What was said, up to where a server would begin to repeat arguments.
fn plain(error: &RedisError) -> String {
    let text = error.detail().unwrap_or_else(|| error.category());
    let text = text.split(", with args beginning").next().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn is_tls(error: &RedisError) -> bool {
    // The driver hands out its source in an `Arc`, and an I/O error does not give what it wraps as its source.
    let shared =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let io = shared.and_then(|shared| shared.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
}
