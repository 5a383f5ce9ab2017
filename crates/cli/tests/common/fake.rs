//! An HTTP server of a test's own: it notes what it is sent and answers what the test says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) path: String,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

/// A server that lives as long as the test's process.
pub(crate) struct Fake {
    pub(crate) url: String,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Fake {
    /// Answers every path with what `answer` gives for it.
    pub(crate) fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    pub(crate) fn on(listener: TcpListener, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (notes, answer) = (Arc::clone(&sent), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                std::thread::spawn(move || talk(&stream, &notes, &*answer));
            }
        });
        Self { url, sent }
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }
}

/// Until the other side goes.
fn talk(stream: &TcpStream, notes: &Mutex<Vec<Sent>>, answer: &dyn Fn(&str) -> String) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut headers) = (String::new(), String::new());
        reader.read_line(&mut first).ok().filter(|&read| read > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|&read| read > 2)?;
            headers += &line.to_ascii_lowercase();
            if reader.fill_buf().ok()?.starts_with(b"\r\n") {
                reader.consume(2);
                break;
            }
        }
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let text = answer(&path);
        notes.lock().unwrap().push(Sent { path, headers, body });
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        (&mut &*stream).write_all(format!("{head}{text}").as_bytes()).ok()?;
    }
}
