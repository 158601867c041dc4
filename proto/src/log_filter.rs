//! The filter of this process's log, and its change while the process runs.
//!
//! The log writer belongs to the process, so its filter does too: members of a cluster that run in
//! one process share it.

use std::sync::{Mutex, OnceLock, PoisonError};

/// Maximum length of a filter, in bytes.
pub const MAX_BYTES: usize = 1_024;

/// Replaces the filter of the log writer; fails with the reason if it is malformed.
type Setter = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

struct LogFilter {
    // Held while the filter is replaced: each change reports the one before it.
    present: Mutex<String>,
    set: Setter,
}

static FILTER: OnceLock<LogFilter> = OnceLock::new();

/// The filter, and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterChange {
    /// The present filter.
    pub filter: String,
    /// The filter before the change; the same if there was none.
    pub former: String,
}

/// The reason why the filter does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// This process has no log writer with a filter.
    #[error("the log of this process has no filter that can be changed")]
    Fixed,
    /// The filter is longer than [`MAX_BYTES`].
    #[error("the filter takes {0} bytes; at most {MAX_BYTES}")]
    TooLong(usize),
    /// The filter cannot be read.
    #[error(
        "{filter:?} is not a filter: {why}; write a level or modules with levels, as info or argosy_master=debug,info"
    )]
    Malformed {
        /// The filter.
        filter: String,
        /// The reason.
        why: String,
    },
}

/// Registers the log writer of this process, which has this filter. Only the first call has an
/// effect.
pub fn install(filter: &str, set: Setter) {
    // Later ones are ignored.
    let _ = FILTER.set(LogFilter {
        present: Mutex::new(filter.to_owned()),
        set,
    });
}

/// Changes the filter until this process ends, and logs in one line that `actor` does so. Without a
/// new filter, returns the present one.
///
/// # Errors
/// If nothing changes.
pub fn change(filter: Option<&str>, actor: &str) -> Result<FilterChange, FilterError> {
    let known = FILTER.get().ok_or(FilterError::Fixed)?;
    known.change(filter, actor)
}

impl LogFilter {
    fn change(&self, filter: Option<&str>, actor: &str) -> Result<FilterChange, FilterError> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let former = present.clone();
        let Some(filter) = filter else {
            return Ok(FilterChange {
                filter: former.clone(),
                former,
            });
        };
        if filter.len() > MAX_BYTES {
            return Err(FilterError::TooLong(filter.len()));
        }
        let malformed = |why| FilterError::Malformed {
            filter: filter.to_owned(),
            why,
        };
        if filter.trim().is_empty() {
            return Err(malformed("it is empty".to_owned()));
        }
        // Either filter may hide the line: it is logged before, unless the present one hides it.
        let is_shown_before = tracing::enabled!(tracing::Level::WARN);
        let log = || tracing::warn!(former, filter, actor, "changing the log filter");
        if is_shown_before {
            log();
        }
        (self.set)(filter).map_err(malformed)?;
        if !is_shown_before {
            log();
        }
        filter.clone_into(&mut present);
        Ok(FilterChange {
            filter: filter.to_owned(),
            former,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::subscriber::Interest;
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// A log that counts its lines, or hides them.
    #[derive(Default)]
    struct CountingLog {
        hides: AtomicBool,
        lines: AtomicUsize,
    }

    impl Subscriber for CountingLog {
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }

        fn enabled(&self, _: &Metadata<'_>) -> bool {
            !self.hides.load(Ordering::SeqCst)
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.lines.fetch_add(1, Ordering::SeqCst);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_change_is_one_line_whichever_filter_hides_it() {
        for (hidden_before, hidden_after, expected) in [
            (false, false, 1),
            (false, true, 1),
            (true, false, 1),
            (true, true, 0),
        ] {
            let log = Arc::new(CountingLog::default());
            log.hides.store(hidden_before, Ordering::SeqCst);
            let changed = log.clone();
            let filter = LogFilter {
                present: Mutex::new("info".to_owned()),
                set: Box::new(move |_| {
                    changed.hides.store(hidden_after, Ordering::SeqCst);
                    Ok(())
                }),
            };
            let change = || filter.change(Some("debug"), "operator/alice").unwrap();
            tracing::subscriber::with_default(log.clone(), change);
            let lines = log.lines.load(Ordering::SeqCst);
            assert_eq!(lines, expected, "{hidden_before} {hidden_after}");
        }
    }

    fn filter() -> LogFilter {
        LogFilter {
            present: Mutex::new("info".to_owned()),
            set: Box::new(|filter| match filter {
                "broken[" => Err("no end".to_owned()),
                _ => Ok(()),
            }),
        }
    }

    #[test]
    fn a_change_reports_the_former_filter() {
        let filter = filter();
        let change = |wanted| filter.change(wanted, "operator/alice");
        let changed = |filter: &str, former: &str| {
            Ok(FilterChange {
                filter: filter.to_owned(),
                former: former.to_owned(),
            })
        };
        assert_eq!(change(Some("debug")), changed("debug", "info"));
        assert_eq!(change(None), changed("debug", "debug"));
        assert_eq!(change(Some("warn")), changed("warn", "debug"));
    }

    #[test]
    fn a_malformed_filter_changes_nothing_and_is_named() {
        let filter = filter();
        for (wanted, expected) in [
            ("broken[", "\"broken[\" is not a filter: no end"),
            (" ", "it is empty"),
            (&"x".repeat(MAX_BYTES + 1), "1025 bytes; at most 1024"),
        ] {
            let why = filter.change(Some(wanted), "").unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
        assert_eq!(filter.change(None, "").unwrap().filter, "info");
    }
}
