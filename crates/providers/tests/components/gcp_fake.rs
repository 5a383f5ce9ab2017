//! A FAKE of GCP's KMS and Secret Manager, since there is no emulator: the few calls that Keyfold makes, over the REST API. It
//! insists on checksums and associated data as Google says it does. What Google really does, it cannot show.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64_simd::STANDARD;
use serde_json::{Value, json};

/// What is wrong at the moment.
#[allow(dead_code, reason = "each test file uses a part of it")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Answers carry a checksum that does not fit.
    Damaged,
    /// Answers say that a checksum of the request did not arrive.
    Unverified,
    /// Every call is refused with this HTTP status and this word.
    Refuses(u16, &'static str),
}

struct State {
    fault: Fault,
    calls: usize,
    secrets: BTreeMap<String, Vec<Version>>,
}

struct Version {
    value: Vec<u8>,
    disabled: bool,
}

/// Keys named `missing` are not there, keys named `disabled` are disabled, all others are made as they are named.
pub(crate) struct InsecureGcp {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[allow(dead_code, reason = "each test file uses a part of it")]
impl InsecureGcp {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { fault: Fault::None, calls: 0, secrets: BTreeMap::new() }));
        let theirs = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&theirs);
                thread::spawn(move || serve(&state, &stream));
            }
        });
        Self { port, state }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    /// Stores a version of a secret, as somebody with another tool would.
    pub(crate) fn add_secret(&self, name: &str, value: &str) {
        let mut state = self.state.lock().unwrap();
        let versions = state.secrets.entry(format!("projects/p/secrets/{name}")).or_default();
        versions.push(Version { value: value.into(), disabled: false });
    }

    /// Switches a version off; the first one is 1.
    pub(crate) fn disable_secret(&self, name: &str, version: usize) {
        let mut state = self.state.lock().unwrap();
        state.secrets.get_mut(&format!("projects/p/secrets/{name}")).unwrap()[version - 1].disabled = true;
    }

    /// How many versions of a secret there are.
    pub(crate) fn secret_versions(&self, name: &str) -> usize {
        self.state.lock().unwrap().secrets[&format!("projects/p/secrets/{name}")].len()
    }

    /// The latest version of a secret.
    pub(crate) fn latest_secret(&self, name: &str) -> String {
        let state = self.state.lock().unwrap();
        let versions = &state.secrets[&format!("projects/p/secrets/{name}")];
        String::from_utf8(versions.last().unwrap().value.clone()).unwrap()
    }

    /// The URI of a secret; a pinned version where one is named.
    pub(crate) fn secret(&self, name: &str, version: Option<usize>) -> String {
        let version = version.map(|version| format!("/versions/{version}")).unwrap_or_default();
        format!("gcp-secret-manager://projects/p/secrets/{name}{version}?endpoint=http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn key(&self, name: &str, through: Option<u16>) -> String {
        let port = through.unwrap_or(self.port);
        format!("gcp-kms://projects/p/locations/global/keyRings/r/cryptoKeys/{name}?endpoint=http://127.0.0.1:{port}")
    }
}

fn serve(state: &Mutex<State>, mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
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
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = answer(&mut state.lock().unwrap(), &method, &path, &body);
        let text = answer.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
        if stream.write_all(format!("{head}{text}").as_bytes()).is_err() {
            return;
        }
    }
}

fn refusal(status: u16, word: &str) -> (u16, Value) {
    (status, json!({ "error": { "code": status, "message": "refused by the fake", "status": word } }))
}

fn answer(state: &mut State, method: &str, path: &str, body: &Value) -> (u16, Value) {
    state.calls += 1;
    if let Fault::Refuses(status, word) = state.fault {
        return refusal(status, word);
    }
    let path = path.split('?').next().unwrap().trim_start_matches("/v1/").replace("%3A", ":");
    if let Some((name, action)) = path.split_once(':') {
        return match action {
            "encrypt" | "decrypt" => crypto(state.fault, name, action, body),
            "access" => access(state, name),
            "addVersion" => add_version(state, name, body),
            _ => refusal(404, "NOT_FOUND"),
        };
    }
    let _ = method;
    refusal(404, "NOT_FOUND")
}

