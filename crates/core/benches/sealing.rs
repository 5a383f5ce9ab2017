//! What sealing and opening cost, as ratios to yardsticks measured in the same run.
//!
//! ```text
//! cargo bench -p keyfold-core --bench sealing                            the table
//! cargo bench -p keyfold-core --bench sealing -- --check                 ends with 1 where a target is missed
//! cargo bench -p keyfold-core --bench sealing -- --update-baseline       keeps the ratios for the next comparison
//! ```
//!
//! - *floor*: the primitives alone, by the same library, with keys, randomness and buffers ready and nothing encoded. For the
//!   envelopes two AES-256-GCM operations (a 32-byte data key, a 100-byte secret) and one key set-up; for Fernet
//!   AES-128-CBC and HMAC-SHA-256 with both keys set up.
//! - *own*: everything that the format itself asks of a library, each call fed with the result of the one before as there, in
//!   buffers that are ready, nothing drawn, checked or wiped: for kf1 its hashes, set-ups and AES-GCM calls, for v1 the floor,
//!   the hedge and base64 twice. No writer or reader can be faster with these libraries; what is above it is ours.
//! - *Python*: what the two original projects do with `cryptography`, see `vectors/bench.py`.
//! - *previous*: the ratios that were kept last, in `baseline.json`.
//!
//! Everything runs on one thread. Rounds over all operations are interleaved, so that a slow moment of the machine hits all
//! of them; the smallest of the medians counts.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints its table, and may panic"
)]

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{
        AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    digest, hmac,
    iv::FixedLength,
};
use base64_simd::{AsOut, STANDARD};
use jiff::civil::date;
use keyfold_core::{
    accept::{Accept, Rule},
    clock::UnixTime,
    context::Context,
    envelope::{
        Format, Reading,
        fernet::{self, FernetKey, Token},
        kf1, redis_sre_v1,
    },
    keyring::{Entry, KeyMaterial, Keyring, MasterKey, Origin, Purpose, Reader, State},
    rng::{Fresh, SystemRandom},
    secret::Key32,
};

const SECRET: &[u8; 100] =
    b"redis://default:a-password-of-some-length@redis-12345.c1.eu-west-1.example.com:12345/0?ssl_cert_reqs";
const NOW: UnixTime = UnixTime(1_790_000_000);
const ROUNDS: usize = 9;
const SAMPLES: usize = 61;
const SAMPLE_NANOSECONDS: u128 = 40_000;

/// One operation, the floor it is held against, and how many times the floor it may cost.
struct Target {
    name: &'static str,
    floor: &'static str,
    limit: Option<f64>,
    python: Option<&'static str>,
}

const PYTHON_LIMIT: f64 = 15.0;
const TARGETS: &[Target] = &[
    Target { name: "v1 seal", floor: "floor: seal", limit: Some(1.6), python: Some("v1_seal") },
    Target { name: "v1 open", floor: "floor: open", limit: Some(1.8), python: Some("v1_open") },
    Target { name: "kf1 seal", floor: "floor: seal", limit: Some(4.8), python: None },
    Target { name: "kf1 open", floor: "floor: open", limit: Some(4.2), python: None },
    Target { name: "v1's own: seal", floor: "floor: seal", limit: None, python: None },
    Target { name: "kf1's own: seal", floor: "floor: seal", limit: None, python: None },
    Target { name: "kf1's own: open", floor: "floor: open", limit: None, python: None },
    Target { name: "kf1 rewrap", floor: "floor: seal", limit: None, python: None },
    Target { name: "fernet encrypt", floor: "floor: Fernet encrypt", limit: Some(1.6), python: Some("fernet_encrypt") },
    Target { name: "fernet decrypt", floor: "floor: Fernet decrypt", limit: Some(1.6), python: Some("fernet_decrypt") },
    Target { name: "keyring: v1 open", floor: "floor: open", limit: None, python: Some("v1_open") },
    Target { name: "keyring: kf1 open", floor: "floor: open", limit: None, python: None },
    Target {
        name: "keyring: fernet open",
        floor: "floor: Fernet decrypt",
        limit: None,
        python: Some("fernet_decrypt"),
    },
];

