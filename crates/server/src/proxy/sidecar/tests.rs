use std::os::unix::fs::MetadataExt as _;

use http_body_util::BodyExt as _;
use hyper::{
    Method, StatusCode,
    header::{HeaderMap, HeaderValue},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);

struct Still;

impl Clock for Still {
    fn now(&self) -> UnixTime {
        NOW
    }
}

fn identity(proxy: &str, until: u64) -> Identity {
    Identity {
        proxy: ProxyAddress::parse(proxy).unwrap(),
        token: Secret::from(&b"kfa_token"[..]),
        handle: Secret::from(&b"kfh_handle"[..]),
        until: UnixTime(until),
        email: "alice@example.com".into(),
        project: Some("p-1".into()),
        uid: own(),
        holder: Arc::new(Holder::new(own(), None)),
        clock: Arc::new(Still),
    }
}

fn own() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn at() -> SocketAddr {
    "127.0.0.1:8080".parse().unwrap()
}

async fn ask(identity: &Identity, path: &str, headers: &[(&'static str, &'static str)]) -> (StatusCode, String) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let response = metadata::route(identity, at(), (&Method::GET, path, query), &map);
    assert_eq!(response.headers()["metadata-flavor"], "Google", "clients know the endpoint by it");
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

const RIGHT: [(&str, &str); 2] = [("host", "127.0.0.1:8080"), ("metadata-flavor", "Google")];

