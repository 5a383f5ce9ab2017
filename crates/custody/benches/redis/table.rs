//! What was measured, round by round, and its lines at the end.

use std::{future::Future, time::Instant};

/// The measurements of one run.
pub(crate) struct Table {
    records: usize,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    seconds: Vec<f64>,
    /// The bare loop's time of the same round over this one.
    ratios: Vec<f64>,
}

impl Table {
    pub(crate) const fn of(records: usize) -> Self {
        Self { records, rows: Vec::new() }
    }

    /// Times what must come by every record once; gives the seconds. `bare` is what the bare loop took in this round.
    pub(crate) async fn timed(
        &mut self,
        name: &'static str,
        bare: Option<f64>,
        work: impl Future<Output = usize>,
    ) -> f64 {
        let started = Instant::now();
        assert_eq!(work.await, self.records, "{name} did not come by every record once");
        let seconds = started.elapsed().as_secs_f64();
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name, seconds: Vec::new(), ratios: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[at].seconds.push(seconds);
        self.rows[at].ratios.extend(bare.map(|bare| bare / seconds));
        seconds
    }

    pub(crate) fn print(mut self) {
        println!("{:<44} {:>8} {:>11} {:>7}", "", "seconds", "records/s", "ratio");
        for Row { name, seconds, ratios } in &mut self.rows {
            let middle = median(seconds);
            let ratio = if ratios.is_empty() {
                String::new()
            } else {
                let middle = median(ratios);
                format!("{middle:>7.2}  ({:.2} to {:.2})", ratios[0], ratios[ratios.len() - 1])
            };
            println!("{name:<44} {middle:>8.2} {:>11.0} {ratio}", self.records as f64 / middle);
        }
    }
}

/// Sorts them, too.
fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
