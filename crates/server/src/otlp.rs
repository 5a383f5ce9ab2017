//! What both ways to an OpenTelemetry collector share: the client, and the headers that the environment gives for it.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

const TIME: Duration = Duration::from_secs(10);

/// A client for a collector.
///
/// # Errors
/// No certificates to trust.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(TIME).redirect(reqwest::redirect::Policy::none()).build()
}

/// `OTEL_EXPORTER_OTLP_HEADERS`: `name=value,name=value`. Values may be secrets.
pub(crate) fn headers() -> Vec<(HeaderName, HeaderValue)> {
    let Ok(text) = std::env::var("OTEL_EXPORTER_OTLP_HEADERS") else { return Vec::new() };
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name.trim().parse().ok()?, value))
        })
        .collect()
}
