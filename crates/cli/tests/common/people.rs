//! People who sign in at a service of a test's own.

use serde_json::{Value, json};

use super::{
    provider::Provider,
    served::{Answer, Served},
};

/// Where their tokens may go.
pub(crate) const DESTINATIONS: &str =
    "[destinations.logs]\nhost = \"logs.example\"\n[destinations.other]\nhost = \"other.example\"\n";

/// A service that people sign in to, and a backend that brings them.
pub(crate) struct Node<'a> {
    pub(crate) served: Served,
    pub(crate) provider: &'a Provider,
    pub(crate) backend: String,
}

impl<'a> Node<'a> {
    pub(crate) fn new(provider: &'a Provider, more: &str) -> Self {
        Self::with(provider, &format!("{}{DESTINATIONS}", provider.config(more)))
    }

    pub(crate) fn with(provider: &'a Provider, config: &str) -> Self {
        Self::over(provider, Served::new(config))
    }

    pub(crate) fn over(provider: &'a Provider, served: Served) -> Self {
        let backend = served.token_of("service:backend");
        Self { served, provider, backend }
    }

    pub(crate) fn sign_in(&self, body: Value) -> Answer {
        self.served.as_(&self.backend, "POST", "/v1/sessions", Some(body))
    }

    /// A session of somebody, by access token alone; gives the token and the handle.
    pub(crate) fn session(&self, sub: &str) -> (String, String) {
        let token = self.provider.token(sub, json!({}));
        let made = self.sign_in(json!({ "access_token": token })).is(201);
        (token, made["handle"].as_str().unwrap().to_owned())
    }

    #[expect(clippy::too_many_arguments, reason = "a request has that many parts")]
    pub(crate) fn call(
        &self,
        token: &str,
        method: &str,
        path: &str,
        handle: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.served.request(method, path).bearer_auth(token);
        if let Some(handle) = handle {
            request = request.header("keyfold-session", handle);
        }
        self.served.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
    }

    /// The token that a handle stands for, as who may see it.
    pub(crate) fn credential(&self, handle: Option<&str>) -> Answer {
        let body = json!({ "destination": "logs" });
        self.call(&self.backend, "POST", "/v1/sessions/current:credential", handle, Some(body))
    }

    pub(crate) fn by_cookie(&self, method: &str, path: &str, cookie: &str, body: Option<Value>) -> Answer {
        let request = self.served.request(method, path).header("cookie", format!("__Host-keyfold={cookie}"));
        let request = request.header("keyfold-session", "cookie");
        self.served.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
    }

    pub(crate) fn sessions(&self) -> Vec<Value> {
        self.served.get("/v1/sessions").is(200)["sessions"].as_array().unwrap().clone()
    }
}

/// The cookie that an answer sets.
pub(crate) fn cookie_of(answer: &Answer) -> String {
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let set = set.into_iter().find(|text| text.starts_with("__Host-keyfold=kfc_")).unwrap();
    for says in ["Path=/", "HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(set.contains(says), "{set}");
    }
    assert!(!set.contains("Domain"));
    set["__Host-keyfold=".len()..].split(';').next().unwrap().to_owned()
}

/// Waits for ten seconds at most.
pub(crate) fn wait(until: impl Fn() -> bool) {
    for _ in 0..200 {
        if until() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("ten seconds, and nothing changed");
}
