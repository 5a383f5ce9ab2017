//! A forwarder between a provider and its server that plays the faults which the real component does not have: no answer,
//! answers of another kind, connections that break.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What happens to connections.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They reach the server.
    Pass,
    /// They are taken, and nobody answers.
    Hang,
    /// They are closed as soon as a request came.
    Break,
    /// They reach the server; answers to a POST are lost.
    LoseWrites,
    /// Each request is answered with this.
    Answer(String),
    /// So many are answered with this, then they pass.
    Answers(usize, String),
}

/// An HTTP answer.
pub(crate) fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

struct Shared {
    mode: Mutex<Mode>,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    to: u16,
}

pub(crate) struct Forwarder {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Forwarder {
    /// In front of a server on this machine.
    pub(crate) fn start(to: u16) -> Self {
        Self::start_at(0, to)
    }

    /// On a port that was chosen before.
    pub(crate) fn start_at(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            open: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            to,
        });
        let theirs = Arc::clone(&shared);
        // Ends with the process: it waits in `accept`.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&theirs);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, shared }
    }

    /// From now on, for connections that are open too.
    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn next(&self) -> Mode {
        let mut mode = self.mode.lock().unwrap();
        match &mut *mode {
            Mode::Answers(left, answer) => {
                let answer = answer.clone();
                *left -= 1;
                if *left == 0 {
                    *mode = Mode::Pass;
                }
                Mode::Answer(answer)
            }
            other => other.clone(),
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        match self.next() {
            Mode::Pass => self.pass(stream),
            Mode::LoseWrites => self.lose_writes(stream),
            Mode::Hang => {
                let kept = stream.try_clone().unwrap();
                self.open.lock().unwrap().push(kept);
                let _ = stream.read(&mut [0]);
                thread::sleep(Duration::from_secs(60));
            }
            Mode::Break => {
                let _ = stream.read(&mut [0; 4096]);
            }
            Mode::Answer(text) | Mode::Answers(_, text) => {
                // Enough for the requests of these tests, which arrive at once.
                stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let mut buffer = [0; 16 << 10];
                while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
                let _ = stream.write_all(text.as_bytes());
            }
        }
    }

    fn lose_writes(&self, mut stream: TcpStream) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        for one in [&stream, &server] {
            self.open.lock().unwrap().push(one.try_clone().unwrap());
        }
        let wrote = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (mut from, mut to, seen) = (stream.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&wrote));
        let up = thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                seen.fetch_or(buffer.starts_with(b"POST"), Ordering::SeqCst);
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 16 << 10];
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            if wrote.load(Ordering::SeqCst) || stream.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        let _ = up.join();
    }

    fn pass(&self, stream: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        for one in [&stream, &server] {
            self.open.lock().unwrap().push(one.try_clone().unwrap());
        }
        let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
        let up = thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (server, stream);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = up.join();
    }
}
