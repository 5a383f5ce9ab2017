//! `keyfold run` and `keyfold ca` from outside: commands that know nothing of Keyfold, the real service, and a destination that
//! notes what arrives.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]
#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

#[path = "common/mod.rs"]
mod common;
#[path = "proxy/place.rs"]
#[allow(dead_code, reason = "made for another test, which uses all of it")]
mod place;
#[path = "proxy/upstream.rs"]
#[allow(dead_code, reason = "made for another test, which uses all of it")]
mod upstream;

use std::{
    io::{BufRead, BufReader, Read as _},
    process::{Command, Stdio},
};

use common::needles::Needles;
use place::{Place, place, python};
use serde_json::{Value, json};

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// `keyfold run`, as the agent's user would call it.
fn keyfold(place: &Place, handle: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold"));
    command
        .arg("run")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", place.served.folder().path())
        .env("KEYFOLD_SERVER", &place.served.url)
        .env("KEYFOLD_PROXY", place.proxy())
        .env("KEYFOLD_TOKEN", &place.agent)
        .env("KEYFOLD_HANDLE", handle)
        .stdin(Stdio::null());
    command
}

fn run(place: &Place, handle: &str, words: &[&str]) -> Ended {
    ended(keyfold(place, handle).arg("--").args(words))
}

fn ended(command: &mut Command) -> Ended {
    let ended = command.output().unwrap();
    Ended {
        code: ended.status.code(),
        stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

#[test]
fn a_script_that_knows_nothing_of_keyfold_reaches_the_destination_as_the_person() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let url = format!("https://api.test:{}/who?a=b", place.up.port());
    let mut clients: Vec<(&str, Vec<&str>)> = vec![("curl", vec!["curl", "-sf", &url])];
    let python = python();
    let requests = "import sys, requests; print(requests.get(sys.argv[1]).text, end='')";
    let urllib = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')";
    if let Some(python) = &python {
        clients.push(("requests", vec![python, "-c", requests, &url]));
        clients.push(("urllib", vec![python, "-c", urllib, &url]));
    }
    for (name, words) in clients {
        let ended = run(&place, &handle, &words);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert_eq!(ended.stdout, format!("Bearer {}", "*".repeat(token.len())), "{name}");
        let arrived = place.up.one();
        assert_eq!(
            (arrived.target.as_str(), arrived.all("authorization")),
            ("/who?a=b", vec![&*format!("Bearer {token}")])
        );
        assert!(arrived.all("proxy-authorization").is_empty(), "{name}");
    }
}

#[test]
fn the_commands_environment_and_arguments_hold_no_secret() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let look = "env; cat /proc/self/environ; for p in /proc/[0-9]*; do cat $p/cmdline; done; cat \"$SSL_CERT_FILE\" \"$NODE_EXTRA_CA_CERTS\"";
    let mut command = keyfold(&place, &handle);
    for (name, value) in [
        ("REDIS_SRE_MASTER_KEY", common::MASTER),
        ("SRE_AGENT_ENCRYPTION_KEY_PREVIOUS", common::FERNET),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/somebody/elses.json"),
        ("ALL_PROXY", "http://192.0.2.1:1"),
        ("ITS_OWN", "kept"),
    ] {
        command.env(name, value);
    }
    let ended = ended(command.args(["--", "sh", "-c", look]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut needles = Needles::default();
    needles.add("the user's token", token.as_bytes());
    needles.add("the handle", handle.as_bytes());
    needles.add("the agent's token", place.agent.as_bytes());
    needles.add("a master key", common::MASTER.as_bytes());
    needles.add("a Fernet key", common::FERNET.as_bytes());
    needles.add("a private key", b"-----BEGIN PRIVATE KEY-----");
    assert_eq!(needles.find(ended.stdout.as_bytes(), None), None);
    let variable =
        |name: &str| ended.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name}=")).map(str::to_owned));
    assert!(!ended.stdout.contains("KEYFOLD_"), "{}", ended.stdout);
    assert_eq!(variable("ITS_OWN").as_deref(), Some("kept"));
    for gone in ["GOOGLE_APPLICATION_CREDENTIALS", "ALL_PROXY"] {
        assert_eq!(variable(gone), None);
    }
    assert!(variable("HTTPS_PROXY").unwrap().starts_with("http://127.0.0.1:"));
    assert_eq!(variable("HTTPS_PROXY"), variable("https_proxy"));
    for name in
        ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]
    {
        let path = variable(name).unwrap();
        assert!(path.ends_with("bundle.pem"));
        assert!(!std::path::Path::new(&path).exists(), "it is gone with the command");
    }
    assert_eq!(variable("NODE_USE_ENV_PROXY").as_deref(), Some("1"));
}

