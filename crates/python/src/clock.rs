//! The time, asked of the system here and nowhere else.

use std::time::UNIX_EPOCH;

use keyfold_core::clock::UnixTime;

/// Now.
#[expect(clippy::disallowed_methods, reason = "this is the composition root: everything else takes the time")]
pub(crate) fn now() -> UnixTime {
    // A clock before 1970 reads as 1970: then every last day is still ahead, and every token is from the future.
    UnixTime(std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
