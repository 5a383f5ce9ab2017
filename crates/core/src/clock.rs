//! Time comes in through this trait; the core never asks a clock by itself.

/// Seconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The day this moment falls on, in UTC. Moments after the year 9999 are clamped to its end.
    #[must_use]
    pub fn date(self) -> jiff::civil::Date {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        jiff::tz::Offset::UTC.to_datetime(at).date()
    }
}

impl std::fmt::Display for UnixTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        write!(f, "{}", jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixTime;
}

impl Clock for UnixTime {
    /// A clock that stands still, for tests and for callers that read the time once.
    fn now(&self) -> UnixTime {
        *self
    }
}
