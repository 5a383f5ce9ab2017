//! Traces in builds that have them.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use axum::http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator as _,
    trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

use super::TraceSettings;
use crate::otlp;

/// How long the last spans have at the end.
const END: Duration = Duration::from_secs(5);
/// An answer of a collector over this many bytes is cut off.
const MAX_ANSWER: usize = 64 << 10;

/// Where spans go; nowhere unless configured.
#[derive(Default)]
pub(crate) struct Traces(Option<Exported>);

struct Exported {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// A request being traced.
pub(crate) struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Traces {
    pub(crate) fn new(settings: Option<&TraceSettings>) -> Self {
        let exported = settings.and_then(|settings| {
            let made = export(settings);
            // Traces are no reason not to serve.
            made.map_err(|error| tracing::error!(error, "no traces are sent")).ok()
        });
        Self(exported)
    }

    pub(crate) fn begin(&self, method: &'static str, route: &str, headers: &HeaderMap) -> Span {
        Span(self.0.as_ref().map(|to| {
            let parent = to.propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
            let span = to.tracer.span_builder(format!("{method} {route}")).with_kind(SpanKind::Server);
            let attributes =
                vec![KeyValue::new("http.request.method", method), KeyValue::new("http.route", route.to_owned())];
            span.with_attributes(attributes).start_with_context(&to.tracer, &parent)
        }))
    }

    /// Sends what is left.
    pub(crate) fn end(&self) {
        if let Some(to) = &self.0
            && let Err(error) = to.provider.shutdown_with_timeout(END)
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

impl Span {
    pub(crate) fn end(self, status: u16, request: &str, code: Option<&'static str>) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        span.set_attribute(KeyValue::new("keyfold.request_id", request.to_owned()));
        if let Some(code) = code {
            span.set_attribute(KeyValue::new("error.type", code));
        }
        if status >= 500 {
            span.set_status(Status::error(code.unwrap_or("internal")));
        }
        span.end();
    }
}

fn export(settings: &TraceSettings) -> Result<Exported, String> {
    let http =
        Http { client: otlp::client().map_err(|error| error.to_string())?, runtime: tokio::runtime::Handle::current() };
    let headers = otlp::headers().into_iter();
    let headers: HashMap<String, String> =
        headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned()))).collect();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpJson)
        .with_endpoint(format!("{}/v1/traces", settings.endpoint))
        .with_headers(headers)
        .with_http_client(http)
        .build()
        .map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder_empty().with_service_name("keyfold").with_attribute(version).build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("keyfold");
    Ok(Exported { provider, tracer, propagator: TraceContextPropagator::new() })
}

/// The exporter has a thread of its own; requests are sent on the runtime that serves.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
            let mut answer = request.send().await.map_err(reqwest::Error::without_url)?;
            let (status, mut bytes) = (answer.status(), Vec::new());
            while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
                if bytes.len() + chunk.len() > MAX_ANSWER {
                    break;
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((status, bytes))
        });
        let (status, bytes) = sent.await??;
        let mut response = Response::new(Bytes::from(bytes));
        *response.status_mut() = status;
        Ok(response)
    }
}
