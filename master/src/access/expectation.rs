//! Expectations about decisions: a file of them tests rules before they are set.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;

use argosy_proto::host_path::without_detours;
use argosy_state::access::{Action, Effect, Pattern, Policy, Subject};
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::ids::{InvalidId, Role};

use super::decision::{Decision, decide};
use super::images::canonical_name;
use super::object::Object;

/// An expectation: a caller may or may not perform an action on an object.
///
/// Its text form is `allowed CALLER ACTION OBJECT` or `denied CALLER ACTION OBJECT`, such as
/// `denied framework/web use-host-path role:eng host-path:/etc`. An object has one or several
/// properties, or is `*`, the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The number of its line in a file, from 1.
    pub line: usize,
    caller: Actor,
    is_allowed: bool,
    action: Action,
    /// The properties of the object: no subtree, and each kind at most once.
    properties: Vec<Pattern>,
    /// The same properties in the form in which launches are decided: complete names of images, and
    /// resolved paths.
    decided: Vec<Pattern>,
    /// The role of the secret. The role of the object is then that of the task that uses it.
    secret_role: Option<Role>,
}

/// The error in the text of expectations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {source}")]
pub struct InvalidExpectation {
    /// The number of the line, from 1.
    pub line: usize,
    /// The error.
    pub source: InvalidId,
}

impl Expectation {
    /// Reads one expectation a line. Empty lines, and lines that begin with `#`, have no meaning.
    ///
    /// # Errors
    /// Names the first line that is invalid.
    pub fn read_all(text: &str) -> Result<Vec<Self>, InvalidExpectation> {
        let mut all = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if !text.is_empty() && !text.starts_with('#') {
                let read = Self::read(line, text);
                all.push(read.map_err(|source| InvalidExpectation { line, source })?);
            }
        }
        Ok(all)
    }

    fn read(line: usize, text: &str) -> Result<Self, InvalidId> {
        let wrong = || {
            let rule = "write allowed or denied, CALLER, ACTION and OBJECT";
            InvalidId::new("expectation", text, rule)
        };
        let words: Vec<_> = text.split_whitespace().collect();
        let [effect, caller, action, object @ ..] = &words[..] else {
            return Err(wrong());
        };
        let is_allowed = match *effect {
            "allowed" => true,
            "denied" => false,
            _ => return Err(wrong()),
        };
        if object.is_empty() {
            return Err(wrong());
        }
        let properties = read_properties(object)?;
        let secret_role = properties.iter().find_map(|property| match property {
            Pattern::Secret(name) => Some(name.role()),
            _ => None,
        });
        Ok(Self {
            line,
            caller: read_caller(caller)?,
            is_allowed,
            action: action.parse()?,
            decided: properties.iter().cloned().map(as_decided).collect(),
            properties,
            secret_role,
        })
    }

    fn object(&self) -> Object<'_> {
        let mut object = Object {
            role: self.secret_role.as_ref(),
            ..Object::CLUSTER
        };
        for property in &self.decided {
            match property {
                Pattern::Role(role) if self.secret_role.is_some() => object.task_role = Some(role),
                Pattern::Role(role) => object.role = Some(role),
                Pattern::Framework(id) => object.framework = Some(*id),
                Pattern::User(user) => object.user = Some(user),
                Pattern::Agent(id) => object.agent = Some(*id),
                Pattern::Secret(name) => object.secret = Some(name),
                Pattern::Image(image) => object.image = Some(image),
                Pattern::HostPath(path) => object.host_path = Some(path),
                Pattern::Any | Pattern::Subtree(_) | Pattern::SecretSubtree(_) => {}
            }
        }
        object
    }

    /// Returns how a policy decides, if that is not as expected: the rule or the group.
    #[must_use]
    pub fn unmet(&self, policy: &Policy) -> Option<String> {
        let object = self.object();
        let decision = decide(policy, &self.caller, self.action, &object);
        if decision.is_allowed() == self.is_allowed {
            return None;
        }
        Some(match decision {
            Decision::Denied { by: Some(rule) } => format!("the rule \"{rule}\" denies it"),
            Decision::Denied { by: None } => "no rule allows it".to_owned(),
            Decision::Allowed => self.grantor(policy, &object),
        })
    }

    /// Returns the rule or group that allows it.
    fn grantor(&self, policy: &Policy, object: &Object<'_>) -> String {
        match &self.caller {
            Actor::Principal(principal) if principal.kind == PrincipalKind::Master => {
                return "masters may do everything".to_owned();
            }
            Actor::Principal(_) | Actor::Unauthenticated | Actor::Cluster => {}
        }
        let allows = policy.rules.iter().find(|rule| {
            rule.effect == Effect::Allow
                && rule.covers(self.action)
                && object.matches(&rule.object)
                && policy.is_subject(&rule.subject, &self.caller)
        });
        if let Some(rule) = allows {
            return format!("the rule \"{rule}\" allows it");
        }
        let group = policy.groups.iter().find(|(name, members)| {
            let alone = Policy {
                rules: Vec::new(),
                groups: BTreeMap::from([((*name).clone(), (*members).clone())]),
            };
            decide(&alone, &self.caller, self.action, object).is_allowed()
        });
        match group {
            Some((name, _)) => format!("the group {name} allows it"),
            None => "it is allowed".to_owned(),
        }
    }
}

