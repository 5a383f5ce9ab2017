//! What goes out. Stdout carries data and is written here only; what is said beside it goes to stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes bytes to stdout as they are, with nothing added.
pub(crate) fn data(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
}

/// Writes one line to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::stdout(&error))
}

/// Writes one JSON value to stdout, on one line, so that several values are JSON lines.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::unavailable("the output could not be written").caused_by(&error))?;
    line(&text)
}

/// Writes rows to stdout under their headings, in columns as wide as what stands in them.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    data(columns(headings, rows).as_bytes())
}

fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    let head: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        out += crate::failure::one_line(&cells.join("  ")).trim_end();
        out.push('\n');
    }
    out
}

/// Writes to stderr. If nobody can read it there, nobody can be told.
pub(crate) fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them_and_lines_do_not_end_in_spaces() {
        let rows = [vec!["a1".to_owned(), "primary".to_owned()], vec!["b".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&["KEY", "STATE"], &rows), "KEY  STATE\na1   primary\nb    x\n");
    }
}
