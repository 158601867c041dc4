//! The records that one subscriber receives: kinds, a filter, and what its caller may see.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use argosy_proto::convert::InvalidMessage;
use argosy_proto::excerpt::{NAME_BYTES, excerpt};
use argosy_state::access::Policy;
use argosy_state::ids::{AgentId, Role};
use tonic::Status;

use super::subject::{Kind, Subject};
use crate::access::{FollowedSights, Sight};
use crate::service::{denied, filter_values, malformed};

/// Maximum length of a value to filter by: it is kept for as long as the stream.
const VALUE_BYTES: usize = 1_024;

/// The fields of a record by which it is filtered, in addition to its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilterFields {
    Agent {
        host_name: String,
        mode: String,
    },
    Framework {
        name: String,
        roles: BTreeSet<Role>,
    },
    Task {
        agent: AgentId,
        role: Role,
        state: String,
        name: String,
        /// The user of the host; empty for the default.
        user: String,
    },
    Other,
}

/// What a subscriber receives of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The record is in its view.
    Shown,
    /// The record is not in its view, and may have been.
    Removed,
    /// The record was never in its view.
    Skipped,
}

/// The result of a comparison with a wanted value.
enum Match {
    Yes,
    /// The field may change, so an earlier state of the record may have matched.
    NotNow,
    Never,
}

/// The records that one subscriber receives.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    kinds: Vec<Kind>,
    filter: HashMap<String, String>,
    seen: FollowedSights,
}

impl Selection {
    /// # Errors
    /// INVALID_ARGUMENT for an unknown kind, for a field that none of the kinds has, and for a
    /// value that no record can have or that is too long; a denial if the reader may see none of
    /// these kinds.
    pub(crate) fn new(
        kinds: &[String],
        filter: HashMap<String, String>,
        seen: FollowedSights,
    ) -> Result<Self, Status> {
        let named = kinds.iter().map(|name| kind(name));
        let named: Vec<Kind> = named.collect::<Result<_, _>>()?;
        let mut kinds = Kind::ALL.to_vec();
        kinds.retain(|kind| named.is_empty() || named.contains(kind));
        for field in filter.keys() {
            if !kinds.iter().any(|kind| has(*kind, field)) {
                let mut known: Vec<_> = kinds.iter().flat_map(|kind| kind.fields()).collect();
                known.sort_unstable();
                known.dedup();
                let known: Vec<_> = known.into_iter().copied().collect();
                let text = format!(
                    "{:?} is none of {}",
                    excerpt(field, NAME_BYTES),
                    known.join(", ")
                );
                return Err(malformed(&InvalidMessage::new("filter", text)));
            }
        }
        for (field, value) in &filter {
            if value.len() > VALUE_BYTES {
                let text = format!("{} bytes; at most {VALUE_BYTES}", value.len());
                return Err(malformed(&InvalidMessage::new(field.as_str(), text)));
            }
        }
        kinds.retain(|kind| filter.keys().all(|field| has(*kind, field)));
        if kinds.is_empty() {
            let text = "no kind of record has all of these fields: use fields of one kind";
            return Err(malformed(&InvalidMessage::new("filter", text)));
        }
        let selection = Self {
            kinds,
            filter: filter_values::filter(filter)?,
            seen,
        };
        selection.check()?;
        Ok(selection)
    }

    /// Returns whether rules decide what the reader may see.
    pub(super) fn depends_on_rules(&self) -> bool {
        self.seen.depends_on_rules()
    }

    /// Takes the present policy. Returns whether the reader may see something else now.
    ///
    /// # Errors
    /// A denial if the reader may see none of its kinds any more.
    pub(crate) fn follow(&mut self, policy: &Arc<Policy>) -> Result<bool, Status> {
        let is_other = self.seen.follow(policy);
        if is_other {
            self.check()?;
        }
        Ok(is_other)
    }

    /// Denies a reader that may see none of the kinds.
    fn check(&self) -> Result<(), Status> {
        let mut first = None;
        for kind in &self.kinds {
            match self.sight(*kind).some() {
                Ok(()) => return Ok(()),
                Err(denial) => first = first.or(Some(denial)),
            }
        }
        first.map_or(Ok(()), |denial| Err(denied(&denial)))
    }

