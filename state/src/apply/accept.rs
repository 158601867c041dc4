//! Acceptance of offers: the only place where an offer becomes a task.
//!
//! An offer is a hint. All its terms are checked again here, against the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::CommandContext;
use super::agents::check_resources;
use super::overlay::{AvailableResources, Overlay};
use super::tasks::TaskChange;
use super::{
    checks, command_line, confinement, container, discovery, executors, groups, secrets, uris,
    volumes,
};
use crate::Registry;
use crate::agent::AgentMode;
use crate::capability::AgentCapability;
use crate::command::{Accept, Call, OfferOperation, OfferTerms, Position, Rejection};
use crate::event::Event;
use crate::ids::{AgentId, OrderIndex, Role, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::planted_bug;
use crate::resources::Resources;
use crate::task::{CheckResults, Reason, Task, TaskSpec, TaskState, TaskTransition};

/// The agent and the role of an acceptance, and its call.
#[derive(Debug, Clone, Copy)]
pub(super) struct AcceptContext<'a> {
    pub(super) call: &'a Call,
    agent: AgentId,
    role: &'a Role,
}

impl Registry {
    /// Applies the operations that fit, and returns the positions of the refused ones.
    pub(super) fn accept(
        &mut self,
        context: &mut CommandContext,
        call: &Call,
        accept: &Accept,
    ) -> Result<Vec<(Position, Rejection)>, Rejection> {
        let (agent, role, promised) = self.check_offers(context, call, accept)?;
        check_size(accept)?;
        let index = self.index.frameworks.get(&call.framework);
        if index.is_some_and(|index| index.ended >= limits::UNACKNOWLEDGED_TASKS) {
            return Err(Rejection::TooManyUnacknowledged);
        }
        let mut refused = self.check_operations(call, accept, (agent, &role), promised);
        if accept.all_or_nothing && !refused.is_empty() {
            let alone = accept.positions().map(|at| (at, Rejection::NotAttempted));
            let whole: BTreeMap<_, _> = alone.chain(refused).collect();
            refused = whole.into_iter().collect();
        }
        // Nothing is refused after this point.
        self.use_offers(agent, accept);
        let skipped: BTreeSet<_> = refused.iter().map(|(position, _)| *position).collect();
        for (operation, wanted) in (0..).zip(&accept.operations) {
            match wanted {
                OfferOperation::Launch(tasks) | OfferOperation::LaunchGroup(tasks) => {
                    for (task, spec) in (0..).zip(tasks) {
                        if !skipped.contains(&Position { operation, task }) {
                            self.launch(context, call, agent, &role, spec, accept.wall_ms);
                        }
                    }
                }
            }
        }
        context.emit(Event::AgentUsageChanged(agent));
        Ok(refused)
    }

    /// Checks that every offer is valid and that all are of one agent and role. Returns the sum of
    /// their resources.
    fn check_offers(
        &self,
        context: &CommandContext,
        call: &Call,
        accept: &Accept,
    ) -> Result<(AgentId, Role, Resources), Rejection> {
        let first = accept.offers.first().ok_or(Rejection::NoOffers)?;
        let mut seen = BTreeSet::new();
        let mut promised = Resources::none();
        for offer in &accept.offers {
            if !seen.insert(offer.id) {
                return Err(Rejection::OfferTwice(offer.id));
            }
            if offer.framework != call.framework || offer.session != call.session {
                return Err(Rejection::OfferForeign(offer.id));
            }
            if offer.agent != first.agent || offer.role != first.role {
                return Err(Rejection::OfferMixed(offer.id));
            }
            self.check_offer(context, offer)?;
            // Two valid offers of one agent never overlap. Forged offers might.
            promised = promised
                .plus(&offer.resources)
                .ok_or(Rejection::OfferOutdated(offer.id, offer.agent))?;
        }
        Ok((first.agent, first.role.clone(), promised))
    }

    fn check_offer(&self, context: &CommandContext, offer: &OfferTerms) -> Result<(), Rejection> {
        if offer.expires <= context.at {
            return Err(Rejection::OfferExpired(offer.id));
        }
        let framework = self
            .frameworks
            .get(&offer.framework)
            .ok_or(Rejection::UnknownFramework(offer.framework))?;
        if !framework.info.roles.contains(&offer.role) {
            return Err(Rejection::Invalid {
                field: "offers".into(),
                text: format!("the framework has left role {}", offer.role),
            });
        }
        let agent = self
            .agents
            .get(&offer.agent)
            .ok_or(Rejection::UnknownAgent(offer.agent))?;
        if agent.mode() != AgentMode::Registered {
            return Err(Rejection::AgentNotActive(offer.agent, agent.mode()));
        }
        if agent.offer_revision != offer.offer_revision || !agent.total().contains(&offer.resources)
        {
            return Err(Rejection::OfferOutdated(offer.id, offer.agent));
        }
        if agent.used_offers.ids.contains(&offer.id) && !planted_bug!(UsedOfferHonoured) {
            return Err(Rejection::OfferUsed(offer.id));
        }
        // The leader's offer book guarantees offers of the current epoch. Offers of earlier epochs
        // are checked against the window of used offers.
        if offer.id.epoch > self.cluster.epoch
            || (offer.id.epoch < self.cluster.epoch && offer.id <= agent.used_offers.floor)
        {
            return Err(Rejection::OfferUsed(offer.id));
        }
        Ok(())
    }

