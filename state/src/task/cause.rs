//! Causes: the details of an update that an agent reports in addition to the reason, as codes with
//! arguments.
//!
//! Records hold no messages. They are built for display from the templates in [`Code`]. Texts from
//! outside the agent (a program, a server, the kernel) remain free text after the causes. Before
//! level 3 the whole text is stored.

mod code;
mod reported;

use std::fmt;

use crate::codec::stored::stored;
use crate::limits;

pub use self::code::Code;
pub use self::reported::ReportedText;

/// One cause. A code of a later release is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// The code, which names the message.
    pub code: String,
    /// The names and numbers in the message, in order.
    pub arguments: Vec<String>,
}

stored!(message Cause {
    1 code: Text,
    2 arguments: TextList,
});

/// The separator between a cause and the next one, or free text, where the message does not end
/// with one.
const SEPARATOR: &str = "; ";

/// The end of an argument that was cut.
const ELLIPSIS: &str = "…";

impl Cause {
    /// Returns a cause of this release. Arguments that are too long are cut.
    #[must_use]
    pub fn new(code: Code, arguments: &[&dyn fmt::Display]) -> Self {
        let mut cause = Self {
            code: code.name().to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        };
        cause.shorten();
        cause
    }

    /// Returns whether this release has the message.
    #[must_use]
    pub fn is_known(&self) -> bool {
        Code::named(&self.code).is_some()
    }

    /// Returns the bytes of its texts.
    pub(crate) fn bytes(&self) -> usize {
        self.code.len() + self.arguments.iter().map(String::len).sum::<usize>()
    }

    /// Returns whether the cause is short enough to be stored.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.arguments.len() <= limits::CAUSE_ARGUMENTS && self.bytes() <= limits::CAUSE_BYTES
    }

    /// Cuts the longest argument until the cause is short enough.
    fn shorten(&mut self) {
        while self.bytes() > limits::CAUSE_BYTES {
            let excess = self.bytes() - limits::CAUSE_BYTES;
            let Some(longest) = self.arguments.iter_mut().max_by_key(|text| text.len()) else {
                return;
            };
            let kept = longest.len().saturating_sub(excess + ELLIPSIS.len());
            longest.truncate(longest.floor_char_boundary(kept));
            if kept > 0 {
                longest.push_str(ELLIPSIS);
            }
        }
    }

    fn message(&self) -> String {
        match Code::named(&self.code) {
            Some(code) => fill(code.sentence(), &self.arguments),
            // A code of a later release is displayed as it is.
            None => format!("{} {}: ", self.code, self.arguments.join(" ")),
        }
    }
}

/// Writes the message without its final separator.
impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(closed(&self.message()))
    }
}

fn fill(sentence: &str, arguments: &[String]) -> String {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    for (at, part) in sentence.split("{}").enumerate() {
        if at > 0 {
            text += arguments.next().map_or("?", String::as_str);
        }
        text += part;
    }
    for free in arguments {
        join(&mut text, free);
    }
    text
}

fn join(text: &mut String, more: &str) {
    let is_open = text.is_empty() || text.ends_with(' ');
    if !is_open && !more.is_empty() {
        text.push_str(SEPARATOR);
    }
    text.push_str(more);
}

fn closed(text: &str) -> &str {
    text.trim_end_matches([' ', ';', ':'])
}

/// Returns the displayed text of these causes and the free text after them.
#[must_use]
pub fn text(causes: &[Cause], detail: &str) -> String {
    let mut text = String::new();
    for sentence in causes.iter().map(Cause::message) {
        join(&mut text, &sentence);
    }
    join(&mut text, detail);
    let end = closed(&text).len();
    text.truncate(match detail.is_empty() {
        true => end,
        false => text.len(),
    });
    text
}

/// An explanation as an agent reports it: causes, and free text after them. The message is built
/// for display.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// The causes. The first explains the event, and each next one the cause before it.
    pub causes: Vec<Cause>,
    /// The free text after the causes, from a program, a server or the kernel.
    pub detail: String,
}

impl Explanation {
    /// Returns an explanation with one cause.
    #[must_use]
    pub fn of(code: Code, arguments: &[&dyn fmt::Display]) -> Self {
        Self::from(Cause::new(code, arguments))
    }

