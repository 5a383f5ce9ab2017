//! Sessions where others are near: Auto SRE's readers and its database, a second node, a store that several machines share.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    FERNET, FERNET_VARIABLE, MASTER, OTHER_FERNET, keyfold,
    needles::Needles,
    people::{DESTINATIONS, Node, cookie_of},
    provider::Provider,
    served::{Served, folder},
};
use serde_json::{Value, json};
use servers::postgres::Postgres;

macro_rules! provider {
    () => {
        match Provider::start() {
            Some(provider) => provider,
            None => return,
        }
    };
}

/// What the guide says that a program does which shares the store and the key.
fn reader(data: &Path, key: &str) -> Option<std::process::Output> {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sessions.md")).unwrap();
    let script = guide.split("```python\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    Some(common::python()?.args(["-c", &script]).arg(data).env(FERNET_VARIABLE, key).output().unwrap())
}

#[test]
fn p23_auto_sres_readers_find_the_token_with_pythons_fernet_and_the_api_shows_it_to_nobody() {
    let provider = provider!();
    for format in ["kf1", "fernet"] {
        let config = format!(
            "[sessions]\nauto_sre = true\nformat = \"{format}\"\n{}{DESTINATIONS}",
            provider.config("refresh = true\nmin_left = \"1s\"\n")
        );
        let folder = folder(&config);
        // A Fernet key of the deployment's own must not be taken for the one that the readers hold.
        let data = folder.path().join("data");
        keyfold("init").data_dir(&data).run().text();
        let own = keyfold("keys create --suites fernet --json").data_dir(&data).run().json()["kid"].clone();
        let node = Node::over(&provider, Served::start_with(folder, &[], &[(FERNET_VARIABLE, FERNET)]));
        let alice = provider.token("alice", json!({ "expires_in": 4 }));
        let body = json!({
            "access_token": alice, "refresh_token": provider.refresh_token("alice"), "cookie": true, "handle": {},
            "state": { "thread": 7, "user_email": "mallory@example.com" }
        });
        let answer = node.sign_in(body);
        let (cookie, made) = (cookie_of(&answer), answer.is(201));
        let handle = made["handle"].as_str().unwrap();
        let Some(found) = reader(&data, FERNET) else { return };
        let said = |output: &std::process::Output| String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(said(&found), format!("alice@example.com {alice}\n"), "{}", String::from_utf8_lossy(&found.stderr));
        assert!(!reader(&data, OTHER_FERNET).unwrap().status.success(), "another key opens nothing");
        // What the API shows of the state: everything else.
        for shown in [
            node.call(&node.backend, "GET", "/v1/sessions/current", Some(handle), None).is(200),
            node.by_cookie("GET", "/v1/sessions/current", &cookie, None).is(200),
        ] {
            assert_eq!(shown["state"], json!({ "thread": 7, "user_email": "alice@example.com" }));
        }
        let all = json!([node.sessions(), node.by_cookie("GET", "/v1/sessions", &cookie, None).is(200)]).to_string();
        assert!(!all.contains("gAAAA") && !all.contains("ya29"), "{all}");
        let census = keyfold("keys census --json").data_dir(&data).env(FERNET_VARIABLE, FERNET).run().json();
        let of_readers = |count: &&Value| {
            count["collection"] == "keyfold.sessions" && count["format"] == "fernet" && count["kid"] != own
        };
        assert_eq!(census["values"].as_array().unwrap().iter().filter(of_readers).count(), 1, "{census}");
        // A refreshed token takes its place.
        std::thread::sleep(Duration::from_secs(5));
        let newer = node.credential(Some(handle)).is(200)["access_token"].as_str().unwrap().to_owned();
        assert_ne!(newer, alice);
        assert_eq!(said(&reader(&data, FERNET).unwrap()), format!("alice@example.com {newer}\n"));
        let mut needles = Needles::default();
        for (name, secret) in [("the first token", &alice), ("the second", &newer)] {
            needles.add(name, secret.as_bytes());
        }
        for path in common::folder::files(&data) {
            assert_eq!(needles.find(&std::fs::read(&path).unwrap(), None), None, "{}", path.display());
        }
        // And after the logout there is none.
        assert_eq!(node.by_cookie("DELETE", "/v1/sessions/current", &cookie, None).status, 204);
        let nothing = reader(&data, FERNET).unwrap();
        assert!(nothing.status.success() && said(&nothing).is_empty(), "{}", said(&nothing));
        node.served.stop();
    }
}

#[test]
fn without_the_key_of_auto_sres_readers_nothing_is_served() {
    let provider = provider!();
    let folder = folder(&format!("[sessions]\nauto_sre = true\n{}{DESTINATIONS}", provider.config("")));
    let serve =
        |more: &str| keyfold(&format!("serve --listen 127.0.0.1:0{more}")).data_dir(&folder.path().join("data"));
    serve("").run().fails(2, &["`sessions.auto_sre` is on", "SRE_AGENT_ENCRYPTION_KEY", "--fernet-key"]);
    serve(" --dev").env(FERNET_VARIABLE, FERNET).run().fails(2, &["sessions.auto_sre: --dev"]);
}

/// Auto SRE's session database, somewhere, with what people can have put there.
struct Theirs<'a> {
    provider: &'a Provider,
    alice: String,
    bob: String,
}