fn read_caller(word: &str) -> Result<Actor, InvalidId> {
    match word.parse()? {
        Subject::Anonymous => Ok(Actor::Unauthenticated),
        Subject::Principal(principal) => Ok(Actor::Principal(principal)),
        Subject::Everyone | Subject::Kind(_) | Subject::Group(_) => {
            let rule = "write one caller, such as operator/alice, or anonymous";
            Err(InvalidId::new("caller", word, rule))
        }
    }
}

/// Returns a property in the form in which launches are decided: an image has its complete name,
/// and a path is resolved.
fn as_decided(property: Pattern) -> Pattern {
    match property {
        Pattern::Image(name) => Pattern::Image(canonical_name(&name)),
        Pattern::HostPath(path) => Pattern::HostPath(without_detours(&path)),
        other => other,
    }
}

/// Reads the properties of an object. `*` has none.
fn read_properties(words: &[&str]) -> Result<Vec<Pattern>, InvalidId> {
    let mut properties: Vec<Pattern> = Vec::new();
    for word in words {
        let wrong = |rule| Err(InvalidId::new("object", word, rule));
        let property: Pattern = word.parse()?;
        let kind = discriminant(&property);
        let is_twice = properties.iter().any(|one| discriminant(one) == kind);
        match &property {
            Pattern::Any if words.len() == 1 => return Ok(Vec::new()),
            Pattern::Any => return wrong("write * alone"),
            Pattern::Subtree(_) | Pattern::SecretSubtree(_) => {
                return wrong("write one object, and no pattern with %");
            }
            _ if is_twice => return wrong("an object has one property of each kind"),
            _ => {}
        }
        properties.push(property);
    }
    Ok(properties)
}