/// As a user who is neither root nor anybody; `None` where this user may not act as another.
fn as_another(command: &Command) -> Option<Command> {
    let nobody = ["--reuid=54321", "--regid=54321", "--clear-groups"];
    let able = Command::new("setpriv").args(nobody).arg("true").status().is_ok_and(|status| status.success());
    if !able {
        let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "acting as another user needs root");
        return None;
    }
    let mut other = Command::new("setpriv");
    other.args(nobody).arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(other)
}

#[test]
fn a_command_that_is_nobody_in_particular_cannot_look_into_the_process_that_started_it() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let url = format!("https://api.test:{}/who", place.up.port());
    let look = format!(
        "id -u; for what in environ maps mem; do head -c 4096 /proc/$PPID/$what; done; ls /proc/$PPID/fd; echo; curl -s {url}"
    );
    let mut command = keyfold(&place, &handle);
    command.env("TMPDIR", "/tmp").args(["--", "sh", "-c", &look]);
    let Some(mut other) = as_another(&command) else { return };
    let ended = ended(&mut other);
    let mut lines = ended.stdout.lines();
    assert_eq!(lines.next(), Some("54321"), "{}", ended.stderr);
    assert!(ended.stderr.matches("Permission denied").count() >= 4, "{}", ended.stderr);
    let mut needles = Needles::default();
    needles.add("the handle", handle.as_bytes());
    needles.add("the agent's token", place.agent.as_bytes());
    needles.add("a variable of ours", b"KEYFOLD_TOKEN");
    assert_eq!(needles.find(ended.stdout.as_bytes(), None), None);
    assert_eq!(
        lines.next_back(),
        Some(&*format!("Bearer {}", "*".repeat(token.len()))),
        "its calls leave: {}",
        ended.stderr
    );
}

/// Listens as another user, and writes down what it is sent.
struct Listener(std::process::Child, u16, BufReader<std::process::ChildStdout>);