impl<'a> Theirs<'a> {
    fn new(provider: &'a Provider) -> Self {
        Self { provider, alice: provider.token("alice", json!({})), bob: provider.token("bob", json!({})) }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let seal = |token: &str| keyfold("seal --format fernet").env(FERNET_VARIABLE, FERNET).stdin(token).run().text();
        let of = |token: &str, email: &str| json!({ "_user_access_token": seal(token), "user_email": email });
        [
            ("s1", of(&self.alice, "alice@example.com")),
            ("s2", of(&self.bob, "bob@example.com")),
            // Somebody who can write that database has put Bob's token into his own session.
            ("s3", of(&self.bob, "mallory@example.com")),
            ("s4", json!({ "_user_access_token": "ya29.plain", "user_email": "x@example.com" })),
            ("s5", json!({ "nothing": true })),
        ]
        .map(|(id, state)| (id, state.to_string()))
        .into()
    }

    /// They wait after the import, and become usable by a sign-in or an operator's word.
    fn imported(&self, (option, address): (&str, &str)) {
        let (provider, alice, bob) = (self.provider, &self.alice, &self.bob);
        let node = Node::new(provider, "");
        let import = |more: &str| {
            let call = keyfold(&format!("session import --store {option}{more}")).data_dir(&node.served.data());
            call.env(FERNET_VARIABLE, FERNET).env("STORE", address)
        };
        let run = import(" --json").run();
        assert_eq!(run.code, 1, "{}", run.stderr);
        let said: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!((&said["imported"], said["left"].as_array().unwrap().len()), (&json!(3), 1), "{said}");
        assert!(said["left"][0]["record"].as_str().unwrap().contains("s4"), "{said}");
        assert!(!said.to_string().contains("ya29"), "{said}");
        assert!(node.sessions().is_empty());
        let imports = node.served.get("/v1/sessions/imports").is(200)["imports"].as_array().unwrap().clone();
        let of = |email: &str| {
            imports.iter().find(|import| import["email"] == email).unwrap()["id"].as_str().unwrap().to_owned()
        };
        let vouch = |email: &str| node.served.post(&format!("/v1/sessions/imports/{}/vouch", of(email)), json!({}));
        vouch("mallory@example.com").fails(401, "token_refused");
        let made = vouch("bob@example.com").is(201);
        assert_eq!(node.credential(Some(made["handle"].as_str().unwrap())).is(200)["access_token"], json!(bob));
        // Alice signs in, and finds the imported one among hers.
        let answer = node.sign_in(json!({ "access_token": provider.token("alice", json!({})), "cookie": true }));
        let cookie = cookie_of(&answer);
        let list = node.by_cookie("GET", "/v1/sessions", &cookie, None).is(200);
        let taken = list["sessions"].as_array().unwrap().iter().find(|session| !session["vouched"].is_null()).unwrap();
        let path = format!("/v1/sessions/{}/handles", taken["id"].as_str().unwrap());
        let made = node.by_cookie("POST", &path, &cookie, Some(json!({}))).is(201);
        assert_eq!(node.credential(Some(made["handle"].as_str().unwrap())).is(200)["access_token"], json!(alice));
        let left = node.served.get("/v1/sessions/imports").is(200)["imports"].as_array().unwrap().len();
        assert_eq!(left, 1, "Mallory's waits for ever");
        let events = node.served.get("/v1/audit?limit=1000").is(200)["events"].as_array().unwrap().clone();
        let done =
            |action: &str| events.iter().filter(|event| event["action"] == action && event["kind"] == "intent").count();
        assert_eq!((done("session_import"), done("session_vouch")), (3, 2), "each is in the audit log");
    }
}