    fn sight(&self, kind: Kind) -> &Sight {
        let sights = &self.seen.sights;
        match kind {
            Kind::Cluster => &sights.cluster,
            Kind::Role => &sights.roles,
            Kind::Agent => &sights.agents,
            Kind::Framework => &sights.frameworks,
            Kind::Task => &sights.tasks,
        }
    }

    /// Returns whether the reader may see a record. One that the registry no longer has is seen
    /// only by a reader that sees all of its kind, unless its id alone decides.
    pub(super) fn may_see(&self, subject: &Subject, fields: Option<&FilterFields>) -> bool {
        let sight = self.sight(subject.kind());
        if sight.is_all() {
            return true;
        }
        match (subject, fields) {
            (Subject::Cluster, _) => sight.cluster(),
            (Subject::Role(role), _) => sight.role(role),
            (Subject::Agent(id), _) => sight.agent(*id),
            (Subject::Framework(id), Some(FilterFields::Framework { roles, .. })) => {
                sight.framework_of(*id, roles.iter())
            }
            (
                Subject::Task(key),
                Some(FilterFields::Task {
                    agent, role, user, ..
                }),
            ) => sight.task_of(key.framework, *agent, role, user),
            (Subject::Framework(_) | Subject::Task(_), _) => false,
        }
    }

    /// Returns whether the reader may see only some records of a kind.
    pub(super) fn is_partial(&self, kind: Kind) -> bool {
        !self.sight(kind).is_all()
    }

    pub(crate) fn includes(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Judges a record. `fields` is absent if the registry no longer has it; `is_listed` is whether
    /// lists without ended records show it.
    pub(crate) fn judge(
        &self,
        subject: &Subject,
        fields: Option<&FilterFields>,
        is_listed: bool,
    ) -> Verdict {
        if !self.includes(subject.kind()) || !self.may_see(subject, fields) {
            return Verdict::Skipped;
        }
        let mut verdict = match is_listed {
            true => Verdict::Shown,
            false => Verdict::Removed,
        };
        for (field, wanted) in &self.filter {
            match compare(subject, fields, field, wanted) {
                Match::Yes => {}
                Match::NotNow => verdict = Verdict::Removed,
                Match::Never => return Verdict::Skipped,
            }
        }
        verdict
    }
}

fn kind(name: &str) -> Result<Kind, Status> {
    let known = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| {
        let names = Kind::ALL.map(Kind::name).join(", ");
        malformed(&InvalidMessage::new(
            "kinds",
            format!("{:?} is none of {names}", excerpt(name, NAME_BYTES)),
        ))
    })
}

fn has(kind: Kind, field: &str) -> bool {
    kind.fields().contains(&field)
}

