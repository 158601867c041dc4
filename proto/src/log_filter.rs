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

/// Changes the filter until this process ends, and logs that `actor` did so. Without a new filter,
/// returns the present one.
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
        // At the present level, and at the next one: each may hide it.
        tracing::warn!(former, filter, actor, "the log filter is changed");
        (self.set)(filter).map_err(malformed)?;
        tracing::warn!(former, filter, actor, "the log filter was changed");
        filter.clone_into(&mut present);
        Ok(FilterChange {
            filter: filter.to_owned(),
            former,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
