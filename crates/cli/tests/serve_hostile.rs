//! The service and clients that mean it no good: slow, silent, many, oversize, deep; and everybody else, who is served meanwhile.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    deployment::scaled,
    served::{Served, answer, folder},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";

fn address(served: &Served) -> String {
    served.url.split_once("://").unwrap().1.to_owned()
}

fn connect(served: &Served) -> TcpStream {
    TcpStream::connect(address(served)).unwrap()
}

/// Resident memory, in KiB.
fn resident(served: &Served) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", served.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn threads(served: &Served) -> usize {
    fs::read_dir(format!("/proc/{}/task", served.id())).unwrap().count()
}

fn others_are_served(served: &Served) {
    for _ in 0..10 {
        let sealed = served.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
        served.post("/v1/open", json!({ "envelope": sealed["envelope"] })).is(200);
    }
    assert_eq!(served.get("/readyz").status, 200);
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let room = limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap().saturating_sub(500));
    let served = Served::new(CONFIG);
    let before = resident(&served);
    let many = scaled(10_000).min(room);
    let mut idle: Vec<TcpStream> = Vec::with_capacity(many);
    for _ in 0..many {
        idle.push(connect(&served));
    }
    // Half of them were used once, as a pool's are.
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", served.token);
    for stream in idle.iter_mut().step_by(2) {
        stream.write_all(request.as_bytes()).unwrap();
    }
    for stream in idle.iter_mut().step_by(2) {
        assert!(stream.read(&mut [0; 512]).unwrap() > 0);
    }
    others_are_served(&served);
    let counted = || {
        let metrics = served.get("/metrics").text();
        metrics.lines().find_map(|line| line.strip_prefix("keyfold_connections ")?.parse::<usize>().ok()).unwrap()
    };
    assert!(counted() > many, "{} of {many}", counted());
    let each = (resident(&served) - before) / many as u64;
    assert!(each < 40, "{each} KiB for each of {many} connections");
    drop(idle);
    let gone = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        // This test's own client keeps a few.
        counted() < 10
    });
    assert!(gone, "their room does not come back: {}", counted());
}

#[test]
fn heads_and_bodies_that_trickle_in_hold_nobody_up_and_end_in_time() {
    let served = Served::new(CONFIG);
    let before = resident(&served);
    let stop = Arc::new(AtomicBool::new(false));
    let head = format!("POST /v1/seal HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", served.token);
    let body = format!("{head}content-type: application/json\r\ncontent-length: 8000000\r\n\r\n{{\"plaintext\": \"");
    // Each byte comes by itself, so that no single wait is long.
    let trickle = |first: String, count: usize| {
        let mut streams: Vec<_> = (0..count).map(|_| connect(&served)).collect();
        for stream in &mut streams {
            stream.write_all(first.as_bytes()).unwrap();
        }
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for stream in &mut streams {
                    let _ = stream.write_all(b"x");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            streams
        })
    };
    let heads = trickle(head, 200);
    let bodies = trickle(body, 25);
    for _ in 0..30 {
        others_are_served(&served);
        std::thread::sleep(Duration::from_millis(50));
    }
    // What they announce is not taken before it comes, and there is a bound for all of them together.
    let grown = resident(&served) - before;
    assert!(grown < 64 << 10, "{grown} KiB");
    std::thread::sleep(Duration::from_secs(30));
    stop.store(true, Ordering::Relaxed);
    drop(heads.join().unwrap());
    for mut stream in bodies.join().unwrap() {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).unwrap_or(0);
        let text = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    }
    others_are_served(&served);
}

#[test]
fn large_bodies_at_once_are_bounded_in_sum() {
    let served = Served::new(&format!("{CONFIG}[server.limits]\nmemory = 33554432\n"));
    let before = resident(&served);
    let head = format!(
        "POST /v1/seal HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 8000000\r\n\r\n",
        served.token
    );
    let part = vec![b' '; 7_000_000];
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let mut stream = connect(&served);
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut answer = vec![0; 64];
        match stream.read(&mut answer) {
            Ok(read) if read > 0 => {
                assert!(answer.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&answer));
                refused += 1;
            }
            _ => {
                stream.write_all(&part).unwrap();
                held.push(stream);
            }
        }
    }
    assert!(refused >= 15, "only {refused} were sent away");
    let grown = resident(&served) - before;
    assert!(grown < 96 << 10, "{grown} KiB");
    others_are_served(&served);
}

