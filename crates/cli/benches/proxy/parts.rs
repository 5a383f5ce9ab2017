//! Requests in a second, latency, tunnels, and what scrubbing costs.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use super::{
    at_least, at_most,
    forwarder::Forwarder,
    keyfold::{HTTP2, Keyfold, PEOPLE, PLAIN, Stage, UNSCRUBBED},
    load::{CONNECTIONS, Load, MANY, Pace, STEADY, median, turns},
    nginx::Nginx,
    stream,
    upstream::{JSON, SMALL},
};

/// What no disk is under: flushing costs nothing there.
const MEMORY: &str = "/dev/shm";

/// All that is measured side by side.
struct Sides<'a> {
    stage: &'a Stage,
    runtime: Runtime,
    keyfold: Keyfold<'a>,
    /// The same without a disk.
    memory: Option<Keyfold<'a>>,
    forwarder: Forwarder,
    noting: Forwarder,
    nginx: Option<Nginx>,
}

/// Runs those of the parts that are asked for.
pub(crate) fn run(stage: &Stage, runs: impl Fn(&str) -> bool) {
    let memory = Path::new(MEMORY);
    let sides = Sides {
        stage,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        keyfold: Keyfold::new(stage),
        memory: memory.is_dir().then(|| Keyfold::start(stage, memory, PEOPLE)),
        forwarder: Forwarder::start(stage),
        noting: Forwarder::noting(stage, &super::disk()),
        nginx: Nginx::start(stage),
    };
    println!("{PEOPLE} users; three turns of {:?} each, the median of each figure", super::seconds());
    println!("no setting turns the audit log off, or its flush; in memory ({MEMORY}) a flush costs nothing");
    if runs("rate") {
        sides.rate(CONNECTIONS);
        sides.rate(MANY);
    }
    if runs("latency") {
        sides.latency();
    }
    if runs("tunnel") {
        sides.tunnel();
    }
    if runs("stream") {
        let (keyfold, nginx) = (&sides.keyfold, sides.nginx.as_ref().map(Nginx::way));
        stream::run(&sides.runtime, keyfold, (sides.forwarder.way(), nginx));
        stream::memory(&sides.runtime, &Keyfold::new(stage));
    }
    if runs("scrub") {
        sides.scrub();
    }
}

const fn percent(part: f64, whole: f64) -> (f64, &'static str) {
    (part / whole * 100.0, "%")
}

impl Sides<'_> {
    /// The first two are Keyfold and the forwarder, the last one is nginx.
    fn rate(&self, connections: usize) {
        Load::header(&format!("{connections} connections"));
        let mut ways = vec![
            self.keyfold.addressed("Keyfold", PLAIN),
            self.forwarder.way(),
            self.noting.way(),
            self.keyfold.addressed("Keyfold, HTTP/2 upstream", HTTP2),
        ];
        ways.extend(self.memory.as_ref().map(|memory| memory.addressed("Keyfold, data folder in memory", PLAIN)));
        ways.extend(self.nginx.as_ref().map(Nginx::way));
        let loads = turns(&self.runtime, &ways, (Pace::Closed(connections), SMALL));
        at_least("Keyfold beside the forwarder", percent(loads[0].rate, loads[1].rate), 80.0);
        let said = |what: &str, (value, unit): (f64, &str)| println!("{what:<52} {value:>8.1} {unit}");
        said("the forwarder with two lines beside the bare one", percent(loads[2].rate, loads[1].rate));
        said("Keyfold beside the forwarder with two lines", percent(loads[0].rate, loads[2].rate));
        if let (Some(nginx), true) = (loads.last(), self.nginx.is_some()) {
            at_least("Keyfold beside nginx", percent(loads[0].rate, nginx.rate), 55.0);
        }
    }

    fn latency(&self) {
        let mut took = flushes(&super::disk());
        Load::header(&format!("{STEADY} a second"));
        let mut ways = vec![self.stage.direct(), self.forwarder.way(), self.keyfold.addressed("Keyfold", PLAIN)];
        ways.extend(self.memory.as_ref().map(|memory| memory.addressed("Keyfold, data folder in memory", PLAIN)));
        ways.extend(self.nginx.as_ref().map(Nginx::way));
        ways.push(self.noting.way());
        let loads = turns(&self.runtime, &ways, (Pace::Steady, SMALL));
        took.extend(flushes(&super::disk()));
        let flush = median(took);
        println!("{:<52} {:>8.1} us", "to a sleeping thread and back, median", median(handovers()));
        println!("{:<52} {flush:>8.1} us", "a write and fdatasync, median before and after");
        let added = |n: usize, to: usize| (loads[n].p50 - loads[to].p50, "us");
        let noting = added(loads.len() - 1, 1).0;
        println!("{:<52} {noting:>8.1} us", "added by two lines a call alone");
        at_most("added to the forwarder's median", added(2, 1), flush + 150.0);
        at_most("added to the direct median", added(2, 0), flush + 150.0);
        if self.memory.is_some() {
            at_most("in memory, added to the forwarder's median", added(3, 1), 150.0);
            at_most("in memory, added to the direct median", added(3, 0), 150.0);
        }
    }

    fn tunnel(&self) {
        Load::header(&format!("{MANY} connections, tunnels open"));
        let ways =
            [self.keyfold.addressed("Keyfold, addressed", PLAIN), self.keyfold.tunnels("Keyfold, CONNECT", PLAIN)];
        let loads = turns(&self.runtime, &ways, (Pace::Closed(MANY), SMALL));
        at_least("CONNECT beside addressed", percent(loads[1].rate, loads[0].rate), 70.0);
    }

    fn scrub(&self) {
        Load::header(&format!("{MANY} connections, 16 KiB answers"));
        let ways = [
            self.keyfold.addressed("Keyfold, scrubbing", PLAIN),
            self.keyfold.addressed("Keyfold, scrub = false", UNSCRUBBED),
        ];
        let loads = turns(&self.runtime, &ways, (Pace::Closed(MANY), JSON));
        at_most("scrubbing takes", percent(loads[1].rate - loads[0].rate, loads[1].rate), 15.0);
    }
}

/// How long it takes to give something to a sleeping thread and to be woken by it again, in microseconds, at the pace of the load: what a
/// call pays for not waiting for a disk on a thread that serves others.
fn handovers() -> Vec<f64> {
    let (give, given) = mpsc::channel::<()>();
    let (wake, woken) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || while given.recv().is_ok() && wake.send(()).is_ok() {});
    let took = (0..500).map(|_| {
        std::thread::sleep(Duration::from_secs(1) / STEADY);
        let began = Instant::now();
        give.send(()).unwrap();
        woken.recv().unwrap();
        began.elapsed().as_secs_f64() * 1e6
    });
    let took = took.collect();
    drop(give);
    other.join().unwrap();
    took
}

/// How long writes as long as two events and their flushes take, in microseconds, at the pace of the load.
fn flushes(folder: &Path) -> Vec<f64> {
    let place = tempfile::tempdir_in(folder).unwrap();
    let mut file = File::options().create(true).append(true).open(place.path().join("log")).unwrap();
    let took = (0..500).map(|_| {
        std::thread::sleep(Duration::from_secs(1) / STEADY);
        let began = Instant::now();
        file.write_all(&[b'x'; 700]).unwrap();
        file.sync_data().unwrap();
        began.elapsed().as_secs_f64() * 1e6
    });
    took.collect()
}
