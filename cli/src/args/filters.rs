//! Values of flags that select records of lists.

use std::collections::HashMap;
use std::fmt;

use argosy_proto::v1;

/// A label or an attribute that a record must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelFilter {
    name: String,
    /// `None`: any value.
    value: Option<String>,
}

impl LabelFilter {
    /// Parses `NAME` or `NAME=VALUE`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(format!("{text:?} has no name; write NAME or NAME=VALUE"));
        }
        let name = name.to_owned();
        Ok(Self { name, value })
    }

    /// Returns whether these labels include it.
    pub(crate) fn matches(&self, labels: &HashMap<String, String>) -> bool {
        let found = labels.get(&self.name);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|wanted| wanted == found))
    }
}

impl fmt::Display for LabelFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        match &self.value {
            Some(value) => write!(formatter, "={value}"),
            None => Ok(()),
        }
    }
}

/// Parses the state of a task, as `running` or `TASK_STATE_RUNNING`.
pub(crate) fn task_state(text: &str) -> Result<v1::TaskState, String> {
    let states = (1..).map_while(|number| v1::TaskState::try_from(number).ok());
    one_of(text, "TASK_STATE_", states, |state| state.as_str_name())
}

/// Parses the state of an agent, as `registered` or `AGENT_MODE_REGISTERED`.
pub(crate) fn agent_mode(text: &str) -> Result<v1::AgentMode, String> {
    let modes = (1..).map_while(|number| v1::AgentMode::try_from(number).ok());
    one_of(text, "AGENT_MODE_", modes, |mode| mode.as_str_name())
}

/// Finds a value by its name in the protocol, with or without the prefix, in any case.
fn one_of<T: Copy>(
    text: &str,
    prefix: &str,
    all: impl Iterator<Item = T>,
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let word = |name: &str| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix(prefix).unwrap_or(&upper);
        short.to_ascii_lowercase().replace('_', "-")
    };
    let wanted = word(text);
    let all: Vec<T> = all.collect();
    let found = all.iter().copied().find(|one| word(name(*one)) == wanted);
    found.ok_or_else(|| {
        let words: Vec<_> = all.into_iter().map(|one| word(name(one))).collect();
        format!("write one of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_in_every_spelling() {
        for text in [
            "gone-by-operator",
            "GONE_BY_OPERATOR",
            "TASK_STATE_GONE_BY_OPERATOR",
        ] {
            assert_eq!(
                task_state(text),
                Ok(v1::TaskState::GoneByOperator),
                "{text}"
            );
        }
        assert_eq!(agent_mode("Registered"), Ok(v1::AgentMode::Registered));
        let refused = task_state("lost").unwrap_err();
        assert!(refused.contains("running, "), "{refused}");
        assert!(task_state("").is_err() && task_state("unspecified").is_err());
    }

    #[test]
    fn labels_match_by_name_or_by_name_and_value() {
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let matches = |text: &str| LabelFilter::parse(text).unwrap().matches(&labels);
        assert!(matches("app") && matches("app=web"));
        assert!(!matches("app=") && !matches("app=db") && !matches("tier"));
        assert!(LabelFilter::parse("=web").is_err());
        assert_eq!(
            LabelFilter::parse("app=web").unwrap().to_string(),
            "app=web"
        );
    }
}
