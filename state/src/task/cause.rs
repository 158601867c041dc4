//! Causes: what an agent reports of an update beyond its reason, as codes and the names and numbers of their sentences.
//!
//! Records hold no sentences: they are made where they are shown, from the templates here. What comes from outside of the
//! agent (a program, a registry, the kernel) stays free text behind them. Before level 3 the whole text is stored.

use crate::encode::stored::stored;
use crate::limits;

/// One cause. A code of a later release is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// Names the sentence.
    pub code: String,
    /// Names and numbers in it, in their order.
    pub arguments: Vec<String>,
}

stored!(message Cause {
    1 code: Text,
    2 arguments: TextList,
});

/// Codes and their sentences, where `{}` stands for an argument. A template that ends with a colon or a semicolon and a
/// space is followed by another cause or by free text. A code is never given another meaning; a sentence may be reworded.
const SENTENCES: [(&str, &str); 28] = [
    ("agent-rebooted", "its host was rebooted"),
    (
        "supervisor-gone",
        "its supervisor was gone when the agent came back; how it ended is not known",
    ),
    (
        "stop-after-passed",
        "not started: its stop_after_ms passed {} ms ago, and no leader has answered since",
    ),
    (
        "container-unknown",
        "its container could not be asked, and was destroyed",
    ),
    (
        "agent-disk-full",
        "not started: the disk of this agent is full; make room, or launch it on another agent",
    ),
    (
        "killed-before-start",
        "killed before its command was started",
    ),
    (
        "killed-before-executor",
        "killed before its executor had it",
    ),
    ("executor-ended", "its executor has ended: "),
    (
        "executor-silent",
        "its executor did not subscribe in {} s, and was ended",
    ),
    ("executor-lost-task", "its executor came back without it"),
    ("executor", "its executor: "),
    (
        "group-task-failed",
        "its group ended because task {} failed: ",
    ),
    (
        "group-task-killed",
        "its group ended because task {} was killed; ",
    ),
    (
        "group-task-ending",
        "its group ended because task {} is to end; ",
    ),
    ("group-ended", "its group ended because "),
    (
        "group-task-missing",
        "one of its tasks is not on this agent",
    ),
    (
        "group-place-taken",
        "{} has its place, and is to be none of it",
    ),
    (
        "group-agent-restarted",
        "the agent went away while its tasks were being started",
    ),
    (
        "health-check-failed",
        "its health check failed {} times in a row, at last: ",
    ),
    ("healthy", "healthy: "),
    ("unhealthy", "unhealthy: "),
    ("ready", "ready: "),
    ("not-ready", "not ready: "),
    ("limits-changed", "its limits are changed"),
    ("limits-refused", "not all of its limits are in force: "),
    (
        "file-limit-reached",
        "one of its files reached the limit of its disk, {} bytes",
    ),
    (
        "group-folder",
        "the group's folder is a part of the disk of {}, which has ended: ",
    ),
    ("fetching", "fetching its files"),
];

/// What separates one cause from the next, or from free text, where its template does not.
const SEPARATOR: &str = "; ";

impl Cause {
    /// Whether this release has the sentence.
    #[must_use]
    pub fn is_known(&self) -> bool {
        template(&self.code).is_some()
    }

    /// Bytes of its texts.
    pub(crate) fn bytes(&self) -> usize {
        self.code.len() + self.arguments.iter().map(String::len).sum::<usize>()
    }

    /// Whether it is short enough to be kept.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.arguments.len() <= limits::CAUSE_ARGUMENTS && self.bytes() <= limits::CAUSE_BYTES
    }

    fn sentence(&self) -> String {
        match template(&self.code) {
            Some(template) => filled(template, self.arguments.iter().map(String::as_str)),
            // Of a later release: better than nothing.
            None => format!("{} {}: ", self.code, self.arguments.join(" ")),
        }
    }
}

fn template(code: &str) -> Option<&'static str> {
    let mut all = SENTENCES.iter();
    all.find(|(known, _)| *known == code).map(|(_, text)| *text)
}

fn filled<'a>(template: &str, mut arguments: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (at, part) in template.split("{}").enumerate() {
        if at > 0 {
            text += arguments.next().unwrap_or("?");
        }
        text += part;
    }
    text
}

/// The sentence of a code, for an agent that reports it. It may end with a separator.
///
/// # Panics
/// If this release has no such code.
#[must_use]
pub fn sentence(code: &str, arguments: &[&str]) -> String {
    let template = template(code).expect("agents report codes of their own release");
    filled(template, arguments.iter().copied())
}

/// What is shown of these causes and the free text behind them.
#[must_use]
pub fn text(causes: &[Cause], detail: &str) -> String {
    let mut text = String::new();
    for sentence in causes.iter().map(Cause::sentence) {
        join(&mut text, &sentence);
    }
    join(&mut text, detail);
    let end = text.trim_end_matches([' ', ';', ':']).len();
    text.truncate(match detail.is_empty() {
        true => end,
        false => text.len(),
    });
    text
}