type Operation<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let times = with_operations(measure);
    let python = python();
    let previous = baseline();
    let mut missed = Vec::new();
    let mut ratios = BTreeMap::new();
    println!("\n100-byte secret, one core; times of one call\n");
    println!(
        "{:<24} {:>9} {:>9} {:>8} {:>7}   {:>9} {:>8}   {:>8}",
        "", "ns", "floor ns", "x floor", "target", "Python ns", "faster", "previous"
    );
    for target in TARGETS {
        let (time, floor) = (times[target.name], times[target.floor]);
        let ratio = time / floor;
        ratios.insert(target.name, (ratio * 1000.0).round() / 1000.0);
        let mut row = format!("{:<24} {time:>9.0} {floor:>9.0} {ratio:>8.2} ", target.name);
        row += &target.limit.map_or(format!("{:>7}", ""), |limit| format!("{limit:>7.1}"));
        if target.limit.is_some_and(|limit| ratio > limit) {
            missed.push(format!("{}: {ratio:.2} times its floor", target.name));
        }
        row += &match target.python.and_then(|name| python.get(name)) {
            Some(theirs) => {
                let faster = theirs / time;
                if faster < PYTHON_LIMIT && target.limit.is_some() {
                    missed
                        .push(format!("{}: {faster:.1} times faster than Python, {PYTHON_LIMIT} wanted", target.name));
                }
                format!("   {theirs:>9.0} {faster:>7.1}x")
            }
            None => format!("   {:>9} {:>8}", "", ""),
        };
        row += &previous.get(target.name).map_or(String::new(), |before| format!("   {before:>8.2}"));
        println!("{row}");
    }
    println!();
    if python.is_empty() {
        println!("not run: Python (no interpreter with the package cryptography; KEYFOLD_PYTHON names one)");
    }
    match missed.is_empty() {
        true => println!("all targets met"),
        false => missed.iter().for_each(|miss| println!("missed: {miss}")),
    }
    if arguments.iter().any(|argument| argument == "--update-baseline") {
        fs::write(baseline_path(), serde_json::to_string_pretty(&ratios).unwrap() + "\n").unwrap();
        println!("kept in {}", baseline_path().display());
    }
    if !missed.is_empty() && arguments.iter().any(|argument| argument == "--check") {
        std::process::exit(1);
    }
}

