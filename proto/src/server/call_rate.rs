//! Rates of calls: the token bucket, in integers and with time as an argument, and the bucket of a
//! connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argosy_state::access::RateLimit;
use tokio::time::Instant;

/// One call, in the unit in which a bucket counts: a billionth of a call. So one nanosecond adds
/// as many units as there are calls a second, without a rounding error.
const CALL: u64 = 1_000_000_000;

/// A token bucket. It holds at most `burst` calls, each call takes one, and `calls_per_second` are
/// added in a second. So in any time `t`, at most `burst + calls_per_second * t` calls are
/// admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// What it holds, in units of [`CALL`].
    held: u64,
    /// Nanoseconds at which it held that.
    at: u64,
}

fn capacity(rate: RateLimit) -> u64 {
    u64::from(rate.burst) * CALL
}

impl TokenBucket {
    /// Returns a full bucket. `now` is in nanoseconds of a clock that never goes back.
    #[must_use]
    pub fn full(rate: RateLimit, now: u64) -> Self {
        Self {
            held: capacity(rate),
            at: now,
        }
    }

    /// Returns a bucket that was empty at this time.
    #[must_use]
    pub fn empty(at: u64) -> Self {
        Self { held: 0, at }
    }

    /// Takes one call.
    ///
    /// # Errors
    /// The nanoseconds after which the next call is admitted, if none is left.
    pub fn take(&mut self, rate: RateLimit, now: u64) -> Result<(), u64> {
        self.refill(rate, now);
        if self.held >= CALL {
            self.held -= CALL;
            return Ok(());
        }
        let is_ever = rate.calls_per_second > 0 && rate.burst > 0;
        let missing = CALL - self.held;
        Err(match is_ever {
            true => missing.div_ceil(u64::from(rate.calls_per_second)),
            false => u64::MAX,
        })
    }

    /// Returns whether it is full: then it is the same as a new one.
    #[must_use]
    pub fn is_full(&self, rate: RateLimit, now: u64) -> bool {
        let mut later = *self;
        later.refill(rate, now);
        later.held >= capacity(rate)
    }

    fn refill(&mut self, rate: RateLimit, now: u64) {
        let passed = now.saturating_sub(self.at);
        let added = passed.saturating_mul(u64::from(rate.calls_per_second));
        self.held = self.held.saturating_add(added).min(capacity(rate));
        self.at = self.at.max(now);
    }
}

/// The calls of one connection; an extension of its requests. Clones share it.
#[derive(Debug, Clone)]
pub struct ConnectionCalls(Arc<ConnectionBucket>);

#[derive(Debug)]
struct ConnectionBucket {
    opened: Instant,
    bucket: Mutex<Option<TokenBucket>>,
}

impl ConnectionCalls {
    /// Returns the calls of a connection that opens now: none yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(ConnectionBucket {
            opened: Instant::now(),
            bucket: Mutex::default(),
        }))
    }

    /// Takes one call of the connection.
    ///
    /// # Errors
    /// The time after which its next call is admitted.
    pub fn take(&self, rate: RateLimit) -> Result<(), Duration> {
        let now = u64::try_from(self.0.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The arithmetic does not panic, and a bucket is consistent at all times.
        let mut bucket = self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket.get_or_insert(TokenBucket::full(rate, now));
        bucket.take(rate, now).map_err(Duration::from_nanos)
    }
}

impl Default for ConnectionCalls {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    const RATE: RateLimit = RateLimit {
        calls_per_second: 7,
        burst: 20,
    };

    /// Takes as many calls as there are.
    fn drain(bucket: &mut TokenBucket, rate: RateLimit, now: u64) -> u64 {
        std::iter::repeat_with(|| bucket.take(rate, now))
            .take_while(Result::is_ok)
            .count() as u64
    }

    #[test]
    fn a_bucket_admits_its_burst_and_then_its_rate_exactly() {
        let mut bucket = TokenBucket::full(RATE, 0);
        assert_eq!(drain(&mut bucket, RATE, 0), 20);
        // Seven a second do not divide a second: nothing is lost over an hour.
        let mut admitted = 0;
        for step in 1..=360_000_u64 {
            admitted += drain(&mut bucket, RATE, step * SECOND / 100);
        }
        assert_eq!(admitted, 7 * 3_600);
        // After a long pause it holds its burst, not more.
        assert_eq!(drain(&mut bucket, RATE, u64::MAX), 20);
    }

    #[test]
    fn a_refusal_names_the_time_of_the_next_call() {
        let mut bucket = TokenBucket::empty(SECOND);
        let wait = bucket.take(RATE, SECOND).unwrap_err();
        assert_eq!(wait, SECOND.div_ceil(7));
        assert_eq!(bucket.take(RATE, SECOND + wait - 1), Err(1));
        assert_eq!(bucket.take(RATE, SECOND + wait), Ok(()));
        let never = RateLimit {
            calls_per_second: 0,
            burst: 0,
        };
        assert_eq!(bucket.take(never, u64::MAX), Err(u64::MAX));
    }

    /// In no window of time more than the burst and the rate of the window are admitted.
    #[test]
    fn any_window_is_bounded() {
        let mut bucket = TokenBucket::full(RATE, 0);
        let mut times = Vec::new();
        let (mut now, mut random) = (0_u64, 1_u64);
        for _ in 0..5_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            now += (random >> 33) % (SECOND / 3);
            if bucket.take(RATE, now).is_ok() {
                times.push(now);
            }
        }
        for (first, start) in times.iter().enumerate() {
            for (last, end) in times.iter().enumerate().skip(first) {
                let admitted = (last - first + 1) as u64;
                let most = 20 * SECOND + 7 * (end - start);
                assert!(admitted * SECOND <= most, "{start} to {end}");
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_adds_nothing() {
        let mut bucket = TokenBucket::empty(10 * SECOND);
        assert!(bucket.take(RATE, SECOND).is_err());
        assert!(bucket.take(RATE, 10 * SECOND).is_err());
        assert_eq!(drain(&mut bucket, RATE, 11 * SECOND), 7);
    }

    #[test]
    fn a_lower_limit_applies_to_what_is_left() {
        let mut bucket = TokenBucket::full(RATE, 0);
        let low = RateLimit {
            calls_per_second: 1,
            burst: 2,
        };
        assert!(bucket.is_full(low, 0));
        assert_eq!(drain(&mut bucket, low, 0), 2);
        assert!(!bucket.is_full(RATE, 0));
    }
}
