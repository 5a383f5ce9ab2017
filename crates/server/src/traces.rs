//! OpenTelemetry traces, where they are asked for: one span for each request, sent to a collector by OTLP over HTTP.
//!
//! A span holds method, route template, status, request id and how long it took: what the log's line holds, without the actor. The
//! caller's `traceparent` is followed. Spans are dropped where the collector is slow; unlike the audit log, they promise nothing.

#[cfg(feature = "otlp")]
mod exported;

#[cfg(feature = "otlp")]
pub(crate) use exported::Traces;

/// What `[server.traces]` says.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The collector's URL, without `/v1/traces`.
    pub endpoint: String,
    /// Which part of the requests without a decision of the caller's is traced.
    pub sample: f64,
}

/// Whether this build can send any.
pub const BUILT: bool = cfg!(feature = "otlp");

#[cfg(not(feature = "otlp"))]
mod none {
    use axum::http::HeaderMap;

    use super::TraceSettings;

    /// A build without traces.
    #[derive(Default)]
    pub(crate) struct Traces;

    /// No span.
    pub(crate) struct Span;

    impl Traces {
        pub(crate) fn new(_: Option<&TraceSettings>) -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "as in a build with traces")]
        pub(crate) fn begin(&self, _: &'static str, _: &str, _: &HeaderMap) -> Span {
            Span
        }

        #[expect(clippy::unused_self, reason = "as in a build with traces")]
        pub(crate) fn end(&self) {}
    }

    impl Span {
        pub(crate) fn end(self, _: u16, _: &str, _: Option<&'static str>) {}
    }
}

#[cfg(not(feature = "otlp"))]
pub(crate) use none::Traces;
