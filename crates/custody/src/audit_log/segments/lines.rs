//! Lines of bounded length, and what a crash left after the last of them. Where a zero stands, a segment ends.

use std::{
    fs::File,
    io::{self, BufRead, Read as _},
    os::unix::fs::FileExt as _,
};

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
    over: bool,
}

impl<R: BufRead> Lines<R> {
    pub(in crate::audit_log) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), over: false }
    }

    pub(in crate::audit_log) fn next(&mut self) -> io::Result<Line<'_>> {
        if self.over {
            return Ok(Line::End(0));
        }
        self.buffer.clear();
        let limit = MAX_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)? as u64;
        if let Some(zero) = memchr::memchr(0, &self.buffer) {
            self.over = true;
            return Ok(Line::End(zero as u64));
        }
        Ok(match self.buffer.strip_suffix(b"\n") {
            Some(line) => Line::Whole(line),
            None if read == limit => Line::Whole(&self.buffer),
            None => Line::End(read),
        })
    }
}

/// How long a segment is, without the zeros behind its lines.
pub(in crate::audit_log) fn length(file: &File) -> io::Result<u64> {
    let is_zero = |at: u64| {
        let mut byte = [1];
        // What was cut off meanwhile was none of the lines.
        Ok::<_, io::Error>(file.read_at(&mut byte, at)? == 0 || byte == [0])
    };
    let (mut from, mut to) = (0, file.metadata()?.len());
    if to == 0 || !is_zero(to - 1)? {
        return Ok(to);
    }
    while from < to {
        let middle = from.midpoint(to);
        if is_zero(middle)? {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    Ok(from)
}

/// How long a segment is up to its last whole line: what a crash left behind that is nobody's event.
pub(in crate::audit_log) fn whole_lines(file: &File) -> io::Result<u64> {
    let mut end = length(file)?;
    let mut bytes = vec![0; 4096];
    // Nearly always the last byte is the one.
    let mut look = 1;
    while end > 0 {
        let from = end.saturating_sub(look);
        let piece = &mut bytes[..usize::try_from(end - from).unwrap_or_default()];
        file.read_exact_at(piece, from)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(from + at as u64 + 1);
        }
        (end, look) = (from, 4096);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
    fn a_segment_ends_where_zeros_begin() {
        for (text, last) in [("a\nb\n", 0), ("a\nb\ncd", 2)] {
            for zeros in [0, 1, 10, 20_000] {
                let bytes = [text.as_bytes(), &vec![0; zeros]].concat();
                let mut lines = Lines::new(&bytes[..]);
                assert_eq!(lines.next().unwrap(), Line::Whole(b"a"));
                assert_eq!(lines.next().unwrap(), Line::Whole(b"b"));
                assert_eq!(lines.next().unwrap(), Line::End(last), "{text:?} and {zeros}");
                assert_eq!(lines.next().unwrap(), Line::End(0));
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&bytes).unwrap();
                assert_eq!(length(&file).unwrap(), text.len() as u64, "{text:?} and {zeros}");
                assert_eq!(whole_lines(&file).unwrap(), 4, "{text:?} and {zeros}");
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!((length(&file).unwrap(), whole_lines(&file).unwrap()), (0, 0));
        file.write_all(&[b'x'; 9000]).unwrap();
        assert_eq!(whole_lines(&file).unwrap(), 0);
        file.write_at(b"\n", 100).unwrap();
        assert_eq!(whole_lines(&file).unwrap(), 101);
    }

    #[test]
    fn a_line_without_end_is_read_in_bounded_pieces() {
        let long = vec![b'x'; MAX_LINE * 3];
        let mut lines = Lines::new(&long[..]);
        let Line::Whole(piece) = lines.next().unwrap() else { panic!() };
        assert_eq!(piece.len(), MAX_LINE + 1);
    }
}
