//! How far a long job is: a bar where somebody watches, JSON lines where a program does, else nothing.
//!
//! All of it goes to stderr. With `--json` there is a line at the start, at the end, and at most one a second between:
//! `{"progress":{"title":…,"done":…,"total":…,"per_second":…,"seconds_left":…,"note":…,"finished":…}}`. `total` and `seconds_left`
//! are `null` while they are unknown; what is left is what this pass has before it, as fast as it went so far.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::{invocation::Invocation, output};

const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// One job's progress. Dropping it clears the bar.
pub(crate) struct Progress(Shown);

enum Shown {
    Bar(ProgressBar),
    Lines { title: String, total: Option<u64>, started: Instant, last: Mutex<Last> },
    Nothing,
}

struct Last {
    at: Instant,
    done: u64,
    note: String,
}

impl Progress {
    /// Begins. `total` is what `done` will be at the end, where that is known.
    pub(crate) fn start(invocation: &Invocation, title: &str, total: Option<u64>) -> Self {
        if invocation.json() {
            let started = Instant::now();
            let last = Mutex::new(Last { at: started, done: 0, note: String::new() });
            let progress = Self(Shown::Lines { title: title.into(), total, started, last });
            progress.line(0, "", false);
            return progress;
        }
        if invocation.quiet() || !std::io::stderr().is_terminal() {
            return Self(Shown::Nothing);
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        bar.set_style(style(total.is_some()));
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Shown::Bar(bar))
    }

    /// So many are done; `note` is a few words, and never holds anything of a record but its id.
    pub(crate) fn set(&self, done: u64, note: &str) {
        match &self.0 {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(crate::failure::printable(note));
            }
            Shown::Lines { last, .. } => {
                let due = {
                    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                    last.done = done;
                    note.clone_into(&mut last.note);
                    let due = last.at.elapsed() >= BETWEEN_LINES;
                    if due {
                        last.at = Instant::now();
                    }
                    due
                };
                if due {
                    self.line(done, note, false);
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Ends: the bar goes, the last line says so.
    pub(crate) fn finish(self) {
        if let Shown::Lines { last, .. } = &self.0 {
            let (done, note) = {
                let last = last.lock().unwrap_or_else(PoisonError::into_inner);
                (last.done, last.note.clone())
            };
            self.line(done, &note, true);
        }
    }

    fn line(&self, done: u64, note: &str, finished: bool) {
        if let Shown::Lines { title, total, started, .. } = &self.0 {
            let seconds = started.elapsed().as_secs_f64();
            let rate = if seconds > 0.0 { (done as f64 / seconds).round() } else { 0.0 };
            let left = if finished { Some(0) } else { seconds_left(done, *total, started.elapsed()) };
            let progress = json!({
                "title": title, "done": done, "total": total, "per_second": rate, "seconds_left": left, "note": note,
                "finished": finished,
            });
            output::say(&format!("{}\n", json!({ "progress": progress })));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How long the rest takes, as fast as it went so far, in whole seconds. A total that turns out to be too low tells nothing.
fn seconds_left(done: u64, total: Option<u64>, elapsed: Duration) -> Option<u64> {
    let left = u128::from(total?.checked_sub(done)?);
    let each = (done > 0).then_some(u128::from(done))?;
    u64::try_from((elapsed.as_millis() * left).div_ceil(each * 1000)).ok()
}

const BOUNDED: &str = "{prefix} [{bar:30}] {human_pos}/{human_len} {per_sec}, {eta} left  {wide_msg}";
const UNBOUNDED: &str = "{prefix} {spinner} {human_pos} {per_sec}, {elapsed}  {wide_msg}";

fn style(bounded: bool) -> ProgressStyle {
    ProgressStyle::with_template(if bounded { BOUNDED } else { UNBOUNDED })
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_known_once_something_is_done_of_a_known_total() {
        let took = Duration::from_secs(3);
        assert_eq!(seconds_left(0, Some(100), took), None);
        assert_eq!(seconds_left(50, None, took), None);
        assert_eq!(seconds_left(30, Some(100), took), Some(7));
        assert_eq!(seconds_left(33, Some(100), took), Some(7), "six and a bit");
        assert_eq!(seconds_left(100, Some(100), took), Some(0));
        assert_eq!(seconds_left(120, Some(100), took), None);
    }

    #[test]
    fn both_templates_are_ones_that_the_library_reads() {
        assert!([BOUNDED, UNBOUNDED].into_iter().all(|template| ProgressStyle::with_template(template).is_ok()));
    }
}