fn compare(subject: &Subject, fields: Option<&FilterFields>, field: &str, wanted: &str) -> Match {
    let fixed = |equal: bool| if equal { Match::Yes } else { Match::Never };
    let varying = |equal: bool| if equal { Match::Yes } else { Match::NotNow };
    match (subject, field) {
        (Subject::Agent(id), "agent_id") => return fixed(id.to_string() == wanted),
        (Subject::Framework(id), "framework_id") => return fixed(id.to_string() == wanted),
        (Subject::Role(role), "role") => return fixed(role.as_str() == wanted),
        (Subject::Task(key), "framework_id") => return fixed(key.framework.to_string() == wanted),
        (Subject::Task(key), "task_id") => return fixed(key.task.to_string() == wanted),
        (_, _) => {}
    }
    match (fields, field) {
        // Its last state is unknown, so it may have matched.
        (None, _) => Match::Yes,
        (Some(FilterFields::Agent { host_name, .. }), "host_name") => varying(host_name == wanted),
        (Some(FilterFields::Agent { mode, .. }), "mode") => varying(mode == wanted),
        (Some(FilterFields::Framework { name, .. }), "name") => varying(name == wanted),
        (Some(FilterFields::Task { agent, .. }), "agent_id") => fixed(agent.to_string() == wanted),
        (Some(FilterFields::Task { role, .. }), "role") => fixed(role.as_str() == wanted),
        (Some(FilterFields::Task { state, .. }), "state") => varying(state == wanted),
        // The history may shorten it.
        (Some(FilterFields::Task { name, .. }), "name") => varying(name == wanted),
        (Some(_), _) => Match::Never,
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{FrameworkId, TaskId, TaskKey};

    use super::*;
    use crate::access::Reader;

    /// Returns the view of a reader to which nothing is denied.
    fn everything() -> FollowedSights {
        FollowedSights::new(Reader::Unrestricted, Arc::default())
    }

    fn selection(kinds: &[&str], filter: &[(&str, &str)]) -> Result<Selection, Status> {
        let kinds: Vec<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let filter = filter
            .iter()
            .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()));
        Selection::new(&kinds, filter.collect(), everything())
    }

    fn task() -> Subject {
        Subject::Task(TaskKey {
            framework: FrameworkId(1),
            task: TaskId::new("web").unwrap(),
        })
    }

    fn fields(state: &str) -> FilterFields {
        FilterFields::Task {
            agent: AgentId(2),
            role: Role::new("ops").unwrap(),
            state: state.to_owned(),
            name: "web".to_owned(),
            user: String::new(),
        }
    }

    #[test]
    fn a_record_that_no_longer_matches_is_removed_and_one_that_never_did_is_skipped() {
        let running = selection(&["task"], &[("state", "TASK_STATE_RUNNING")]).unwrap();
        let judge = |state| running.judge(&task(), Some(&fields(state)), true);
        assert_eq!(judge("running"), Verdict::Shown);
        assert_eq!(judge("failed"), Verdict::Removed);
        let ended = running.judge(&task(), Some(&fields("running")), false);
        assert_eq!(ended, Verdict::Removed);
        for never in [
            ("framework_id", "framework-2"),
            ("agent_id", "agent-1"),
            ("role", "dev"),
            ("task_id", "other"),
        ] {
            let other = selection(&[], &[never]).unwrap();
            let judged = other.judge(&task(), Some(&fields("running")), true);
            assert_eq!(judged, Verdict::Skipped, "{never:?}");
        }
    }

    #[test]
    fn a_forgotten_record_is_removed_unless_its_id_shows_that_it_never_matched() {
        let judge = |field, value| {
            let selection = selection(&[], &[(field, value)]).unwrap();
            selection.judge(&task(), None, false)
        };
        assert_eq!(judge("agent_id", "agent-9"), Verdict::Removed);
        assert_eq!(judge("task_id", "other"), Verdict::Skipped);
    }

    #[test]
    fn kinds_without_a_filtered_field_are_left_out() {
        let selection = selection(&[], &[("framework_id", "framework-1")]).unwrap();
        let included = Kind::ALL.map(|kind| selection.includes(kind));
        assert_eq!(included, [false, false, false, true, true]);
    }

    #[test]
    fn what_a_selection_keeps_is_bounded() {
        let repeated = selection(&["task", "agent"].repeat(5_000), &[]).unwrap();
        assert_eq!(repeated.kinds, [Kind::Agent, Kind::Task]);
        assert!(selection(&[], &[("name", &"x".repeat(VALUE_BYTES))]).is_ok());
        for field in ["name", "state", "agent_id"] {
            let refused = selection(&[], &[(field, &"x".repeat(VALUE_BYTES + 1))]);
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains("1025 bytes; at most 1024"));
            assert!(refused.message().len() < 200, "{refused}");
        }
    }

    #[test]
    fn errors_about_many_long_names_are_short() {
        let long = "\u{1b}[2J".repeat(10_000);
        let names: Vec<String> = (0..10_000).map(|at| format!("field-{at}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        for refused in [
            selection(&[&long], &[]),
            selection(&[], &[(&long, "x")]),
            selection(&[], &many),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains("is none of"), "{refused}");
            assert!(refused.message().len() < 700, "{refused}");
            assert!(!refused.message().contains('\u{1b}'), "{refused}");
        }
    }

    #[test]
    fn unknown_kinds_fields_and_values_are_rejected_with_the_known_ones() {
        for (kinds, filter, says) in [
            (&["tasks"][..], &[][..], "cluster, role, agent, framework"),
            (&["answer"], &[], "\"answer\""),
            (&["agent"], &[("state", "running")], "host_name, mode"),
            (&[], &[("key", "x")], "\"key\" is none of agent_id"),
            (&[], &[("state", "runing")], "staging, starting, running"),
            (&[], &[("agent_id", "x")], "agent-N"),
            (&[], &[("state", "running"), ("mode", "gone")], "no kind"),
        ] {
            let refused = selection(kinds, filter).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(says), "{refused}");
        }
    }
}