#[test]
fn sessions_of_auto_sre_are_imported_from_sqlite_wait_and_become_usable_by_a_sign_in_or_an_operators_word() {
    let provider = provider!();
    let theirs = Theirs::new(&provider);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("sre.db");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use sqlx::Connection as _;
        let mut db = sqlx::SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.unwrap();
        let table = "CREATE TABLE sessions (app_name TEXT, user_id TEXT, id TEXT, state TEXT, create_time TEXT, update_time TEXT, PRIMARY KEY (app_name, user_id, id))";
        sqlx::query(table).execute(&mut db).await.unwrap();
        for (id, state) in theirs.rows() {
            let row = sqlx::query("INSERT INTO sessions VALUES ('sre', 'u', ?1, ?2, '', '')").bind(id).bind(state);
            row.execute(&mut db).await.unwrap();
        }
        db.close().await.unwrap();
    });
    theirs.imported((&format!("sqlite://{}", file.display()), ""));
}

#[test]
fn sessions_of_auto_sre_are_imported_from_postgresql_where_they_are_jsonb_and_the_address_holds_a_password() {
    let Some(server) = Postgres::start() else { return };
    let provider = provider!();
    let theirs = Theirs::new(&provider);
    let dump = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut db = server.raw().await;
        let table = "CREATE TABLE sessions (app_name VARCHAR(128), user_id VARCHAR(128), id VARCHAR(128), state JSONB NOT NULL, \
                     create_time TIMESTAMP DEFAULT now(), update_time TIMESTAMP DEFAULT now(), PRIMARY KEY (app_name, user_id, id))";
        sqlx::query(table).execute(&mut db).await.unwrap();
        for (id, state) in theirs.rows() {
            let row = sqlx::query("INSERT INTO sessions VALUES ('sre', 'u', $1, $2::jsonb)").bind(id).bind(state);
            row.execute(&mut db).await.unwrap();
        }
        rows(&server).await
    });
    theirs.imported(("env:STORE", &server.address()));
    let after = tokio::runtime::Runtime::new().unwrap().block_on(rows(&server));
    assert!(dump.len() == 5 && dump == after, "their database is read and not changed");
    // With the password in its arguments everybody could read it.
    let refused = keyfold("session import --store").arg(server.address()).run();
    assert!(!refused.stderr.contains(&server.address()));
    refused.fails(2, &["env:NAME"]);
}

/// Every row as PostgreSQL prints it.
async fn rows(server: &Postgres) -> Vec<String> {
    let all = sqlx::query_scalar("SELECT s::text FROM sessions s ORDER BY id");
    all.fetch_all(&mut server.raw().await).await.unwrap()
}

/// Within this time what was ended on one node is over on another.
const BOUND: Duration = Duration::from_secs(5);