    /// Returns the refused parts. Each operation is checked against the result of those before it.
    fn check_operations(
        &self,
        call: &Call,
        accept: &Accept,
        (agent, role): (AgentId, &Role),
        promised: Resources,
    ) -> Vec<(Position, Rejection)> {
        let known = self.agents.get(&agent);
        let known = known.expect("its offers were validated");
        let supply = AvailableResources {
            remaining: promised,
            free: self.free(agent),
            total: known.total().clone(),
        };
        let bytes = self
            .is_bounded()
            .then(|| self.task_bytes_left(call.framework));
        let mut overlay = Overlay::new(supply, bytes);
        let scope = AcceptContext { call, agent, role };
        let mut refused = Vec::new();
        for (operation, wanted) in (0..).zip(&accept.operations) {
            let refused_tasks = match wanted {
                OfferOperation::Launch(tasks) => self.check_launches(scope, tasks, &mut overlay),
                OfferOperation::LaunchGroup(tasks) => {
                    let why = self.check_group(scope, tasks, &mut overlay).err();
                    let each = |why: Rejection| (0..).zip(std::iter::repeat_n(why, tasks.len()));
                    why.into_iter().flat_map(each).collect()
                }
            };
            let at = |(task, why)| (Position { operation, task }, why);
            refused.extend(refused_tasks.into_iter().map(at));
        }
        refused
    }

    /// Returns the refused tasks of a launch. In format 2 a launch may contain groups.
    fn check_launches<'a>(
        &self,
        scope: AcceptContext<'_>,
        tasks: &'a [TaskSpec],
        overlay: &mut Overlay<'a>,
    ) -> Vec<(u32, Rejection)> {
        let mut refused = Vec::new();
        let mut numbers = 0_u32..;
        for together in tasks.chunk_by(groups::in_same_group) {
            let numbers = numbers.by_ref().take(together.len());
            let result = match (&together[0].group, together) {
                (None, [spec]) => self.check_launch(scope, spec, overlay),
                (Some(_), _) | (None, _) => self.check_group(scope, together, overlay),
            };
            match result {
                Ok(()) => numbers.for_each(drop),
                Err(why) => refused.extend(numbers.map(|number| (number, why.clone()))),
            }
        }
        refused
    }

    /// Takes the task's resources from the overlay if the launch is valid; otherwise leaves the
    /// overlay unchanged.
    pub(super) fn check_launch<'a>(
        &self,
        scope: AcceptContext<'_>,
        spec: &'a TaskSpec,
        overlay: &mut Overlay<'a>,
    ) -> Result<(), Rejection> {
        check_spec(spec, self.level())?;
        let AcceptContext { call, agent, role } = scope;
        let key = TaskKey {
            framework: call.framework,
            task: spec.task.clone(),
        };
        let is_known = self.tasks.contains_key(&key) || self.index.history.contains_key(&key);
        if is_known || overlay.has_task(&spec.task) {
            return Err(Rejection::TaskExists(key.task));
        }
        secrets::check_task(spec, role)?;
        self.check_allowed(spec, agent)?;
        let brought = overlay.new_executors();
        let taken = executors::launch_resources(self, agent, call.framework, role, spec, brought)?;
        overlay.launch(call.framework, spec, &taken)
    }

    fn check_allowed(&self, spec: &TaskSpec, agent: AgentId) -> Result<(), Rejection> {
        if let Some(executor) = &spec.executor {
            let result = self.check_allowed(&executor.as_task(), agent);
            result.map_err(|why| prefix_field("executor", why))?;
        }
        let agent = self.agents.get(&agent);
        let agent = agent.expect("its offers were validated");
        if self.level() >= Level::RELEASE_0_2 {
            let lacking = AgentCapability::needed(spec).find(|one| !agent.report.info.can(*one));
            if let Some(capability) = lacking {
                return Err(Rejection::AgentIncapable(agent.id, capability));
            }
        }
        confinement::check_allowed(spec, agent).map_err(|(field, text)| Rejection::Invalid {
            field: field.into(),
            text,
        })
    }

    fn use_offers(&mut self, id: AgentId, accept: &Accept) {
        let window = &mut self.count_agent(id).used_offers;
        // An offer at or below the floor already counts as used. The floor never decreases.
        let floor = window.floor;
        let ids = accept.offers.iter().map(|offer| offer.id);
        window.ids.extend(ids.filter(|id| *id > floor));
        while window.ids.len() > limits::USED_OFFERS {
            window.floor = window.ids.pop_first().expect("it is longer than its limit");
        }
    }

    fn launch(
        &mut self,
        context: &mut CommandContext,
        call: &Call,
        agent: AgentId,
        role: &Role,
        spec: &TaskSpec,
        wall_ms: i64,
    ) {
        let order = self.launch_order(context, agent);
        let revision = context.next_revision();
        let key = TaskKey {
            framework: call.framework,
            task: spec.task.clone(),
        };
        let staging = TaskChange::by_master(TaskState::Staging, Reason::None, wall_ms);
        let staging = staging.into_update(revision);
        let transition = TaskTransition::of(&staging);
        self.put_task(Task {
            key: key.clone(),
            agent,
            role: role.clone(),
            order,
            spec: Arc::new(spec.clone()),
            kill: None,
            limits_change: None,
            state: TaskState::Staging,
            agent_state: TaskState::Staging,
            standing: CheckResults::default(),
            reported: 0,
            latest: staging,
            unacknowledged: Vec::new(),
            revision,
        });
        self.add_transition(&key, transition);
        context.emit(Event::TaskLaunched { key, agent, order });
    }

    fn launch_order(&mut self, context: &CommandContext, agent: AgentId) -> OrderIndex {
        planted_bug!(SharedOrder if context.position > 1 => return self.last_order(agent));
        self.next_order(agent)
    }
}

