//! `audit show|verify`: the audit log of a master or an agent, from its files.
//!
//! No command calls a cluster: the files are on the host of their process, or copied from there.

use std::io::{self, Write as _};
use std::path::PathBuf;

use argosy_host::audit::{
    self, AuditEntry, AuditEvent, AuditLine, AuditRead, Break, BreakReason, ChainValue, rfc3339,
};
use argosy_proto::clock::WallClock;
use clap::{Args, Subcommand};

use super::ObjectCommand;
use crate::args::OutputArguments;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::output::{note, visible_line};
use crate::parsers::{self, PointInTime};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show lines of an audit log
    #[command(after_help = "Examples:
  argosy audit show --since 1h /var/lib/argosy/master/audit
  argosy audit show --event exec --principal operator/alice --json /var/lib/argosy/agent/audit

The lines are not verified. A line may stand for several refusals, whose number it shows.")]
    Show(AuditShow),
    /// Verify that no line of an audit log was changed, removed, inserted or moved
    #[command(after_help = "Examples:
  argosy audit verify /var/lib/argosy/master/audit
  argosy audit verify /srv/copies/audit-0000000007.log /srv/copies/audit-0000000008.log

The exit code is 1 at the first break, which is named with its file and line. The files alone do not
show that lines at their end were removed, or that all lines were written again. Note the chain
value of argosy audit show --head on another host, and compare it with --head.")]
    Verify(AuditVerify),
}

#[derive(Debug, Args)]
pub(crate) struct AuditShow {
    /// Directory of the log, as DATA-DIR/audit, or files of it
    #[arg(required = true, value_name = "DIR|FILE")]
    places: Vec<PathBuf>,
    /// Show only lines since this time: 90s, 10m, 2h or 7d ago, or a time as 2026-11-27T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parsers::point_in_time)]
    since: Option<PointInTime>,
    /// Show only lines of this caller, as operator/alice or unauthenticated
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Show only lines of this event, as exec or call-refused; may be repeated
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<AuditEvent>,
    /// Show only the chain value of the last line, to note it elsewhere
    #[arg(long, conflicts_with_all = ["since", "principal", "events", "json"])]
    head: bool,
    /// Show the lines as they are in the files: JSON objects
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerify {
    /// Directory of the log, as DATA-DIR/audit, or files of it
    #[arg(required = true, value_name = "DIR|FILE")]
    places: Vec<PathBuf>,
    /// Chain value that was noted before, and that a line must have
    #[arg(long, value_name = "CHAIN")]
    head: Option<ChainValue>,
}

impl ObjectCommand for AuditCommand {
    const ABOUT: &str = "Audit logs of masters and agents: show, verify";
    const EXAMPLES: &str = "Examples:
  argosy audit show --since 1h /var/lib/argosy/master/audit
  argosy audit verify /var/lib/argosy/master/audit";

    fn run(&self) -> VerbResult {
        match self {
            Self::Show(arguments) => show(arguments),
            Self::Verify(arguments) => verify(arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        None
    }
}

fn failure(broken: &Break) -> Failure {
    if broken.reason == BreakReason::NoFiles {
        return Failure::new(FailureCode::NotFound, broken.to_string())
            .advise("name the directory of a log, as /var/lib/argosy/master/audit");
    }
    Failure::failed(broken.to_string())
}

fn verify(arguments: &AuditVerify) -> VerbResult {
    let verified = audit::verify(&arguments.places, arguments.head, |_| ());
    let verified = verified.map_err(|broken| failure(&broken))?;
    let plural = if verified.files == 1 { "" } else { "s" };
    note(&format!(
        "{} lines in {} file{plural} follow from each other; the last one is {} with the chain value {}",
        verified.lines, verified.files, verified.serial, verified.head
    ));
    Ok(DONE)
}

impl AuditShow {
    fn picks(&self, entry: &AuditEntry, since_ms: Option<i64>) -> bool {
        let principal = self.principal.as_ref();
        since_ms.is_none_or(|since| entry.at_ms >= since)
            && principal
                .is_none_or(|wanted| entry.principal == *wanted || entry.on_behalf_of == *wanted)
            && (self.events.is_empty() || self.events.contains(&entry.event))
    }
}

fn show(arguments: &AuditShow) -> VerbResult {
    let now_ms = WallClock::system().now_ms();
    let since_ms = arguments.since.map(|since| since.wall_ms(now_ms));
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut last, mut broken) = (None, Vec::new());
    let mut written = Ok(());
    let read = audit::read(&arguments.places, |read| match read {
        AuditRead::Line(line, text, chain) => {
            last = Some(chain);
            if written.is_ok() && !arguments.head && arguments.picks(&line.entry, since_ms) {
                let text = if arguments.json { text } else { shown(&line) };
                written = writeln!(out, "{text}");
            }
        }
        AuditRead::Broken(one) => broken.push(one),
    });
    read.map_err(|broken| failure(&broken))?;
    if let (true, Some(last)) = (arguments.head, last) {
        written = writeln!(out, "{last}");
    }
    let written = written.and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(Failure::of(&error));
    }
    match broken.first() {
        None => Ok(DONE),
        Some(first) => Err(Failure::failed(format!(
            "{} lines are not shown, since they are none of an audit log; the first one: {first}",
            broken.len()
        ))),
    }
}

/// Returns a line for people: time, event, caller, action, object, outcome.
fn shown(AuditLine { entry, file, .. }: &AuditLine) -> String {
    let mut words = vec![rfc3339(entry.at_ms), format!("{:<18}", entry.event)];
    if let Some(file) = file {
        words.push(format!("file {}", file.number));
    }
    let user = entry.user.map(|user| format!("user {user}"));
    let peer = entry.peer.map(|peer| format!("from {peer}"));
    let named = |name: &str, text: &str| (!text.is_empty()).then(|| format!("{name} {text}"));
    let many = (entry.count > 1).then(|| format!("({} times)", entry.count));
    let parts = [
        (!entry.principal.is_empty()).then(|| entry.principal.clone()),
        named("for", &entry.on_behalf_of),
        user,
        peer,
        named("action", &entry.action),
        named("object", &entry.object),
        named("outcome", &entry.outcome),
        named("request", &entry.request_id),
        many,
    ];
    words.extend(parts.into_iter().flatten());
    // Callers choose some of the texts.
    visible_line(&words.join(" "))
}

#[cfg(test)]
mod tests;