fn bytes(body: &Value, name: &str) -> Vec<u8> {
    STANDARD.decode_to_vec(body[name].as_str().unwrap_or_default()).unwrap()
}

fn sum(bytes: &[u8]) -> String {
    crc32c::crc32c(bytes).to_string()
}

/// Whether the checksum of a member is there and fits.
fn fits(body: &Value, name: &str) -> bool {
    body[format!("{name}Crc32c")].as_str() == Some(&*sum(&bytes(body, name)))
}

fn crypto(fault: Fault, name: &str, action: &str, body: &Value) -> (u16, Value) {
    match name.rsplit('/').next().unwrap() {
        "missing" => return refusal(404, "NOT_FOUND"),
        "disabled" => return refusal(400, "FAILED_PRECONDITION"),
        _ => {}
    }
    let aad = bytes(body, "additionalAuthenticatedData");
    let aad_fits = aad.is_empty() || fits(body, "additionalAuthenticatedData");
    let key = keyfold_core::mac::sha256(&[name.as_bytes()]);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let damage = |sum: String| if fault == Fault::Damaged { "7".to_owned() } else { sum };
    if action == "encrypt" {
        if !fits(body, "plaintext") || !aad_fits {
            return refusal(400, "INVALID_ARGUMENT");
        }
        let nonce = keyfold_core::rng::array::<12>(&keyfold_core::rng::SystemRandom).unwrap();
        let mut out = bytes(body, "plaintext");
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&aad), &mut out).unwrap();
        let out = [&nonce[..], &out].concat();
        return (
            200,
            json!({
                "name": format!("{name}/cryptoKeyVersions/1"), "ciphertext": STANDARD.encode_to_string(&out),
                "ciphertextCrc32c": damage(sum(&out)), "verifiedPlaintextCrc32c": fault != Fault::Unverified,
                "verifiedAdditionalAuthenticatedDataCrc32c": true,
            }),
        );
    }
    let sealed = bytes(body, "ciphertext");
    if !fits(body, "ciphertext") || !aad_fits || sealed.len() < 28 {
        return refusal(400, "INVALID_ARGUMENT");
    }
    let (nonce, sealed) = sealed.split_at(12);
    let mut out = sealed.to_vec();
    match key.open_in_place(Nonce::try_assume_unique_for_key(nonce).unwrap(), Aad::from(&aad), &mut out) {
        Ok(plain) => (
            200,
            json!({ "plaintext": STANDARD.encode_to_string(&*plain), "plaintextCrc32c": damage(sum(plain)), "usedPrimary": true }),
        ),
        Err(_) => refusal(400, "INVALID_ARGUMENT"),
    }
}

fn access(state: &State, name: &str) -> (u16, Value) {
    let (secret, version) = name.split_once("/versions/").unwrap();
    let versions = state.secrets.get(secret).map_or(&[][..], |versions| versions);
    let number = if version == "latest" { versions.len() } else { version.parse().unwrap() };
    let Some(found) = number.checked_sub(1).and_then(|at| versions.get(at)) else { return refusal(404, "NOT_FOUND") };
    if found.disabled {
        return refusal(400, "FAILED_PRECONDITION");
    }
    let value = &found.value;
    let crc = if state.fault == Fault::Damaged { "7".to_owned() } else { sum(value) };
    let data = STANDARD.encode_to_string(value);
    (200, json!({ "name": format!("{secret}/versions/{number}"), "payload": { "data": data, "dataCrc32c": crc } }))
}

fn add_version(state: &mut State, name: &str, body: &Value) -> (u16, Value) {
    if !fits(&body["payload"], "data") {
        return refusal(400, "INVALID_ARGUMENT");
    }
    let versions = state.secrets.entry(name.to_owned()).or_default();
    versions.push(Version { value: bytes(&body["payload"], "data"), disabled: false });
    (200, json!({ "name": format!("{name}/versions/{}", versions.len()) }))
}