#[tokio::test]
async fn a_client_library_finds_its_account_and_the_handle_as_its_token() {
    let identity = identity("http://127.0.0.1:8741", NOW.0 + 90);
    let base = "/computeMetadata/v1/instance/service-accounts";
    for (path, says) in [
        ("/", "computeMetadata/\n"),
        ("/computeMetadata/v1/project/project-id", "p-1"),
        ("/computeMetadata/v1/universe/universe-domain", "googleapis.com"),
        (&format!("{base}/"), "default/\n"),
        (&format!("{base}/default/email"), "alice@example.com"),
        (&format!("{base}/alice@example.com/email"), "alice@example.com"),
        (&format!("{base}/default/scopes"), "https://www.googleapis.com/auth/cloud-platform\n"),
    ] {
        assert_eq!(ask(&identity, path, &RIGHT).await, (StatusCode::OK, says.to_owned()), "{path}");
    }
    let (_, whole) = ask(&identity, &format!("{base}/default/?recursive=true"), &RIGHT).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&whole).unwrap()["email"], "alice@example.com");
    let (_, token) = ask(&identity, &format!("{base}/default/token?scopes=a,b"), &RIGHT).await;
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    assert_eq!((&token["access_token"], &token["expires_in"]), (&"kfh_handle".into(), &90.into()));
    assert!(!token.to_string().contains("kfa_token"));
    for path in [
        &format!("{base}/default/identity"),
        &format!("{base}/bob@example.com/token"),
        "/computeMetadata/v1beta1/x",
        "/x",
    ] {
        assert_eq!(ask(&identity, path, &RIGHT).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_handle_that_is_over_is_not_handed_out() {
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    for until in [NOW.0, NOW.0 - 1] {
        let (status, text) = ask(&identity("http://127.0.0.1:8741", until), path, &RIGHT).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(!text.contains("kfh_handle"));
    }
}

#[tokio::test]
async fn a_page_in_a_browser_and_a_request_that_was_forwarded_get_nothing() {
    let identity = identity("http://127.0.0.1:8741", NOW.0 + 90);
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    for headers in [
        &[("host", "127.0.0.1:8080")][..],
        &[("host", "127.0.0.1:8080"), ("metadata-flavor", "google")],
        &[("metadata-flavor", "Google")],
        &[("host", "evil.example"), ("metadata-flavor", "Google")],
        &[("host", "localhost:8080"), ("metadata-flavor", "Google")],
        &[("host", "127.0.0.1:8080"), ("metadata-flavor", "Google"), ("x-forwarded-for", "192.0.2.1")],
    ] {
        let (status, text) = ask(&identity, path, headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?}");
        assert!(!text.contains("kfh_handle"));
    }
}

#[test]
fn a_proof_is_not_sent_in_the_clear_to_another_machine() {
    for good in
        ["http://127.0.0.1:8741", "http://localhost:8741/", "https://keyfold.example", "https://keyfold.example:8741"]
    {
        assert!(ProxyAddress::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "http://keyfold.example:8741",
        "127.0.0.1:8741",
        "https://",
        "https://u:p@keyfold.example",
        "https://a.example/x",
        "ftp://a",
    ] {
        assert!(ProxyAddress::parse(bad).is_err(), "{bad}");
    }
}

/// What a stand-in for the proxy was sent, and what the client got.
async fn through(identity: impl FnOnce(&str) -> Identity, sent: &[u8]) -> (Option<String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = identity(&format!("http://{}", listener.local_addr().unwrap()));
    let sidecar = Sidecar::start(identity).await.unwrap();
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"inner") {
            stream.read_buf(&mut head).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nanswer").await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let client = async {
        let mut stream = TcpStream::connect(sidecar.proxy()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        String::from_utf8(got).unwrap()
    };
    let mut client = std::pin::pin!(client);
    tokio::select! {
        head = proxy => (Some(head), client.await),
        got = &mut client => (None, got),
    }
}

#[tokio::test]
async fn a_tunnel_is_opened_with_the_proof_and_without_what_the_agent_said_of_itself() {
    let sent =
        b"CONNECT API.example.com:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic b3RoZXI6b3RoZXI=\r\n\r\ninner";
    let (head, got) = through(|proxy| identity(proxy, NOW.0 + 90), sent).await;
    let proof = base64_simd::STANDARD.encode_to_string("kfh_handle:kfa_token");
    assert_eq!(
        head.unwrap(),
        format!(
            "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nProxy-Authorization: Basic {proof}\r\n\r\ninner"
        )
    );
    assert_eq!(got, "HTTP/1.1 200 OK\r\n\r\nanswer");
}

#[tokio::test]
async fn what_opens_no_tunnel_is_told_so_and_reaches_nobody() {
    for (sent, status) in [
        (&b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], "501"),
        (b"CONNECT a.example:443\r\n\r\n", "400"),
        (b"CONNECT a.example.:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT a.example:443 HTTP/1.1 x\r\n\r\n", "400"),
        (b"CONNECT a\nX: y:443 HTTP/1.1\r\n\r\n", "400"),
        (b"\xff\xff\r\n\r\n", "400"),
        (&[b'x'; 40 << 10], "400"),
    ] {
        let (head, got) = through(|proxy| identity(proxy, NOW.0 + 90), sent).await;
        assert_eq!(head, None);
        assert!(got.is_empty() || got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
        assert!(!got.contains("kfa_token") && !got.contains("kfh_handle"));
    }
}

#[tokio::test]
async fn whoever_else_listens_on_the_proxys_port_is_sent_nothing() {
    let stranger = |proxy: &str| {
        let holder = Arc::new(Holder::new(own(), Some(u32::MAX - 7)));
        Identity { holder, ..identity(proxy, NOW.0 + 90) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(stranger(&format!("http://{}", listener.local_addr().unwrap()))).await.unwrap();
    let listens = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        got
    };
    let calls = async {
        let mut stream = TcpStream::connect(sidecar.proxy()).await.unwrap();
        stream.write_all(b"CONNECT a.example:443 HTTP/1.1\r\n\r\ninner").await.unwrap();
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        String::from_utf8(got).unwrap()
    };
    let (sent, answered) = tokio::join!(listens, calls);
    assert_eq!(String::from_utf8(sent).unwrap(), "");
    assert!(answered.starts_with("HTTP/1.1 502 ") && answered.contains("another user"), "{answered}");
}

#[tokio::test]
async fn processes_of_other_users_are_not_served() {
    let other = |proxy: &str| Identity { uid: u32::MAX - 7, ..identity(proxy, NOW.0 + 90) };
    let (head, got) = through(other, b"CONNECT a.example:443 HTTP/1.1\r\n\r\ninner").await;
    assert_eq!((head, got), (None, String::new()));
    let sidecar = Sidecar::start(other("http://127.0.0.1:1")).await.unwrap();
    let mut stream = TcpStream::connect(sidecar.metadata()).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    assert!(got.is_empty());
}
