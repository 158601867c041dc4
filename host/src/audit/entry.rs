//! The fields of a line: event, caller, object and outcome.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::chain::ChainValue;
use super::time;

/// Maximum length of a text in a line, in bytes of JSON. Longer ones are cut, and end with `…`.
const TEXT_BYTES: usize = 512;

/// The kind of an audited event. A closed set: a program that reads the log knows all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditEvent {
    /// A file of the log begins.
    FileBegun,
    /// The process found an incomplete line, or an unreadable file, which a crash has left.
    Recovered,
    /// Entries are missing here: the queue was full, or they could not be written or synced.
    Lost,
    /// A call was refused: the caller is not permitted, or has not proven who it is.
    CallRefused,
    /// A call was refused because of its token.
    TokenRefused,
    /// A command was run in a task, or this failed after the caller was accepted.
    Exec,
    /// A client was connected to the input and output of a task, or this failed after the caller
    /// was accepted.
    Attach,
    /// Exec or attach was refused.
    ExecRefused,
    /// Files of a task were read or listed, or this failed after the caller was accepted.
    FilesRead,
    /// The files of a task were refused.
    FilesRefused,
    /// The log filter was changed, or this failed after the caller was accepted.
    LogFilterChanged,
    /// A change of the log filter was refused.
    LogFilterRefused,
    /// Secrets of a task were sent to its agent.
    SecretSent,
    /// Tickets for the API of an agent were issued.
    TicketIssued,
    /// A copy of the whole registry was sent, or began to be sent.
    SnapshotSaved,
}

/// The text names no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no event; the events are {}", AuditEvent::ALL.map(AuditEvent::name).join(", "))]
pub struct UnknownEvent {
    /// The text.
    name: String,
}

impl AuditEvent {
    /// All events.
    pub const ALL: [Self; 15] = [
        Self::FileBegun,
        Self::Recovered,
        Self::Lost,
        Self::CallRefused,
        Self::TokenRefused,
        Self::Exec,
        Self::Attach,
        Self::ExecRefused,
        Self::FilesRead,
        Self::FilesRefused,
        Self::LogFilterChanged,
        Self::LogFilterRefused,
        Self::SecretSent,
        Self::TicketIssued,
        Self::SnapshotSaved,
    ];

    /// Returns its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FileBegun => "file-begun",
            Self::Recovered => "recovered",
            Self::Lost => "lost",
            Self::CallRefused => "call-refused",
            Self::TokenRefused => "token-refused",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::ExecRefused => "exec-refused",
            Self::FilesRead => "files-read",
            Self::FilesRefused => "files-refused",
            Self::LogFilterChanged => "log-filter-changed",
            Self::LogFilterRefused => "log-filter-refused",
            Self::SecretSent => "secret-sent",
            Self::TicketIssued => "ticket-issued",
            Self::SnapshotSaved => "snapshot-saved",
        }
    }

    /// Returns whether several such events of one caller within a second may become one line. That
    /// is so for events that a caller can cause without a limit: otherwise it could remove older
    /// lines by them.
    #[must_use]
    pub fn is_joined(self) -> bool {
        match self {
            Self::CallRefused
            | Self::TokenRefused
            | Self::ExecRefused
            | Self::FilesRead
            | Self::FilesRefused
            | Self::LogFilterRefused
            | Self::TicketIssued => true,
            Self::FileBegun
            | Self::Recovered
            | Self::Lost
            | Self::Exec
            | Self::Attach
            | Self::LogFilterChanged
            | Self::SecretSent
            | Self::SnapshotSaved => false,
        }
    }

    /// Returns whether a call was refused. Every caller can cause that, also one that may do
    /// nothing.
    pub(super) fn is_refusal(self) -> bool {
        match self {
            Self::CallRefused
            | Self::TokenRefused
            | Self::ExecRefused
            | Self::FilesRefused
            | Self::LogFilterRefused => true,
            Self::FileBegun
            | Self::Recovered
            | Self::Lost
            | Self::Exec
            | Self::Attach
            | Self::FilesRead
            | Self::LogFilterChanged
            | Self::SecretSent
            | Self::TicketIssued
            | Self::SnapshotSaved => false,
        }
    }
}

impl fmt::Display for AuditEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for AuditEvent {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        let found = Self::ALL.into_iter().find(|event| event.name() == text);
        found.ok_or_else(|| UnknownEvent {
            name: text.to_owned(),
        })
    }
}

