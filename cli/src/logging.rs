//! Logs of the services, on standard error for systemd or a file.
//!
//! A line that concerns a request ends with its id, from `argosy_proto::trace`. Spans would cost
//! each request some allocations, whether or not a line is written.

use std::fmt;
use std::io::IsTerminal;

use argosy_proto::log_filter;
use argosy_proto::trace::{self, TraceContext};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use crate::args::{LogFormat, Logging};
use crate::exit::Failure;
use crate::output::erased_stderr;

/// Installs the log writer of this process, once.
pub(crate) fn install(logging: &Logging) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&logging.log).map_err(|error| {
        Failure::usage(format!("--log {:?} is not a filter: {error}", logging.log))
            .advise("write a level or modules with levels, as info or argosy_master=debug,info")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(erased_stderr);
    match logging.log_format {
        LogFormat::Text => {
            let lines = format::format().with_ansi(std::io::stderr().is_terminal());
            let builder = builder.event_format(TracedLines::text(lines));
            let builder = builder.with_filter_reloading();
            make_changeable(builder.reload_handle(), &logging.log);
            builder.init();
        }
        LogFormat::Json => {
            let lines = format::format().json().flatten_event(true);
            let builder = builder.fmt_fields(JsonFields::new());
            let builder = builder.event_format(TracedLines::json(lines));
            let builder = builder.with_filter_reloading();
            make_changeable(builder.reload_handle(), &logging.log);
            builder.init();
        }
    }
    Ok(())
}

/// Lets callers of the API change the filter.
fn make_changeable<S: 'static>(handle: reload::Handle<EnvFilter, S>, filter: &str) {
    let set = move |filter: &str| {
        // Without regular expressions, which may be expensive.
        let parsed = EnvFilter::builder().with_regex(false).parse(filter);
        let parsed = parsed.map_err(|why| why.to_string())?;
        handle.reload(parsed).map_err(|why| why.to_string())
    };
    log_filter::install(filter, Box::new(set));
}

/// Lines with the id of the request as their last field.
struct TracedLines<F> {
    lines: F,
    is_json: bool,
}

impl<F> TracedLines<F> {
    fn text(lines: F) -> Self {
        let is_json = false;
        Self { lines, is_json }
    }

    fn json(lines: F) -> Self {
        let is_json = true;
        Self { lines, is_json }
    }
}

impl<S, N, F> FormatEvent<S, N> for TracedLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(id) = trace::current().map(TraceContext::id) else {
            return self.lines.format_event(context, writer, event);
        };
        let mut line = String::new();
        let inner = Writer::new(&mut line);
        self.lines.format_event(context, inner, event)?;
        let line = line.trim_end_matches('\n');
        if !self.is_json {
            return writeln!(writer, "{line} trace_id={id}");
        }
        let object = line.strip_suffix('}').unwrap_or(line);
        writeln!(writer, "{object},\"trace_id\":\"{id}\"}}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use argosy_proto::trace::TraceIds;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines of an event with and without a request.
    fn lines(
        subscriber: impl FnOnce(Written) -> tracing::Dispatch,
        context: TraceContext,
    ) -> Vec<String> {
        let written = Written::default();
        let subscriber = subscriber(written.clone());
        tracing::dispatcher::with_default(&subscriber, || {
            trace::within(Some(context), || {
                tracing::warn!(task = "a\nb}", "it is late");
            });
            tracing::warn!("without a request");
        });
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_a_request_end_with_its_id() {
        let context = TraceIds::new(5).next();
        let id = context.id().to_string();
        let text = |written: Written| {
            let builder = tracing_subscriber::fmt()
                .with_writer(move || written.clone())
                .event_format(TracedLines::text(format::format().with_ansi(false)));
            builder.finish().into()
        };
        let seen = lines(text, context);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].ends_with(&format!(" trace_id={id}")), "{seen:?}");
        assert!(seen[1].ends_with("without a request"), "{seen:?}");
        let json = |written: Written| {
            let builder = tracing_subscriber::fmt()
                .with_writer(move || written.clone())
                .fmt_fields(JsonFields::new())
                .event_format(TracedLines::json(
                    format::format().json().flatten_event(true),
                ));
            builder.finish().into()
        };
        let seen = lines(json, context);
        assert_eq!(seen.len(), 2, "{seen:?}");
        let parsed: Vec<serde_json::Value> = seen
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(parsed[0]["trace_id"], id);
        assert_eq!(parsed[0]["task"], "a\nb}");
        assert!(parsed[1].get("trace_id").is_none());
    }
}