fn join(text: &mut String, more: &str) {
    let is_open = text.is_empty() || text.ends_with(": ") || text.ends_with(SEPARATOR);
    if !is_open && !text.ends_with(' ') && !more.is_empty() {
        text.push_str(SEPARATOR);
    }
    text.push_str(more);
}

/// The causes at the beginning of a text, and where the free text behind them begins. The reverse of [`text`].
#[must_use]
pub fn split(text: &str) -> (Vec<Cause>, usize) {
    let mut causes: Vec<Cause> = Vec::new();
    let mut rest = text;
    // The cause of a group's end may follow. Behind all others stands what a program, an executor or the kernel has said.
    while causes.len() < limits::CAUSES
        && causes.iter().all(|cause| cause.code.starts_with("group-"))
        && let Some((cause, behind)) = first(rest)
    {
        causes.push(cause);
        rest = behind;
    }
    // Nothing that is shown may change by it.
    match self::text(&causes, rest) == text {
        true => (causes, text.len() - rest.len()),
        false => (Vec::new(), 0),
    }
}

/// The cause at the beginning of a text, and what is behind it. Of several the longest sentence is meant.
fn first(text: &str) -> Option<(Cause, &str)> {
    let found = SENTENCES.iter().filter_map(|(code, template)| {
        let (arguments, behind) = matched(template, text)?;
        let cause = Cause {
            code: (*code).to_owned(),
            arguments,
        };
        cause.is_bounded().then_some((cause, behind))
    });
    found.min_by_key(|(_, behind)| behind.len())
}

fn matched<'a>(template: &str, text: &'a str) -> Option<(Vec<String>, &'a str)> {
    let is_open = template.ends_with(' ');
    // What was left out at the end of the text, since nothing followed.
    let whole = template.trim_end_matches([' ', ';', ':']);
    let mut parts = whole.split("{}");
    let mut rest = text.strip_prefix(parts.next()?)?;
    let mut arguments = Vec::new();
    for part in parts {
        let end = match part {
            "" => rest.find([':', ';']).unwrap_or(rest.len()),
            part => rest.find(part)?,
        };
        arguments.push(rest[..end].to_owned());
        rest = &rest[end + part.len()..];
    }
    let tail = &template[whole.len()..];
    let behind = match rest.strip_prefix(tail) {
        Some(behind) if is_open => behind,
        _ => match rest.strip_prefix(SEPARATOR) {
            Some(behind) => behind,
            None if rest.is_empty() => rest,
            None => return None,
        },
    };
    Some((arguments, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(code: &str, arguments: &[&str]) -> Cause {
        Cause {
            code: code.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn every_sentence_is_split_into_its_code_and_arguments_and_made_again() {
        for (code, template) in SENTENCES {
            let names = ["web-1", "3"];
            let count = template.matches("{}").count();
            let whole = cause(code, &names[..count]);
            for detail in ["", "exited with code 1", "a: b; c"] {
                let shown = text(std::slice::from_ref(&whole), detail);
                let (causes, at) = split(&shown);
                assert_eq!(causes, std::slice::from_ref(&whole), "{shown}");
                assert_eq!(&shown[at..], detail, "{shown}");
            }
        }
    }

    #[test]
    fn causes_follow_each_other_before_the_free_text() {
        let shown = "its group ended because task web failed: its health check failed 3 times in a row, at last: refused";
        let (causes, at) = split(shown);
        let wanted = [
            cause("group-task-failed", &["web"]),
            cause("health-check-failed", &["3"]),
        ];
        assert_eq!(causes, wanted);
        assert_eq!(&shown[at..], "refused");
        assert_eq!(text(&causes, "refused"), shown);
        let free = "cannot pull docker.io/x: no such image";
        assert_eq!(split(free), (Vec::new(), 0));
        assert_eq!(text(&[], free), free);
    }

    #[test]
    fn what_a_program_says_is_no_cause() {
        for (code, before) in [("unhealthy", "unhealthy: "), ("executor", "its executor: ")] {
            let shown = format!("{before}its host was rebooted");
            let (causes, at) = split(&shown);
            assert_eq!(causes, [cause(code, &[])]);
            assert_eq!(&shown[at..], "its host was rebooted");
        }
    }

    #[test]
    fn a_code_of_a_later_release_is_shown_with_its_arguments() {
        let later = cause("evicted", &["2", "GiB"]);
        assert!(!later.is_known() && later.is_bounded());
        assert_eq!(
            text(&[later], "by its agent"),
            "evicted 2 GiB: by its agent"
        );
        assert!(!cause("evicted", &["x"; 9]).is_bounded());
        assert!(!cause(&"x".repeat(300), &[]).is_bounded());
    }
}