/// Two machines with folders of their own, one store and one root key.
fn nodes<'a>(provider: &'a Provider, address: &str) -> [Node<'a>; 2] {
    let folders = [folder(""), folder("")];
    let url = folders[0].path().join("url");
    std::fs::write(&url, address).unwrap();
    let config = format!("{}{DESTINATIONS}[system]\nuri = \"file:{}\"\n", provider.config(""), url.display());
    let variables = [("KEYFOLD_ROOT_KEY", "env:ROOT"), ("ROOT", MASTER)];
    for folder in &folders {
        std::fs::write(folder.path().join("data/keyfold.toml"), &config).unwrap();
    }
    let [first, second] = folders;
    let one = Served::start_with(first, &[], &variables);
    let mut two = Served::start_with(second, &[], &variables);
    two.token.clone_from(&one.token);
    let one = Node::over(provider, one);
    common::people::wait(|| two.get("/v1/sessions").status == 200);
    [one, Node::over(provider, two)]
}

/// How long a node goes on with a handle that has ended elsewhere.
fn until_refused(node: &Node<'_>, handle: &str, began: Instant) -> Duration {
    while node.credential(Some(handle)).status == 200 {
        assert!(began.elapsed() < 4 * BOUND, "it is never refused");
        std::thread::sleep(Duration::from_millis(20));
    }
    node.credential(Some(handle)).fails(401, "session_revoked");
    began.elapsed()
}

#[test]
fn p27_what_is_revoked_or_logged_out_is_over_here_at_once_and_on_another_machine_within_the_bound() {
    let Some(server) = Postgres::start() else { return };
    let provider = provider!();
    let [one, two] = nodes(&provider, &server.address());
    for by_logout in [false, true] {
        let made =
            one.sign_in(json!({ "access_token": provider.token("alice", json!({})), "cookie": true, "handle": {} }));
        let (cookie, made) = (cookie_of(&made), made.is(201));
        let handle = made["handle"].as_str().unwrap();
        // The other machine has looked it up, and remembers it.
        two.credential(Some(handle)).is(200);
        let began = Instant::now();
        let ended = if by_logout {
            one.by_cookie("DELETE", "/v1/sessions/current", &cookie, None)
        } else {
            let path = format!("/v1/sessions/{}", made["id"].as_str().unwrap());
            one.served.as_(&one.served.token, "DELETE", &path, None)
        };
        assert_eq!(ended.status, 204);
        one.credential(Some(handle)).fails(401, "session_revoked");
        one.by_cookie("GET", "/v1/sessions/current", &cookie, None).fails(401, "session_revoked");
        let took = until_refused(&two, handle, began);
        assert!(took < BOUND, "{took:?}");
        assert!(two.sessions().is_empty());
    }
}

#[test]
fn a_shared_store_needs_a_root_key_that_is_named_before_people_sign_in() {
    let provider = provider!();
    let config = format!("{}{DESTINATIONS}[system]\nuri = \"redis://127.0.0.1:1\"\n", provider.config(""));
    let folder: Arc<_> = folder(&config);
    let serve =
        |more: &str| keyfold(&format!("serve --listen 127.0.0.1:0{more}")).data_dir(&folder.path().join("data"));
    serve("").run().fails(2, &["sessions: on a shared store sessions need a root key", "KEYFOLD_ROOT_KEY"]);
    serve(" --dev")
        .env("KEYFOLD_ROOT_KEY", "env:ROOT")
        .env("ROOT", MASTER)
        .run()
        .fails(2, &["sessions: --dev seals sessions under a key of this process alone"]);
    assert!(!folder.path().join("data/root.key").exists(), "nothing was made");
    // With one, it goes on to the store.
    serve("").env("KEYFOLD_ROOT_KEY", "env:ROOT").env("ROOT", MASTER).run().fails(5, &["redis://127.0.0.1:1"]);
}