/// Builds everything that has to be ready, and hands the operations over.
fn with_operations<T>(run: impl FnOnce(&mut [Operation<'_>]) -> T) -> T {
    let raw = [7; 32];
    let key = MasterKey::new(Key32::new(raw)).unwrap();
    let other = MasterKey::new(Key32::new([8; 32])).unwrap();
    let fernet_key = FernetKey::new(Key32::new(raw)).unwrap();
    let context =
        Context::parse_entries(&["deployment=d-1", "collection=c-7", "record=inst-1", "field=/admin_password"]);
    let here = context.unwrap().digest();
    let v1 = redis_sre_v1::seal(&key, &SystemRandom, SECRET).unwrap();
    let kf1 = kf1::seal(&key, &SystemRandom, &here, SECRET).unwrap();
    let kf1_text = kf1.to_text();
    let token = fernet::seal(&fernet_key, &SystemRandom, SECRET, NOW).unwrap();
    let ring = keyring(raw);
    let accept = Accept::new(Format::ALL.iter().map(|f| Rule::new(f.as_str(), None).unwrap()).collect()).unwrap();
    let reader = Reader { accept: &accept, today: date(2026, 11, 22), reading: Reading::Strict, max_age: None };
    let fresh = Fresh { random: &SystemRandom, now: NOW };
    let open = |text: &str| drop(black_box(ring.open(text, &here, &reader).unwrap()));
    let mut operations: Vec<Operation<'_>> = floors();
    operations.extend(kf1_alone());
    operations.push(("v1's own: seal", v1_alone()));
    operations.extend::<[Operation<'_>; 12]>([
        ("v1 seal", Box::new(|| drop(black_box(redis_sre_v1::seal(&key, &SystemRandom, SECRET).unwrap())))),
        (
            "v1 open",
            Box::new(|| {
                let envelope = redis_sre_v1::Envelope::parse(black_box(&v1), Reading::Strict).unwrap();
                drop(black_box(envelope.open(&key).unwrap()));
            }),
        ),
        (
            "kf1 seal",
            Box::new(|| {
                drop(black_box(kf1::seal(&key, &SystemRandom, &here, SECRET).unwrap().to_text()));
            }),
        ),
        (
            "kf1 open",
            Box::new(|| {
                let envelope = kf1::Envelope::from_text(black_box(&kf1_text)).unwrap();
                drop(black_box(kf1::open(&key, &envelope, &here).unwrap()));
            }),
        ),
        (
            "kf1 rewrap",
            Box::new(|| {
                let envelope = kf1::Envelope::from_text(black_box(&kf1_text)).unwrap();
                drop(black_box(kf1::rewrap(&key, &other, &envelope, &here).unwrap().to_text()));
            }),
        ),
        (
            "fernet encrypt",
            Box::new(|| {
                drop(black_box(fernet::seal(&fernet_key, &SystemRandom, SECRET, NOW).unwrap()));
            }),
        ),
        (
            "fernet decrypt",
            Box::new(|| {
                let token = Token::parse(black_box(&token), Reading::Strict).unwrap();
                drop(black_box(token.open(&fernet_key, None).unwrap().unwrap()));
            }),
        ),
        ("keyring: v1 open", Box::new(|| open(black_box(&v1)))),
        ("keyring: kf1 open", Box::new(|| open(black_box(&kf1_text)))),
        ("keyring: fernet open", Box::new(|| open(black_box(&token)))),
        ("keyring: kf1 seal", Box::new(|| drop(black_box(ring.seal(Format::Kf1, &here, SECRET, fresh).unwrap())))),
        (
            "context digest",
            Box::new(|| {
                let entries = ["deployment=d-1", "collection=c-7", "record=inst-1", "field=/admin_password"];
                black_box(Context::parse_entries(black_box(&entries)).unwrap().digest());
            }),
        ),
    ]);
    run(&mut operations)
}

fn keyring(raw: [u8; 32]) -> Keyring {
    let entry = |purpose, suites| {
        let key = KeyMaterial::new(purpose, Key32::new(raw)).unwrap();
        Entry::new(key, State::Primary, suites, NOW, Origin::Document)
    };
    let entries =
        vec![entry(Purpose::Master, vec![Format::Kf1, Format::V1]), entry(Purpose::Fernet, vec![Format::Fernet])];
    Keyring::from_entries("bench", entries).unwrap()
}

fn gcm(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap())
}

fn nonce(byte: u8) -> Nonce {
    Nonce::assume_unique_for_key([byte; 12])
}