impl Listener {
    fn of(uid: u32) -> Option<Self> {
        let script = "import os, socket, sys\n\
                      os.seteuid(int(sys.argv[1]))\n\
                      s = socket.create_server(('127.0.0.1', 0))\n\
                      print(s.getsockname()[1], flush=True)\n\
                      while True:\n\
                      \x20   c, _ = s.accept()\n\
                      \x20   c.settimeout(5)\n\
                      \x20   try: print(len(c.recv(4096)), flush=True)\n\
                      \x20   except OSError: print('quiet', flush=True)\n\
                      \x20   c.close()\n";
        let mut command = Command::new(python()?);
        let mut child =
            command.args(["-c", script, &uid.to_string()]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        Some(Self(child, line.trim().parse().unwrap(), says))
    }

    /// How many bytes the next connection brought.
    fn got(&mut self) -> usize {
        let mut line = String::new();
        self.2.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_took_the_port_of_the_service_is_sent_no_proof() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let Some(mut stranger) = Listener::of(54321) else { return };
    let there = format!("http://127.0.0.1:{}", stranger.1);
    let mark = place.served.folder().path().join("ran");
    let touch = ["--", "touch", mark.to_str().unwrap()];
    for name in ["KEYFOLD_PROXY", "KEYFOLD_SERVER"] {
        let ended = ended(keyfold(&place, &handle).env(name, &there).args(touch));
        assert_eq!(ended.code, Some(5), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains("54321") && ended.stderr.contains("--service-user"), "{}", ended.stderr);
        assert_eq!(stranger.got(), 0, "{name}");
    }
    // Who names a user means that one, and nobody else.
    let ended_ = ended(keyfold(&place, &handle).args(["--service-user", "54321"]).args(touch));
    assert_eq!(ended_.code, Some(5), "{}", ended_.stderr);
    let unknown = ended(keyfold(&place, &handle).args(["--service-user", "no-such-user"]).args(touch));
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(!mark.exists());
    let named = ended(keyfold(&place, &handle).args(["--service-user", "root"]).args(touch));
    assert_eq!(named.code, Some(0), "{}", named.stderr);
    let asked =
        ended(keyfold(&place, &handle).env("KEYFOLD_SERVER", &there).args(["--service-user", "54321"]).args(touch));
    assert_eq!(asked.code, Some(5), "{}", asked.stderr);
    assert!(stranger.got() > 0, "who was named is asked");
}

#[test]
fn a_google_client_library_finds_the_handle_where_a_machines_token_would_be() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let Some(python) = python() else { return };
    let url = format!("https://api.test:{}/who", place.up.port());
    let raw = "import json, os, urllib.request as u\n\
               base = 'http://' + os.environ['GCE_METADATA_HOST'] + '/computeMetadata/v1/instance/service-accounts/default/token'\n\
               print(u.urlopen(u.Request(base, headers={'Metadata-Flavor': 'Google'})).read().decode())";
    let before = common::issuer::now();
    let said: Value = serde_json::from_str(&run(&place, &handle, &[&python, "-c", raw]).stdout).unwrap();
    let current = place.served.request("GET", "/v1/sessions/current").bearer_auth(&place.agent);
    let current = place.served.send(current.header("keyfold-session", &handle)).is(200);
    assert_eq!((&said["access_token"], &said["token_type"]), (&json!(handle), &json!("Bearer")));
    let last = current["reach"]["expires"].as_u64().unwrap();
    assert!(before + said["expires_in"].as_u64().unwrap() <= last, "never longer than the handle");

    let library = "import sys, google.auth, google.auth.transport.requests as t\n\
                   credentials, project = google.auth.default(scopes=['https://www.googleapis.com/auth/cloud-platform'])\n\
                   answer = t.AuthorizedSession(credentials).get(sys.argv[1])\n\
                   print(type(credentials).__module__, project, answer.text)";
    let mut command = keyfold(&place, &handle);
    let ended = ended(command.env("GOOGLE_CLOUD_PROJECT", "p-1").args(["--", &python, "-c", library, &url]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(
        ended.stdout.trim(),
        format!("google.auth.compute_engine.credentials p-1 Bearer {}", "*".repeat(token.len()))
    );
    let arrived = place.up.one();
    assert_eq!(arrived.all("authorization"), [format!("Bearer {token}")], "the handle became the person's token");
}

/// A call of gRPC with the default credentials, as Google's generated clients make it: their channel, and a method by its name.
const GRPC: &str = "import sys, grpc, google.auth, google.auth.transport.grpc as channels, google.auth.transport.requests as http\n\
                    credentials, _ = google.auth.default(scopes=['https://www.googleapis.com/auth/cloud-platform'])\n\
                    channel = channels.secure_authorized_channel(credentials, http.Request(), sys.argv[1])\n\
                    same = lambda text: text\n\
                    call = channel.unary_unary('/keyfold.Test/Call', request_serializer=same, response_deserializer=same)\n\
                    answer, about = call.with_call(b'hello', timeout=30)\n\
                    print(answer.decode(), about.code().name, end='')";

#[test]
fn a_google_client_library_over_grpc_calls_as_the_person_through_the_tunnel_and_a_mapped_listener() {
    let own = "listen = \"https://127.0.0.1:0\"\n";
    let Some(place) = Place::with("[proxy]\nhandle_alone = true\n", own) else { return };
    let (token, handle) = place.session("alice");
    let Some(python) = python() else { return };
    let mapped = place.mapped("api").replace("https://127.0.0.1", "localhost");
    for target in [format!("api.test:{}", place.up.port()), mapped] {
        let ended = run(&place, &handle, &[&python, "-c", GRPC, &target]);
        assert_eq!(ended.code, Some(0), "{target}: {}\n{}", ended.stderr, place.served.stderr());
        assert_eq!(ended.stdout, "ok OK", "{target}");
        let arrived = place.up.one();
        assert_eq!((arrived.method.as_str(), arrived.target.as_str()), ("POST", "/keyfold.Test/Call"));
        assert_eq!(
            arrived.all("authorization"),
            [format!("Bearer {token}")],
            "{target}: the handle became the person's token"
        );
        assert_eq!(&arrived.body[..], b"\0\0\0\0\x05hello", "{target}");
        let mut needles = Needles::default();
        needles.add("the handle", handle.as_bytes());
        needles.add("the agent's token", place.agent.as_bytes());
        assert_eq!(needles.find(&place.up.bytes(), None), None, "{target}");
    }
}

/// Where undici is installed.
fn undici() -> Option<String> {
    let place = std::env::var("KEYFOLD_TEST_NODE").map(|folder| format!("{folder}/node_modules/undici"));
    if let Some(place) = place.ok().filter(|place| std::path::Path::new(place).exists()) {
        return Some(place);
    }
    let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "not run: undici is not installed");
    eprintln!("not run: undici is not installed");
    None
}

#[test]
fn nodes_fetch_with_the_proxy_of_its_environment_calls_as_the_person() {
    let (Some(place), Some(undici)) = (place(""), undici()) else { return };
    let (token, handle) = place.session("alice");
    let url = format!("https://api.test:{}/who?a=b", place.up.port());
    let script = "const { EnvHttpProxyAgent, fetch, setGlobalDispatcher } = require(process.argv[1]);\n\
                  setGlobalDispatcher(new EnvHttpProxyAgent());\n\
                  fetch(process.argv[2]).then((answer) => answer.text()).then((text) => process.stdout.write(text));";
    let ended = run(&place, &handle, &["node", "-e", script, &undici, &url]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, format!("Bearer {}", "*".repeat(token.len())));
    let arrived = place.up.one();
    assert_eq!(
        (arrived.target.as_str(), arrived.all("authorization")),
        ("/who?a=b", vec![&*format!("Bearer {token}")])
    );
    assert!(arrived.all("proxy-authorization").is_empty());
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(run(&place, &handle, &["sh", "-c", script]).code, Some(code), "{script}");
    }
    assert_eq!(run(&place, &handle, &["no-such-command-here"]).code, Some(127));
    assert_eq!(run(&place, &handle, &["/etc/passwd"]).code, Some(126));
    for (signal, code) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10)] {
        let script = format!("trap 'echo told; exit {code}' {signal}; echo ready; while :; do sleep 0.05; done");
        let mut command = keyfold(&place, &handle);
        let mut child = command.args(["--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        let mut rest = String::new();
        from.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("told\n", Some(code)), "{signal}");
    }
}

