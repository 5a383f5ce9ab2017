//! Cutting a stream into JSON documents: one after the other, or the elements of one array, in bounded memory.

use std::io::{self, BufRead};

use zeroize::{Zeroize, Zeroizing};

use super::json::MAX_DOCUMENT;

/// Why a stream could not be cut.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The stream could not be read.
    #[error("document {number}: {source}")]
    Io {
        /// Counted from 1.
        number: u64,
        /// Why.
        source: io::Error,
    },
    /// Not documents.
    #[error("document {number}: {what}")]
    Syntax {
        /// Counted from 1.
        number: u64,
        /// One line, without anything of the document.
        what: &'static str,
    },
}

/// The documents of a stream: JSON lines, concatenated objects, or one array of objects.
///
/// Only where each one ends is looked at here; whether it is JSON is seen when it is read. After an error comes nothing.
pub struct Documents<R> {
    input: R,
    number: u64,
    shape: Shape,
    done: bool,
}

/// What the stream turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing was seen yet.
    Unknown,
    /// One document after the other.
    Sequence,
    /// Inside an array.
    Array,
    /// Behind the end of an array; nothing may follow.
    Closed,
}

impl<R: BufRead> Documents<R> {
    /// Cuts a stream.
    pub const fn new(input: R) -> Self {
        Self { input, number: 0, shape: Shape::Unknown, done: false }
    }

    fn next_document(&mut self) -> Result<Option<Zeroizing<String>>, DocumentsError> {
        let number = self.number + 1;
        let syntax = |what| DocumentsError::Syntax { number, what };
        let mut separators = 0;
        let mut text = Zeroizing::new(Vec::new());
        let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(DocumentsError::Io { number, source }),
            };
            if chunk.is_empty() {
                return match (depth, self.shape) {
                    (0, Shape::Array) => Err(syntax("the array does not end")),
                    (0, _) => Ok(None),
                    _ => Err(syntax("the document does not end")),
                };
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in chunk {
                if depth == 0 {
                    used += 1;
                    match byte {
                        b' ' | b'\t' | b'\r' | b'\n' => {}
                        b'[' if self.shape == Shape::Unknown => self.shape = Shape::Array,
                        b']' if self.shape == Shape::Array && separators == 0 => self.shape = Shape::Closed,
                        b',' if self.shape == Shape::Array && self.number > 0 && separators == 0 => separators = 1,
                        b'{' if self.shape != Shape::Closed => {
                            if self.shape == Shape::Unknown {
                                self.shape = Shape::Sequence;
                            }
                            if separators != u32::from(self.shape == Shape::Array && self.number > 0) {
                                return Err(syntax("a comma is missing before it"));
                            }
                            depth = 1;
                            text.push(byte);
                        }
                        _ => return Err(syntax("an object was expected")),
                    }
                    continue;
                }
                used += 1;
                if text.len() == text.capacity() {
                    grow(&mut text);
                }
                text.push(byte);
                if in_string {
                    (in_string, escaped) = match byte {
                        _ if escaped => (true, false),
                        b'\\' => (true, true),
                        b'"' => (false, false),
                        _ => (true, false),
                    };
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        ended = true;
                        break;
                    }
                }
            }
            self.input.consume(used);
            if text.len() > MAX_DOCUMENT {
                return Err(syntax("the document is over 16 MiB"));
            }
            if ended {
                self.number = number;
                let bytes = std::mem::take(&mut *text);
                return match String::from_utf8(bytes) {
                    Ok(text) => Ok(Some(Zeroizing::new(text))),
                    Err(error) => {
                        error.into_bytes().zeroize();
                        Err(syntax("not UTF-8"))
                    }
                };
            }
        }
    }
}

/// Doubles a buffer and wipes the old one, which `Vec` would leave behind.
fn grow(text: &mut Zeroizing<Vec<u8>>) {
    let mut larger = Zeroizing::new(Vec::with_capacity((text.capacity() * 2).max(1024)));
    larger.extend_from_slice(text);
    *text = larger;
}

impl<R: BufRead> Iterator for Documents<R> {
    type Item = Result<Zeroizing<String>, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_document().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Result<Vec<String>, String> {
        // A small buffer, so that documents cross its edges.
        Documents::new(io::BufReader::with_capacity(3, text.as_bytes()))
            .map(|document| document.map(|text| text.to_string()).map_err(|error| error.to_string()))
            .collect()
    }

    #[test]
    fn lines_sequences_and_arrays_give_the_same_documents() {
        let documents = [r#"{"a":"}{\"[\\"}"#, r#"{"b":[{"c":{}},[1]]}"#, "{}"];
        for text in [documents.join("\n"), documents.concat(), format!(" [ {} ] ", documents.join(" , "))] {
            assert_eq!(cut(&text).unwrap(), documents, "{text}");
        }
        assert!(cut("").unwrap().is_empty());
        assert!(cut(" [ ] ").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_documents_is_refused_with_the_number_of_the_one_at_fault() {
        for (text, says) in [
            ("{} 3", "document 2: an object was expected"),
            ("[{}", "document 2: the array does not end"),
            ("[{} {}]", "document 2: a comma is missing"),
            ("[{},]", "document 2: an object was expected"),
            ("[,{}]", "document 1: an object was expected"),
            ("[{}] {}", "document 2: an object was expected"),
            ("{\"a\":", "document 1: the document does not end"),
            ("{},{}", "document 2: an object was expected"),
            ("nonsense", "document 1: an object was expected"),
        ] {
            let error = cut(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