/// An event with its caller, its object and its outcome. Empty texts are left out of the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The time, in milliseconds since 1970.
    #[serde(rename = "at", with = "time::as_text")]
    pub at_ms: i64,
    /// The kind.
    pub event: AuditEvent,
    /// The caller: a principal as `operator/alice`, or `unauthenticated`. Empty for events of the
    /// log itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// The actor for which a master forwards a call.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub on_behalf_of: String,
    /// The user of this host to which the connection belongs, if it was looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The address from which the caller connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The action, as `exec`, or the call.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// The object of the action, as `framework-1/web`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The outcome: a status code, or a reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// The id of the request, with which log lines name it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The number of events that the line stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
}

impl AuditEntry {
    /// Returns an entry without any other field.
    #[must_use]
    pub fn new(at_ms: i64, event: AuditEvent) -> Self {
        Self {
            at_ms,
            event,
            principal: String::new(),
            on_behalf_of: String::new(),
            user: None,
            peer: None,
            action: String::new(),
            object: String::new(),
            outcome: String::new(),
            request_id: String::new(),
            count: 1,
        }
    }

    /// Returns the entry with texts of bounded length, because callers choose some of them.
    pub(super) fn bounded(mut self) -> Self {
        for text in [
            &mut self.principal,
            &mut self.on_behalf_of,
            &mut self.action,
            &mut self.object,
            &mut self.outcome,
            &mut self.request_id,
        ] {
            cut(text);
        }
        self
    }
}

fn cut(text: &mut String) {
    let mut bytes = 0;
    let too_long = |letter: char| {
        bytes += match letter {
            '"' | '\\' => 2,
            // As `\u001b`.
            letter if letter.is_ascii_control() => 6,
            letter => letter.len_utf8(),
        };
        bytes > TEXT_BYTES
    };
    if let Some(end) = text.find(too_long) {
        text.truncate(end);
        text.push('…');
    }
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

/// The part of a file's first line that connects the file with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHead {
    /// The version of the format of the file.
    pub format: u32,
    /// The number of the file.
    pub number: u64,
    /// The number of the oldest file that was kept when this one began.
    pub oldest: u64,
    /// The chain value of the last line of the former file; zeroes if there was none.
    pub previous: ChainValue,
}

/// The version of the format that is written.
pub(super) const FORMAT: u32 = 1;

/// A line of the log, without its chain value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// The serial number of the line: one more than that of the line before.
    pub serial: u64,
    /// The event.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// Only in the first line of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileHead>,
}

impl AuditLine {
    /// Returns its JSON text.
    pub(super) fn body(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events_are_those_of_the_lines() {
        for event in AuditEvent::ALL {
            let written = serde_json::to_string(&event).unwrap();
            assert_eq!(written, format!("\"{}\"", event.name()));
            assert_eq!(event.name().parse(), Ok(event));
        }
        let unknown = AuditEvent::from_str("exek").unwrap_err().to_string();
        assert!(unknown.contains("\"exek\"") && unknown.contains("exec-refused"));
    }

    #[test]
    fn a_line_has_the_fields_that_are_known() {
        let line = AuditLine {
            serial: 7,
            entry: AuditEntry {
                principal: "operator/alice".to_owned(),
                peer: Some("10.0.0.1:4711".parse().unwrap()),
                action: "exec".to_owned(),
                object: "framework-1/web".to_owned(),
                outcome: "101".to_owned(),
                ..AuditEntry::new(1_795_771_500_042, AuditEvent::Exec)
            },
            file: None,
        };
        let body = line.body();
        assert_eq!(
            body,
            "{\"serial\":7,\"at\":\"2026-11-27T09:25:00.042Z\",\"event\":\"exec\",\
             \"principal\":\"operator/alice\",\"peer\":\"10.0.0.1:4711\",\"action\":\"exec\",\
             \"object\":\"framework-1/web\",\"outcome\":\"101\"}"
        );
        assert_eq!(serde_json::from_str::<AuditLine>(&body).unwrap(), line);
    }

    #[test]
    fn texts_of_callers_are_cut_and_stay_in_their_line() {
        let entry = AuditEntry {
            object: "ä\n".repeat(2_000),
            ..AuditEntry::new(0, AuditEvent::CallRefused)
        };
        let entry = entry.bounded();
        assert!(entry.object.ends_with('…'));
        let line = AuditLine {
            serial: 1,
            entry,
            file: None,
        };
        let body = line.body();
        assert!(
            !body.contains('\n') && body.len() < TEXT_BYTES + 100,
            "{body}"
        );
        let short = AuditEntry {
            object: "x".repeat(TEXT_BYTES),
            ..AuditEntry::new(0, AuditEvent::Exec)
        };
        assert_eq!(short.clone().bounded(), short);
    }
}