/// The primitives alone.
fn floors() -> Vec<Operation<'static>> {
    let (master, dek) = ([7u8; 32], [9u8; 32]);
    let mut sealed = SECRET.to_vec();
    gcm(&dek).seal_in_place_append_tag(nonce(1), Aad::empty(), &mut sealed).unwrap();
    let mut wrapped = dek.to_vec();
    gcm(&master).seal_in_place_append_tag(nonce(2), Aad::empty(), &mut wrapped).unwrap();
    let (sealing, opening) = (gcm(&master), gcm(&master));
    let half = || UnboundCipherKey::new(&AES_128, &master[16..]).unwrap();
    let encrypt = PaddedBlockEncryptingKey::cbc_pkcs7(half()).unwrap();
    let decrypt = PaddedBlockDecryptingKey::cbc_pkcs7(half()).unwrap();
    let sign = hmac::Key::new(hmac::HMAC_SHA256, &master[..16]);
    let verify = sign.clone();
    let mut token = vec![0x80; 25];
    let mut body = SECRET.to_vec();
    encrypt.less_safe_encrypt(&mut body, EncryptionContext::Iv128(FixedLength::from([3; 16]))).unwrap();
    token.extend_from_slice(&body);
    let tag = hmac::sign(&sign, &token);
    vec![
        (
            "floor: seal",
            Box::new(move || {
                let (mut body, mut wrap) = (*SECRET, black_box(dek));
                let tag = gcm(black_box(&dek)).seal_in_place_separate_tag(nonce(1), Aad::empty(), &mut body).unwrap();
                let wrap_tag = sealing.seal_in_place_separate_tag(nonce(2), Aad::empty(), &mut wrap).unwrap();
                black_box((body, wrap, tag.as_ref()[0], wrap_tag.as_ref()[0]));
            }),
        ),
        (
            "floor: open",
            Box::new(move || {
                let (mut secret, mut dek) = ([0; 100], [0; 32]);
                let (text, tag) = wrapped.split_at(32);
                opening.open_separate_gather(nonce(2), Aad::empty(), text, tag, &mut dek).unwrap();
                let (text, tag) = sealed.split_at(100);
                gcm(&dek).open_separate_gather(nonce(1), Aad::empty(), text, tag, &mut secret).unwrap();
                black_box((secret, dek));
            }),
        ),
        ("floor: Fernet encrypt", {
            let mut body = Vec::with_capacity(128);
            let mut message = Vec::with_capacity(256);
            Box::new(move || {
                body.clear();
                body.extend_from_slice(black_box(SECRET));
                let iv = EncryptionContext::Iv128(FixedLength::from([3; 16]));
                encrypt.less_safe_encrypt(&mut body, iv).unwrap();
                message.clear();
                message.extend_from_slice(&[0x80; 25]);
                message.extend_from_slice(&body);
                black_box(hmac::sign(&sign, &message));
            })
        }),
        (
            "floor: Fernet decrypt",
            Box::new(move || {
                hmac::verify(&verify, black_box(&token), tag.as_ref()).unwrap();
                let mut body = [0; 112];
                body.copy_from_slice(&token[25..]);
                let iv = DecryptionContext::Iv128(FixedLength::from([3; 16]));
                black_box(decrypt.decrypt(&mut body, iv).unwrap().len());
            }),
        ),
    ]
}

/// What v1 asks of the libraries to seal: the hedge over the secret, both layers, and the text.
fn v1_alone() -> Box<dyn FnMut()> {
    let (master, hedge) = (gcm(&[7; 32]), gcm(&[8; 32]));
    let (short, mut json, mut text) = ([5; 72], [b' '; 382], [0; 512]);
    Box::new(move || {
        let (mut body, mut dek) = ([0; 116], [9; 32]);
        body[..100].copy_from_slice(black_box(SECRET));
        let tag = hedge.seal_in_place_separate_tag(nonce(1), Aad::from(&body[..100]), &mut []).unwrap();
        dek[..16].copy_from_slice(tag.as_ref());
        let tag = gcm(&dek).seal_in_place_separate_tag(nonce(1), Aad::empty(), &mut body[..100]).unwrap();
        body[100..].copy_from_slice(tag.as_ref());
        let tag = master.seal_in_place_separate_tag(nonce(2), Aad::empty(), &mut dek).unwrap();
        let _ = STANDARD.encode(&body, json[34..].as_out());
        let _ = STANDARD.encode(black_box(&short), json[286..].as_out());
        let _ = STANDARD.encode(&json, text.as_mut_slice().as_out());
        black_box((&text, tag.as_ref()[0]));
    })
}

