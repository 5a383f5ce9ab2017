//! `keyfold keys maintain`: rotation by the clock, in a process that stays or in one that a timer starts.

use std::time::Duration;

use keyfold_custody::{
    jobs::Silent,
    keys::maintain::{Inline, Schedule, Step},
};

use crate::{
    failure::{Exit, Failure, one_line},
    folder::Opened,
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// How long a key seals: a number and s, m, h or d
    #[arg(long, value_name = "PERIOD", default_value = "90d", value_parser = period)]
    every: Duration,
    /// Do what is due and end, for cron and timers; without it the command stays
    #[arg(long)]
    once: bool,
    /// Seconds to wait for other processes at each step
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

/// Not a period.
#[derive(Debug, thiserror::Error)]
#[error("a period is a number and s, m, h or d, for example 90d, and at least one second")]
pub(super) struct NotAPeriod;

fn period(text: &str) -> Result<Duration, NotAPeriod> {
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(NotAPeriod),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| NotAPeriod)?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or(NotAPeriod)
}

pub(super) async fn run(args: &Args, opened: &Opened, invocation: &Invocation) -> Result<Exit, Failure> {
    let schedule = Schedule { period: args.every, wait: Duration::from_secs(args.wait) };
    let _graceful = invocation.stop().graceful();
    preflight(opened, invocation).await?;
    let mover = Inline { custody: &opened.custody, permit: opened.permit()?, observer: &Silent::default() };
    loop {
        match opened.custody.maintain(&opened.permit()?, schedule, &mover).await {
            Ok(steps) => {
                for step in &steps {
                    say(step, invocation)?;
                }
                if args.once {
                    return Ok(if steps.iter().all(Step::is_clean) { Exit::Done } else { Exit::RecordsLeft });
                }
            }
            Err(error) if args.once => return Err(error.into()),
            // What fails now may work at the next look; the key that seals goes on sealing meanwhile.
            Err(error) => invocation.warn(&error.to_string()),
        }
        if sleep(schedule.pause(), invocation).await {
            return Ok(Exit::Done);
        }
    }
}

/// Waits for the next look. Says whether somebody asked to stop.
async fn sleep(wait: Duration, invocation: &Invocation) -> bool {
    let until = tokio::time::Instant::now() + wait;
    while tokio::time::Instant::now() < until {
        if invocation.stop().requested() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    invocation.stop().requested()
}

/// Says at the start what the keyring opens of what is stored.
async fn preflight(opened: &Opened, invocation: &Invocation) -> Result<(), Failure> {
    let looked = opened.custody.preflight(200).await?;
    if looked.is_clean() {
        invocation.hint(&looked.to_string());
    } else {
        invocation.warn(&looked.to_string());
    }
    Ok(())
}

fn say(step: &Step, invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return output::json(step);
    }
    output::line(&one_line(&step.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_number_and_its_unit() {
        assert_eq!(period("90d").unwrap().as_secs(), 90 * 86_400);
        assert_eq!(period("2s").unwrap().as_secs(), 2);
        for text in ["", "90", "d", "0d", "-1d", "1w", "99999999999999999999d", "1.5h"] {
            assert!(period(text).is_err(), "{text}");
        }
    }
}