fn check_size(accept: &Accept) -> Result<(), Rejection> {
    let (tasks, most) = (accept.tasks().count(), limits::TASKS_PER_ACCEPT);
    let operations = accept.operations.len();
    let text = if tasks > most {
        format!("{tasks} tasks; at most {most} in one accept")
    } else if operations > limits::OPERATIONS_PER_ACCEPT {
        let most = limits::OPERATIONS_PER_ACCEPT;
        format!("{operations} operations; at most {most} in one accept")
    } else {
        return Ok(());
    };
    Err(Rejection::Invalid {
        field: "operations".into(),
        text,
    })
}

/// Rejects an acceptance if its descriptions alone prevent the launch of every task, whatever the
/// offers. The error names the first invalid description by its position.
///
/// # Errors
/// Names the task and its field.
pub fn check_descriptions(accept: &Accept) -> Result<(), Rejection> {
    let mut first = None;
    for (at, operation) in accept.operations.iter().enumerate() {
        type Together = fn(&TaskSpec, &TaskSpec) -> bool;
        let (name, are_together): (_, Together) = match operation {
            OfferOperation::Launch(_) => ("launch", groups::in_same_group),
            // One invalid task invalidates its group.
            OfferOperation::LaunchGroup(_) => ("launch_group", |_, _| true),
        };
        let mut number = 0_usize..;
        for together in operation.tasks().chunk_by(are_together) {
            let mut tasks = together.iter().zip(number.by_ref());
            let wrong =
                tasks.find_map(|(spec, task)| Some((task, check_spec(spec, Level::NEWEST).err()?)));
            tasks.for_each(drop);
            match wrong {
                None if accept.all_or_nothing => {}
                None => return Ok(()),
                Some((task, why)) => {
                    let field = format!("operations[{at}].{name}.tasks[{task}]");
                    let why = prefix_field(&field, why);
                    if accept.all_or_nothing {
                        return Err(why);
                    }
                    first.get_or_insert(why);
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Validates the parts of a description that do not depend on the agent.
pub(super) fn check_spec(spec: &TaskSpec, level: Level) -> Result<(), Rejection> {
    let invalid = |field: &str, text: &str| {
        Err(Rejection::Invalid {
            field: field.into(),
            text: text.into(),
        })
    };
    if spec.resources.is_empty() {
        return invalid("resources", "ask for something, as cpus:0.1;mem:32");
    }
    if let Err(why) = check_resources(&spec.resources) {
        return invalid("resources", &why);
    }
    if let Err((field, text)) = check_parts(spec, level) {
        return invalid(&field, &text);
    }
    if let Some(executor) = &spec.executor {
        check_spec(&executor.as_task(), level).map_err(|why| prefix_field("executor", why))?;
    }
    if let Err((field, text)) = command_line::check(spec, level) {
        return invalid(&field, &text);
    }
    check_spec_size(spec.estimated_size(level))
}

/// Validates the estimated size of a description.
pub(super) fn check_spec_size(size: usize) -> Result<(), Rejection> {
    if size > limits::TASK_SPEC_BYTES {
        return Err(Rejection::Invalid {
            field: "task".to_owned(),
            text: format!(
                "its description takes {size} bytes; at most {}: use uris for data",
                limits::TASK_SPEC_BYTES
            ),
        });
    }
    Ok(())
}

/// Validates the parts that have rules of their own, such as volumes and checks. An error names the
/// field and the remedy.
fn check_parts(spec: &TaskSpec, level: Level) -> Result<(), (String, String)> {
    let named = |(field, text): (&str, String)| (field.to_owned(), text);
    container::check(spec).map_err(named)?;
    confinement::check(spec, level).map_err(named)?;
    checks::check(spec)?;
    volumes::check(spec, level)?;
    uris::check(spec, level)?;
    discovery::check(spec)?;
    executors::check(spec).map_err(named)
}

/// Returns the rejection with its field prefixed by `outer`.
fn prefix_field(outer: &str, why: Rejection) -> Rejection {
    match why {
        Rejection::Invalid { field, text } => Rejection::Invalid {
            field: format!("{outer}.{field}"),
            text,
        },
        other => other,
    }
}