#[test]
fn without_a_handle_a_server_or_a_proxy_nothing_is_run() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let mark = place.served.folder().path().join("ran");
    let touch = ["touch", mark.to_str().unwrap()];
    let other = place.handle("alice", json!({ "agent": "agent:other" }));
    for (command, code, says) in [
        (keyfold(&place, "kfh_made-up").arg("--").args(touch), 3, "session"),
        (keyfold(&place, &other).arg("--").args(touch), 3, "agent"),
        (keyfold(&place, &handle).env_remove("KEYFOLD_HANDLE").arg("--").args(touch), 2, "KEYFOLD_HANDLE"),
        (keyfold(&place, &handle).env_remove("KEYFOLD_SERVER").arg("--").args(touch), 2, "KEYFOLD_SERVER"),
        (keyfold(&place, &handle).env_remove("KEYFOLD_TOKEN").arg("--").args(touch), 2, "KEYFOLD_TOKEN"),
        (keyfold(&place, &handle).args(["--proxy", "http://keyfold.example:1", "--"]).args(touch), 2, "in the clear"),
        (keyfold(&place, &handle).args(["--handle", "kfh_abc", "--"]).args(touch), 2, "command line"),
        (&mut keyfold(&place, &handle), 2, "COMMAND"),
    ] {
        let ended = ended(command);
        assert_eq!(ended.code, Some(code), "{says}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
        assert!(!ended.stderr.contains("kfh_abc") && !ended.stderr.contains(&handle));
    }
    assert!(!mark.exists());
}

#[test]
fn p27_a_handle_that_is_revoked_while_a_command_runs_opens_nothing_more() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let url = format!("https://api.test:{}/who", place.up.port());
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}}\\n' {url}; echo next; read line; curl -s -o /dev/null -w '%{{http_code}} %{{http_connect}}\\n' {url}"
    );
    let mut command = keyfold(&place, &handle);
    let mut child =
        command.args(["--", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut from = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    while !lines.ends_with("next\n") {
        assert!(from.read_line(&mut lines).unwrap() > 0, "{lines}");
    }
    assert_eq!(lines, "200\nnext\n");
    let session = place.current(&handle);
    place.served.as_(&place.served.token, "DELETE", &format!("/v1/sessions/{session}"), None).is(204);
    drop(child.stdin.take());
    let mut rest = String::new();
    from.read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    assert!(rest.starts_with("401 ") || rest.starts_with("000 4"), "{rest}");
    assert_eq!(place.up.take().len(), 1);
}

#[test]
fn the_authority_is_the_same_wherever_it_is_asked_for() {
    let Some(place) = place("") else { return };
    let pem = place.keyfold("ca");
    let text = String::from_utf8(pem.stdout.clone()).unwrap();
    assert_eq!(pem.code, 0, "{}", pem.stderr);
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n") && text.ends_with("-----END CERTIFICATE-----\n"));
    assert_eq!(text.matches("-----BEGIN").count(), 1, "{text}");
    assert_eq!(std::fs::read_to_string(place.ca()).unwrap(), text);
    let answer = place.served.get("/v1/authority");
    assert_eq!((answer.status, answer.text()), (200, text));
    place.served.send(place.served.request("GET", "/v1/authority")).fails(401, "unauthenticated");
    // Its key lies sealed.
    let mut needles = Needles::default();
    needles.add("a private key", b"-----BEGIN PRIVATE KEY-----");
    for (path, bytes) in place.stored() {
        assert_eq!(needles.find(&bytes, None), None, "{}", path.display());
    }
}