#[test]
fn readers_that_do_not_read_hold_their_own_room_and_nobody_elses() {
    let served = Served::new(CONFIG);
    // More than the buffers of two sockets hold.
    for _ in 0..60 {
        let items: Vec<_> = (0..1000).map(|_| json!({ "plaintext": "x" })).collect();
        served.post("/v1/seal", json!({ "items": items })).is(200);
    }
    let (before, tasks) = (resident(&served), threads(&served));
    let request = format!("GET /v1/audit/export HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", served.token);
    let mut silent: Vec<_> = (0..100).map(|_| connect(&served)).collect();
    for stream in &mut silent {
        stream.write_all(request.as_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    others_are_served(&served);
    assert!(threads(&served) < tasks + 40, "{} threads more", threads(&served) - tasks);
    let grown = resident(&served) - before;
    assert!(grown < 96 << 10, "{grown} KiB");
    assert_eq!(served.get("/v1/audit?limit=5").is(200)["events"].as_array().unwrap().len(), 5);
    // Most were told to come again.
    let mut sent_away = 0;
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 12];
        sent_away += usize::from(stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"503"));
    }
    assert!(sent_away >= 80, "{sent_away}");
    drop(silent);
    let back = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        served.get("/v1/audit/export").status == 200
    });
    assert!(back, "their turns do not come back");
}

#[test]
fn oversize_and_deeply_nested_json_is_refused_on_every_route() {
    let served = Served::new(CONFIG);
    let routes = [
        ("POST", "/v1/seal"),
        ("POST", "/v1/open"),
        ("POST", "/v1/rewrap"),
        ("POST", "/v1/inspect"),
        ("PUT", "/v1/collections/instances/records/a"),
        ("POST", "/v1/collections/instances/records/a:open"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/tokens"),
        ("PUT", "/v1/grants"),
        ("POST", "/v1/keyrings/current/keys"),
    ];
    let depth = 200_000;
    let bodies = [
        "[".repeat(depth),
        "{\"items\":[".repeat(depth / 4),
        format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
        format!("{{\"connection_url\":{}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        format!("{{\"items\":{}{}}}", "[".repeat(120), "]".repeat(120)),
        "{\"items\":[{\"items\":[{\"plaintext\":\"x\"}]}]}".to_owned(),
        format!("{{\"plaintext\":\"{}\"}}", "\\u0000".repeat(1_500_000)),
        format!("{{\"{}\":1}}", "k".repeat(9_000_000)),
        format!("{{\"max_age\":{}}}", "9".repeat(1_000_000)),
        "\u{feff}{}".to_owned(),
    ];
    for (method, path) in routes {
        for body in &bodies {
            let request = served.request(method, path).bearer_auth(&served.token);
            let sent = request.header("content-type", "application/json").body(body.clone());
            // A body that is refused by its length alone may be answered before it is sent.
            if let Ok(answer) = served.block_on(answer(sent)) {
                // Some of them are documents that a record may well be.
                let good = method == "PUT" && path.contains("/records/") && answer.status < 300;
                let refused = (400..500).contains(&answer.status);
                assert!(good || refused, "{method} {path}: {} {}", answer.status, answer.text());
            }
        }
    }
    others_are_served(&served);
    // What is no request at all.
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxx"]
    {
        let mut stream = connect(&served);
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }
    assert!(!served.stderr().contains("panicked"));
    assert!(resident(&served) < 300 << 10, "{} KiB", resident(&served));
}

#[test]
fn bad_tls_and_handshakes_that_never_end_hold_nobody_up() {
    let place = folder("");
    let file = |name: &str| place.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let cert = params.self_signed(&key).unwrap();
    fs::write(file("cert.pem"), cert.pem()).unwrap();
    fs::write(file("key.pem"), key.serialize_pem()).unwrap();
    fs::write(
        file("data/keyfold.toml"),
        format!("{CONFIG}[server.tls]\ncert = {:?}\nkey = {:?}\n", file("cert.pem"), file("key.pem")),
    )
    .unwrap();
    let served = Served::start(place, &[]);
    let root = reqwest::Certificate::from_pem(cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).timeout(Duration::from_secs(20)).build().unwrap();
    let call =
        || served.block_on(answer(client.get(format!("{}/v1/collections", served.url)).bearer_auth(&served.token)));
    call().unwrap().is(200);
    let before = resident(&served);
    // Nothing at all, the first half of a greeting, and one byte after the other.
    let mut silent: Vec<_> = (0..scaled(2000).max(200)).map(|_| connect(&served)).collect();
    for (i, stream) in silent.iter_mut().enumerate() {
        match i % 3 {
            0 => {}
            1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap(),
            _ => stream.write_all(b"\x16").unwrap(),
        }
    }
    call().unwrap().is(200);
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x00\x00\x00",
        b"\x16\x03\x01\xff\xff",
        &[0; 4096],
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ] {
        let mut stream = connect(&served);
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
    }
    call().unwrap().is(200);
    let each = (resident(&served) - before.min(resident(&served))) / silent.len() as u64;
    assert!(each < 64, "{each} KiB each");
    // Old versions and nothing else.
    let old = reqwest::Client::builder().tls_version_max(reqwest::tls::Version::TLS_1_1).build();
    if let Ok(old) = old {
        assert!(served.block_on(answer(old.get(&served.url))).is_err());
    }
    // They are sent away by themselves: ten seconds for a handshake.
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    call().unwrap().is(200);
}
