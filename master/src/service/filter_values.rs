//! Strict parsing of enumerated values in filters and parameters: a misspelled value is rejected,
//! never ignored.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::v1;
use argosy_state::ids::{AgentId, FrameworkId, InvalidId, TaskId};
use tonic::Status;

use super::malformed;

/// Returns a filter in the form in which records are compared: states and modes in lower case,
/// without a prefix. Rejects an id that no record can have.
pub(crate) fn filter(filter: HashMap<String, String>) -> Result<HashMap<String, String>, Status> {
    let chosen = filter.into_iter().map(|(field, value)| {
        let value = match field.as_str() {
            "state" => choice("state", &value, "TASK_STATE_", &task_states())?,
            "mode" => choice("mode", &value, "AGENT_MODE_", &agent_modes())?,
            "agent_id" => id::<AgentId>(&field, &value)?,
            "framework_id" => id::<FrameworkId>(&field, &value)?,
            "task_id" => task_id(&value)?,
            _ => value,
        };
        Ok((field, value))
    });
    chosen.collect()
}

/// Parses the requested consistency.
pub(crate) fn consistency(value: &str) -> Result<v1::Consistency, Status> {
    let numbers = [v1::Consistency::Linearizable, v1::Consistency::Local];
    let names = numbers.map(|one| one.as_str_name());
    let chosen = choice("consistency", value, "CONSISTENCY_", &names)?;
    match chosen.as_str() {
        "local" => Ok(v1::Consistency::Local),
        _ => Ok(v1::Consistency::Linearizable),
    }
}

/// Parses a boolean.
pub(crate) fn flag(field: &str, value: &str) -> Result<bool, Status> {
    let chosen = choice(field, value, "", &["true", "false", "1", "0"])?;
    Ok(chosen == "true" || chosen == "1")
}

/// Parses one of these names, in any case, with or without their prefix; returns it in lower case
/// without the prefix.
fn choice(field: &str, value: &str, prefix: &str, names: &[&str]) -> Result<String, Status> {
    let short = |name: &str| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix(prefix)
            .unwrap_or(&name)
            .to_ascii_lowercase()
    };
    let wanted = short(value);
    let allowed: Vec<String> = names.iter().map(|name| short(name)).collect();
    if allowed.contains(&wanted) {
        return Ok(wanted);
    }
    let text = format!("{value:?} is none of {}", allowed.join(", "));
    Err(malformed(&InvalidMessage::new(field, text)))
}

fn id<T: FromStr<Err = InvalidId> + Display>(field: &str, value: &str) -> Result<String, Status> {
    let id: Result<T, InvalidMessage> = convert::id(field, value);
    id.map(|id| id.to_string()).map_err(|why| malformed(&why))
}

fn task_id(value: &str) -> Result<String, Status> {
    let wrong = |why: InvalidId| malformed(&InvalidMessage::new("task_id", why.to_string()));
    TaskId::new(value).map(|id| id.to_string()).map_err(wrong)
}

fn task_states() -> Vec<&'static str> {
    let states = (1..).map_while(|number| v1::TaskState::try_from(number).ok());
    states.map(|state| state.as_str_name()).collect()
}

fn agent_modes() -> Vec<&'static str> {
    let modes = (1..).map_while(|number| v1::AgentMode::try_from(number).ok());
    modes.map(|mode| mode.as_str_name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(field: &str, value: &str) -> Result<String, Status> {
        let wanted = HashMap::from([(field.to_owned(), value.to_owned())]);
        filter(wanted).map(|mut filter| filter.remove(field).unwrap())
    }

    #[test]
    fn states_are_parsed_in_both_spellings_and_any_case() {
        for spelling in [
            "running",
            "RUNNING",
            "TASK_STATE_RUNNING",
            "task_state_running",
        ] {
            assert_eq!(chosen("state", spelling).unwrap(), "running");
        }
        assert_eq!(
            chosen("state", "GONE_BY_OPERATOR").unwrap(),
            "gone_by_operator"
        );
        assert_eq!(chosen("mode", "Draining").unwrap(), "draining");
        assert_eq!(
            chosen("name", "RUNNING").unwrap(),
            "RUNNING",
            "names are compared as they are"
        );
    }

    #[test]
    fn ids_in_filters_are_normalized_and_invalid_ones_rejected() {
        assert_eq!(chosen("agent_id", "agent-07").unwrap(), "agent-7");
        assert_eq!(chosen("task_id", "web.1").unwrap(), "web.1");
        for (field, value, expected) in [
            ("agent_id", "x", "agent-N"),
            ("agent_id", "framework-1", "agent-N"),
            ("framework_id", "web", "framework-N"),
            ("task_id", "a/b", "letters, digits"),
        ] {
            let refused = chosen(field, value).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            for word in [field, value, expected] {
                assert!(refused.message().contains(word), "{refused}");
            }
        }
    }

    #[test]
    fn unknown_choice_is_rejected_with_the_valid_ones() {
        for (field, value, expected) in [
            ("state", "nonsense", "staging, starting, running"),
            ("state", "unspecified", "running"),
            ("state", "AGENT_MODE_GONE", "running"),
            ("mode", "up", "registered, unreachable"),
        ] {
            let refused = chosen(field, value).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            for word in [field, value, expected] {
                assert!(refused.message().contains(word), "{refused}");
            }
        }
        assert_eq!(consistency("Local").unwrap(), v1::Consistency::Local);
        assert_eq!(
            consistency("CONSISTENCY_LINEARIZABLE").unwrap(),
            v1::Consistency::Linearizable
        );
        assert!(
            consistency("bogus")
                .unwrap_err()
                .message()
                .contains("linearizable, local")
        );
        assert!(flag("include_ended", "1").unwrap() && !flag("include_ended", "False").unwrap());
        assert!(
            flag("include_ended", "yes")
                .unwrap_err()
                .message()
                .contains("include_ended")
        );
    }
}
