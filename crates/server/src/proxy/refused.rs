//! Calls that do not leave, in the audit log: who asked, for what, and why not.

use keyfold_core::audit::Name;
use keyfold_custody::access::Right;

use super::{Proxy, host::Host};
use crate::{auth::Caller, problem::Problem};

/// The longest text that is noted of a host that cannot be read, and of a method.
const MAX_HOST: usize = 100;
const MAX_METHOD: usize = 20;

/// Writes a refusal of a destination, a method and the template of a path down before it is answered. One that cannot be written is
/// refused all the same.
pub(super) async fn noted(
    proxy: &Proxy,
    caller: &Caller,
    (destination, method, path): (&str, &str, Option<String>),
    problem: Problem,
) -> Problem {
    proxy.service.metrics.denied.inc();
    let about = proxy.service.custody.auditor.refused(&caller.actor, (Right::Use, problem.code()), |event| {
        event.field = Some(Name::abridge(destination));
        event.method = Some(Name::abridge(&method.chars().take(MAX_METHOD).collect::<String>()));
        event.path = path.as_deref().map(Name::abridge);
    });
    if let Err(error) = about.await {
        tracing::error!(%error, "a refusal could not be written to the audit log");
    }
    problem
}

/// Nothing is configured there.
pub(super) async fn unknown(proxy: &Proxy, caller: &Caller, (host, port, method): (&Host, u16, &str)) -> Problem {
    let what = format!("no destination is configured at {host}:{port}");
    let problem = Problem::new(axum::http::StatusCode::FORBIDDEN, "destination_unknown", what)
        .hint("an operator lists it under [destinations.NAME] in keyfold.toml; what is not listed is refused");
    noted(proxy, caller, (&format!("{host}:{port}"), method, None), problem).await
}

/// What stands where a host should, for the log: without what comes before an `@`, which may be a password, and with nothing
/// that a host cannot have.
pub(super) fn written(authority: &str) -> String {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) { c } else { '?' };
    host.chars().take(MAX_HOST).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_cannot_be_read_is_noted_without_a_password() {
        assert_eq!(written("me:secret@evil.example:80"), "evil.example:80");
        assert_eq!(written("2130706433"), "2130706433");
        assert_eq!(written("a b\n%61\u{e9}"), "a?b??61?");
        assert_eq!(written(&"a".repeat(1000)).len(), MAX_HOST);
    }
}