/// What kf1 asks of the library to seal and to open: HMAC as two hashes, the key's block before the message. `derive` is
/// K_enc and C from the data key, `wrap` is K_w with the hash of the body.
fn kf1_alone() -> Vec<Operation<'static>> {
    /// HMAC of `N - 64` bytes that the last result is part of.
    fn hmac<const N: usize>(from: &[u8]) -> digest::Digest {
        let mut inner = [0x36; N];
        inner[64..64 + from.len()].copy_from_slice(from);
        let mut outer = [0x5c; 96];
        outer[64..].copy_from_slice(digest::digest(&digest::SHA256, &inner).as_ref());
        digest::digest(&digest::SHA256, &outer)
    }
    let derive = |dek: &[u8]| (hmac::<{ 64 + 45 }>(dek), hmac::<{ 64 + 45 }>(dek));
    let wrap = |body: &[u8]| hmac::<{ 64 + 110 }>(digest::digest(&digest::SHA256, body).as_ref());
    let mut body = [0; 116];
    body[..100].copy_from_slice(SECRET);
    vec![
        (
            "kf1's own: seal",
            Box::new(move || {
                let (mut body, mut wrapped) = (black_box(body), [0; 32]);
                let dek = hmac::<{ 64 + 64 + 100 }>(&body[..100]);
                let (_commitment, body_key) = black_box(derive(dek.as_ref()));
                let aad = Aad::from([0; 36]);
                let tag = gcm(body_key.as_ref()).seal_in_place_separate_tag(nonce(0), aad, &mut body[..100]).unwrap();
                body[100..].copy_from_slice(tag.as_ref());
                wrapped.copy_from_slice(dek.as_ref());
                let aad = Aad::from([0; 76]);
                let tag = gcm(wrap(&body).as_ref()).seal_in_place_separate_tag(nonce(0), aad, &mut wrapped).unwrap();
                black_box((wrapped, tag.as_ref()[0]));
            }),
        ),
        ("kf1's own: open", {
            let wrapped = {
                let mut wrapped = vec![7; 32];
                gcm(wrap(&body).as_ref()).seal_in_place_append_tag(nonce(0), Aad::from([0; 76]), &mut wrapped).unwrap();
                wrapped
            };
            // Opening and sealing cost the library the same, so the body need not verify.
            Box::new(move || {
                let (mut body, mut dek) = (black_box(body), [0; 32]);
                let (text, tag) = wrapped.split_at(32);
                let aad = Aad::from([0; 76]);
                gcm(wrap(&body).as_ref()).open_separate_gather(nonce(0), aad, text, tag, &mut dek).unwrap();
                let (_commitment, body_key) = black_box(derive(&dek));
                let aad = Aad::from([0; 36]);
                let tag = gcm(body_key.as_ref()).seal_in_place_separate_tag(nonce(0), aad, &mut body[..100]).unwrap();
                black_box((body, tag.as_ref()[0]));
            })
        }),
    ]
}

/// Nanoseconds of one call of each.
fn measure(operations: &mut [Operation<'_>]) -> BTreeMap<&'static str, f64> {
    let mut best = BTreeMap::new();
    let calls: Vec<usize> = operations.iter_mut().map(|(_, call)| calls_in_a_sample(call)).collect();
    for _ in 0..ROUNDS {
        for ((name, call), &calls) in operations.iter_mut().zip(&calls) {
            let mut samples: Vec<f64> = (0..SAMPLES)
                .map(|_| {
                    let start = Instant::now();
                    (0..calls).for_each(|_| call());
                    start.elapsed().as_nanos() as f64 / calls as f64
                })
                .collect();
            samples.sort_by(f64::total_cmp);
            let median = samples[SAMPLES / 2];
            best.entry(*name).and_modify(|least: &mut f64| *least = least.min(median)).or_insert(median);
        }
    }
    best
}

fn calls_in_a_sample(call: &mut dyn FnMut()) -> usize {
    let mut calls = 1;
    loop {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        if start.elapsed().as_nanos() > SAMPLE_NANOSECONDS {
            return calls;
        }
        calls *= 2;
    }
}

/// Nanoseconds of the originals' calls; nothing where there is no Python with `cryptography`.
fn python() -> BTreeMap<String, f64> {
    let interpreter = std::env::var("KEYFOLD_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/bench.py");
    let Ok(out) = Command::new(interpreter).arg("-B").arg(script).arg(SECRET.len().to_string()).output() else {
        return BTreeMap::new();
    };
    let times: BTreeMap<String, f64> = serde_json::from_slice(&out.stdout).unwrap_or_default();
    times.into_iter().map(|(name, microseconds)| (name, microseconds * 1000.0)).collect()
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baseline.json")
}

fn baseline() -> BTreeMap<String, f64> {
    fs::read(baseline_path()).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}
