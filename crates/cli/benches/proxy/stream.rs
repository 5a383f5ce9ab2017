//! A large body on its way, both ways; and what memory it takes.

use std::time::Instant;

use futures::future::join_all;
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};

use super::{
    at_least, at_most,
    keyfold::{Keyfold, PLAIN, UNSCRUBBED},
    load::{Stream, Way, median},
    process::Process,
    upstream::{DROP, STREAM, length},
};

const ROUNDS: usize = 3;
/// How many bodies there are at once where memory is looked at.
const AT_ONCE: usize = 16;
const MIB: usize = 1 << 20;

pub(crate) fn run(runtime: &Runtime, keyfold: &Keyfold<'_>, (forwarder, nginx): (Way<'_>, Option<Way<'_>>)) {
    let mib = size();
    println!("\n{:<32} {:>16} {:>16}", format!("one body of {mib} MiB"), "down MiB/s", "up MiB/s");
    let mut ways = vec![
        keyfold.addressed("Keyfold", PLAIN),
        keyfold.addressed("Keyfold, scrub = false", UNSCRUBBED),
        keyfold.tunnels("Keyfold, CONNECT", PLAIN),
        forwarder,
    ];
    ways.extend(nginx);
    let mut rates = vec![(Vec::new(), Vec::new()); ways.len()];
    for _ in 0..ROUNDS {
        for (way, (down, up)) in ways.iter().zip(&mut rates) {
            down.push(runtime.block_on(download(way, 0, mib)));
            up.push(runtime.block_on(upload(way, mib)));
        }
    }
    let rates: Vec<_> = rates.into_iter().map(|(down, up)| (median(down), median(up))).collect();
    for (way, (down, up)) in ways.iter().zip(&rates) {
        println!("{:<32} {down:>16.0} {up:>16.0}", way.name);
    }
    if let Some((down, up)) = rates.get(4) {
        at_least("downloads beside nginx", (rates[0].0 / down * 100.0, "%"), 70.0);
        at_least("uploads beside nginx", (rates[0].1 / up * 100.0, "%"), 70.0);
    }
}

/// What bodies take of the memory of a service that has seen none.
pub(crate) fn memory(runtime: &Runtime, keyfold: &Keyfold<'_>) {
    let (way, mib) = (keyfold.addressed("Keyfold", PLAIN), size());
    let grown = |work: &dyn Fn()| grown(&keyfold.process, work);
    runtime.block_on(join_all((0..AT_ONCE).map(|i| download(&way, i, 0))));
    let one = grown(&|| _ = runtime.block_on(download(&way, 0, mib)));
    at_most("memory that one download takes", (one, "MiB"), 10.0);
    let one = grown(&|| _ = runtime.block_on(upload(&way, mib)));
    at_most("memory that one upload takes", (one, "MiB"), 10.0);
    let share = mib.div_ceil(AT_ONCE);
    let all = grown(&|| _ = runtime.block_on(join_all((0..AT_ONCE).map(|i| download(&way, i, share)))));
    at_most(&format!("memory of each of {AT_ONCE} at once"), (all / AT_ONCE as f64, "MiB"), 10.0);
}

fn size() -> usize {
    super::variable("KEYFOLD_BENCH_MIB", 1024)
}

/// How much more memory a process held at its peak than before, in MiB.
fn grown(process: &Process, work: &dyn Fn()) -> f64 {
    process.forget_peak();
    let before = process.resident();
    work();
    process.peak() - before
}

/// The head of an answer, and how many bytes of its body came with it.
async fn head(stream: &mut dyn Stream) -> (Vec<u8>, usize) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "it hung up");
        if let Some(end) = memmem::find(&buffer, b"\r\n\r\n") {
            let came = buffer.len() - end - 4;
            buffer.truncate(end);
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
            return (buffer, came);
        }
    }
}

/// MiB in a second.
async fn download(way: &Way<'_>, i: usize, mib: usize) -> f64 {
    let mut stream = way.open(i).await;
    let request = way.request(i, ("GET", &format!("{STREAM}{mib}")), "");
    let began = Instant::now();
    stream.write_all(&request).await.unwrap();
    stream.flush().await.unwrap();
    let (head, mut came) = head(&mut *stream).await;
    assert_eq!(length(&head), Some(mib * MIB));
    let mut buffer = vec![0; 256 << 10];
    while came < mib * MIB {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "it broke off after {came} bytes");
        came += read;
    }
    mib as f64 / began.elapsed().as_secs_f64()
}

async fn upload(way: &Way<'_>, mib: usize) -> f64 {
    let mut stream = way.open(0).await;
    let request = way.request(0, ("POST", DROP), &format!("content-length: {}\r\n", mib * MIB));
    let part = vec![b'x'; 256 << 10];
    let began = Instant::now();
    stream.write_all(&request).await.unwrap();
    for _ in 0..mib * MIB / part.len() {
        stream.write_all(&part).await.unwrap();
    }
    stream.flush().await.unwrap();
    head(&mut *stream).await;
    mib as f64 / began.elapsed().as_secs_f64()
}
