//! A FAKE of the one call of Kubernetes that OpenBao's own login method makes: a TokenReview. It vouches for the tokens that a
//! file lists, one a line, and for no others. What a cluster really does, it cannot show.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const UID: &str = "9d091e3c-58a4-4f1e-8a2c-1f2b3c4d5e6f";

pub(crate) struct InsecureKubernetes {
    pub(crate) port: u16,
}

impl InsecureKubernetes {
    /// Vouches for what `good` lists at the time it is asked.
    pub(crate) fn start(good: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let good = good.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let good = good.clone();
                thread::spawn(move || serve(&good, &stream));
            }
        });
        Self { port }
    }
}

/// A token of the service account `keyfold` in the namespace `sre`, as a pod finds it. Its signature is of nobody: OpenBao
/// asks the cluster whether it is good.
pub(crate) fn service_account_token(serial: u32) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode_to_string(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:sre:keyfold", "aud": ["https://kubernetes.default.svc"],
        "iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 4_000_000_000_u64, "jti": serial.to_string(),
        "kubernetes.io": { "namespace": "sre", "serviceaccount": { "name": "keyfold", "uid": UID } },
    });
    let signature = URL_SAFE_NO_PAD.encode_to_string([u8::try_from(serial).unwrap(); 256]);
    format!("{}.{}.{signature}", part(&json!({ "alg": "RS256", "kid": "fake", "typ": "JWT" })), part(&claims))
}

fn serve(good: &PathBuf, mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let review = line.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews");
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let listed = fs::read_to_string(good).unwrap();
        let known = listed.lines().any(|token| body["spec"]["token"] == token);
        let status = if known {
            let user = json!({
                "username": "system:serviceaccount:sre:keyfold", "uid": UID,
                "groups": ["system:serviceaccounts", "system:serviceaccounts:sre", "system:authenticated"],
            });
            json!({ "authenticated": true, "user": user, "audiences": body["spec"]["audiences"] })
        } else {
            json!({ "authenticated": false, "error": "the fake does not know this token" })
        };
        let (code, text) = if review {
            let told = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
            ("201 Created", told.to_string())
        } else {
            ("404 Not Found", "{}".to_owned())
        };
        let head =
            format!("HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
        if stream.write_all(format!("{head}{text}").as_bytes()).is_err() {
            return;
        }
    }
}
