//! Captured log lines, for tests.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::dispatcher::Dispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Level, Metadata, Subscriber};

/// A log writer that keeps each line that is logged by default: its level, and its fields.
#[derive(Debug, Clone)]
pub struct Log(pub Arc<Mutex<Vec<String>>>);

impl Default for Log {
    fn default() -> Self {
        // With a single subscriber, tracing asks only the thread that reaches a statement first
        // whether anybody wants its lines, and disables the statement if that thread has none.
        static OTHER: OnceLock<Dispatch> = OnceLock::new();
        OTHER.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        Self(Arc::default())
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Values<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warn() {
        tracing::warn!("a line");
    }

    #[test]
    fn lines_are_captured_although_another_thread_reached_their_statement_first() {
        let log = Log::default();
        let lines = Arc::clone(&log.0);
        tracing::subscriber::with_default(log, || {
            std::thread::spawn(warn).join().unwrap();
            warn();
        });
        assert_eq!(*lines.lock().unwrap(), ["WARN message=a line"]);
    }
}