/// Writes the line that `read_all` reads.
impl fmt::Display for Expectation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = if self.is_allowed { "allowed" } else { "denied" };
        match &self.caller {
            Actor::Unauthenticated => write!(out, "{effect} anonymous {}", self.action)?,
            caller => write!(out, "{effect} {caller} {}", self.action)?,
        }
        let mut properties = self.properties.iter();
        match self.properties.is_empty() {
            true => out.write_str(" *"),
            false => properties.try_for_each(|property| write!(out, " {property}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "group admin = operator/root
group framework:eng = framework/web
group oncall = operator/bob
allow group:oncall kill-task role:eng/%
allow operator/ann view-secret-names secret:eng/key
deny everyone use-host-path host-path:/etc
deny everyone use-image image:docker.io/
allow framework/web use-host-path *";

    fn unmet(text: &str) -> Option<String> {
        unmet_by(POLICY, text)
    }

    fn unmet_by(policy: &str, text: &str) -> Option<String> {
        let policy: Policy = policy.parse().unwrap();
        let read = Expectation::read_all(text).unwrap();
        let [expectation] = &read[..] else {
            panic!("{text}: {read:?}");
        };
        assert_eq!(expectation.to_string(), text);
        expectation.unmet(&policy)
    }

    #[test]
    fn an_expectation_that_is_not_met_names_what_decided() {
        for (text, decided) in [
            (
                "operator/bob kill-task role:eng/web",
                "the rule \"allow group:oncall kill-task role:eng/%\" allows it",
            ),
            ("operator/root set-access *", "the group admin allows it"),
            (
                "operator/ann view-secret-names secret:eng/key",
                "the rule \"allow operator/ann view-secret-names secret:eng/key\" allows it",
            ),
            (
                "framework/web view-secret-names secret:eng/db",
                "the group framework:eng allows it",
            ),
            (
                "framework/web run-as-user role:eng user:www",
                "the group framework:eng allows it",
            ),
            (
                "framework/web use-host-path role:eng host-path:/data",
                "the rule \"allow framework/web use-host-path *\" allows it",
            ),
            ("master/m1 set-access *", "masters may do everything"),
        ] {
            assert_eq!(unmet(&format!("allowed {text}")), None, "{text}");
            assert_eq!(unmet(&format!("denied {text}")).as_deref(), Some(decided));
        }
        let no_rule = "no rule allows it";
        let no_hub = "the rule \"deny everyone use-image image:docker.io/\" denies it";
        for (text, decided) in [
            ("framework/web use-image role:eng image:nginx", no_hub),
            ("operator/bob kill-task role:ops", no_rule),
            ("operator/bob kill-task *", no_rule),
            ("anonymous view-metrics *", no_rule),
            ("framework/web run-as-user role:eng user:root", no_rule),
            (
                "framework/web use-host-path role:eng host-path:/etc/passwd",
                "the rule \"deny everyone use-host-path host-path:/etc\" denies it",
            ),
        ] {
            assert_eq!(unmet(&format!("denied {text}")), None, "{text}");
            assert_eq!(unmet(&format!("allowed {text}")).as_deref(), Some(decided));
        }
    }

    #[test]
    fn a_secret_of_a_role_above_is_decided_as_in_a_launch() {
        let object = "framework/web use-secret role:eng/web secret:eng/db";
        let allow = |of| format!("allow framework/web use-secret {of}");
        let deny = |of| format!("deny framework/web use-secret {of}");
        let (of_secret, of_task) = (allow("role:eng"), allow("role:eng/web"));
        let by = format!("the rule \"{of_secret}\" allows it");
        let found = unmet_by(&of_secret, &format!("denied {object}"));
        assert_eq!(found, Some(by));
        let found = unmet_by(&of_task, &format!("allowed {object}"));
        assert_eq!(found.as_deref(), Some("no rule allows it"));
        // Denials apply to the roles of both.
        for role in ["role:eng", "role:eng/web"] {
            let rules = format!("{}\n{}", allow("secret:eng/db"), deny(role));
            let by = format!("the rule \"{}\" denies it", deny(role));
            let found = unmet_by(&rules, &format!("allowed {object}"));
            assert_eq!(found, Some(by), "{role}");
        }
    }

    #[test]
    fn files_of_expectations_are_read_and_errors_name_the_line() {
        let text = "# who may what\n\n allowed  operator/bob\tkill-task role:eng agent:agent-3\ndenied anonymous exec *\n";
        let read = Expectation::read_all(text).unwrap();
        let lines: Vec<_> = read.iter().map(|one| (one.line, one.to_string())).collect();
        let wanted = [
            (
                3,
                "allowed operator/bob kill-task role:eng agent:agent-3".to_owned(),
            ),
            (4, "denied anonymous exec *".to_owned()),
        ];
        assert_eq!(lines, wanted);
        for (text, wanted) in [
            ("allow operator/bob exec *", "write allowed or denied"),
            ("allowed operator/bob exec", "write allowed or denied"),
            ("allowed operator/* exec *", "write one caller"),
            ("allowed group:oncall exec *", "write one caller"),
            ("allowed everyone exec *", "write one caller"),
            ("allowed bob exec *", "is not a valid subject"),
            ("allowed operator/bob run *", "is not a valid action"),
            ("allowed operator/bob * *", "is not a valid action"),
            ("allowed operator/bob exec role:eng/%", "no pattern with %"),
            (
                "allowed operator/bob set-secret secret:eng/%",
                "no pattern with %",
            ),
            ("allowed operator/bob exec * role:eng", "write * alone"),
            (
                "allowed operator/bob exec role:a role:b",
                "one property of each kind",
            ),
            ("allowed operator/bob exec task:a", "is not a valid object"),
        ] {
            let wrong = Expectation::read_all(&format!("\n{text}")).unwrap_err();
            assert_eq!(wrong.line, 2, "{text}");
            let wrong = wrong.to_string();
            assert!(
                wrong.starts_with("line 2: ") && wrong.contains(wanted),
                "{wrong}"
            );
        }
    }
}