    /// Adds free text after the causes.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        match self.detail.is_empty() {
            true => self.detail = detail,
            false => join(&mut self.detail, &detail),
        }
        self
    }

    /// Appends another explanation.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        if next.causes.is_empty() {
            return self.with_detail(next.detail);
        }
        let detail = std::mem::take(&mut self.detail);
        if !detail.is_empty() {
            // An additional argument is free text.
            match self.causes.last_mut() {
                Some(last) => {
                    last.arguments.push(detail);
                    last.shorten();
                }
                None => self.causes.push(Cause::new(Code::Text, &[&detail])),
            }
        }
        self.causes.extend(next.causes);
        self.detail = next.detail;
        self
    }

    /// Returns whether there is nothing to explain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty() && self.detail.is_empty()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&text(&self.causes, &self.detail))
    }
}

impl From<Cause> for Explanation {
    fn from(cause: Cause) -> Self {
        Self {
            causes: vec![cause],
            detail: String::new(),
        }
    }
}

/// Takes text from outside the agent.
impl From<String> for Explanation {
    fn from(detail: String) -> Self {
        Self {
            causes: Vec::new(),
            detail,
        }
    }
}

/// Takes text from outside the agent.
impl From<&str> for Explanation {
    fn from(detail: &str) -> Self {
        Self::from(detail.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(code: &str, arguments: &[&str]) -> Cause {
        Cause {
            code: code.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn every_cause_code_has_a_unique_name_and_fits_with_its_arguments() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::named(code.name()), Some(*code));
            let mut others = Code::ALL[..at].iter();
            assert!(others.all(|other| other.name() != code.name()), "{code:?}");
            let places = code.sentence().matches("{}").count();
            assert!(places < limits::CAUSE_ARGUMENTS, "{code:?}");
        }
        assert_eq!(Code::named("of-a-later-release"), None);
    }

    #[test]
    fn causes_are_chained_before_the_free_text() {
        let failed = Explanation::of(Code::GroupTaskFailed, &[&"web"])
            .then(Explanation::of(Code::HealthCheckFailed, &[&3]).with_detail("refused"));
        assert_eq!(failed.causes.len(), 2);
        assert_eq!(
            failed.to_string(),
            "its group ended because task web failed: its health check failed 3 times in a row, at last: refused"
        );
        let both = Explanation::of(Code::Unhealthy, &[])
            .with_detail("refused")
            .then(Explanation::of(Code::LimitsChanged, &[]));
        assert_eq!(
            both.to_string(),
            "unhealthy: refused; its limits are changed"
        );
        assert!(both.detail.is_empty(), "{both:?}");
        let ended = Explanation::of(Code::ExecutorEnded, &[]);
        assert_eq!(ended.to_string(), "its executor has ended");
    }

    #[test]
    fn texts_of_programs_are_not_parsed_as_causes() {
        let output = Explanation::of(Code::Executor, &[]).with_detail("its host was rebooted; ");
        assert_eq!(output.causes.len(), 1);
        assert_eq!(output.to_string(), "its executor: its host was rebooted; ");
        let free = Explanation::from("its host was rebooted");
        assert!(free.causes.is_empty());
        let more = free.then(Explanation::of(Code::LimitsChanged, &[]));
        assert_eq!(
            more.causes[0],
            Cause::new(Code::Text, &[&"its host was rebooted"])
        );
        assert_eq!(
            more.to_string(),
            "its host was rebooted; its limits are changed"
        );
    }

    #[test]
    fn long_arguments_are_truncated_at_character_boundaries() {
        let uri = "ä".repeat(limits::CAUSE_BYTES);
        let cause = Cause::new(Code::FetchStatus, &[&uri, &404]);
        assert!(cause.is_bounded(), "{cause:?}");
        assert!(cause.bytes() > limits::CAUSE_BYTES - 4);
        assert!(cause.arguments[0].ends_with('…'));
        assert_eq!(cause.arguments[1], "404");
        let cause = Cause::new(Code::Text, &[&"x".repeat(5_000)]);
        assert!(cause.is_bounded(), "{cause:?}");
    }

    #[test]
    fn a_code_of_a_later_release_is_shown_with_its_arguments() {
        let cause = later("frozen", &["2", "GiB"]);
        assert!(!cause.is_known() && cause.is_bounded());
        assert_eq!(text(&[cause], "by its agent"), "frozen 2 GiB: by its agent");
        assert!(!later("frozen", &["x"; 9]).is_bounded());
        assert!(!later(&"x".repeat(2_000), &[]).is_bounded());
    }
}
