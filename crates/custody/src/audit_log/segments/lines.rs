//! Lines of bounded length, and what a crash left after the last of them.

use std::io::{self, BufRead, Read as _};

use keyfold_core::audit::MAX_LINE;

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::audit_log) enum Line<'a> {
    /// A line, without its newline. One over the limit comes in pieces, none of which is an event.
    Whole(&'a [u8]),
    /// The end, and how many bytes stand after the last newline.
    End(u64),
}

/// Reads lines into one buffer.
#[derive(Debug)]
pub(in crate::audit_log) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(in crate::audit_log) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    pub(in crate::audit_log) fn next(&mut self) -> io::Result<Line<'_>> {
        self.buffer.clear();
        let limit = MAX_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)? as u64;
        Ok(match self.buffer.strip_suffix(b"\n") {
            Some(line) => Line::Whole(line),
            None if read == limit => Line::Whole(&self.buffer),
            None => Line::End(read),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_a_torn_end_come_apart() {
        let mut lines = Lines::new(&b"a\n\nbc"[..]);
        assert_eq!(lines.next().unwrap(), Line::Whole(b"a"));
        assert_eq!(lines.next().unwrap(), Line::Whole(b""));
        assert_eq!(lines.next().unwrap(), Line::End(2));
        assert_eq!(lines.next().unwrap(), Line::End(0));
    }

    #[test]
    fn a_line_without_end_is_read_in_bounded_pieces() {
        let long = vec![b'x'; MAX_LINE * 3];
        let mut lines = Lines::new(&long[..]);
        let Line::Whole(piece) = lines.next().unwrap() else { panic!() };
        assert_eq!(piece.len(), MAX_LINE + 1);
    }
}
