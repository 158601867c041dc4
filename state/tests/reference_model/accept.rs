//! Acceptances of offers, and the launches in them.

use argosy_state::testing::spec;

use super::model::*;

/// The acceptance so far: what is left, and the tasks that will be launched.
#[derive(Clone)]
struct Plan {
    framework: FrameworkId,
    agent: AgentId,
    role: Role,
    /// The rest of the offers, and the free resources of the agent.
    rests: [Resources; 2],
    launches: Vec<TaskSpec>,
}

impl Model {
    /// Performs an acceptance. Returns the refused positions.
    pub(crate) fn accept(&mut self, framework: FrameworkId, accept: &Accept) -> Checked<Refused> {
        let offered = self.check_offers(framework, &accept.offers)?;
        let (agent, role) = (accept.offers[0].agent, accept.offers[0].role.clone());
        let mut plan = Plan {
            framework,
            agent,
            role,
            rests: [offered, self.free(agent)],
            launches: Vec::new(),
        };
        let mut refused = BTreeMap::new();
        for (operation, of) in (0..).zip(&accept.operations) {
            let mut positions = (0..).map(|task| Position { operation, task });
            for unit in units(of) {
                let is_group = matches!(of, OfferOperation::LaunchGroup(_));
                let former = plan.clone();
                let launched = self.plan_unit(&mut plan, unit, is_group);
                for (why, at) in unit.iter().map(|_| launched.clone()).zip(&mut positions) {
                    refused.extend(why.err().map(|why| (at, why)));
                }
                if launched.is_err() {
                    plan = former;
                }
            }
        }
        if accept.all_or_nothing && !refused.is_empty() {
            for at in accept.positions() {
                refused.entry(at).or_insert(Rejection::NotAttempted);
            }
            plan.launches.clear();
        }
        self.use_offers(agent, &accept.offers);
        for spec in std::mem::take(&mut plan.launches) {
            self.launch(&plan, spec, accept.wall_ms);
        }
        self.emit(Event::AgentUsageChanged(agent));
        Ok(refused.into_iter().collect())
    }

    /// Checks the offers. Returns their sum.
    fn check_offers(&self, id: FrameworkId, offers: &[OfferTerms]) -> Checked<Resources> {
        let framework = &self.frameworks[&id];
        let first = offers.first().ok_or(Rejection::NoOffers)?;
        let mut sum = Resources::none();
        for (at, offer) in offers.iter().enumerate() {
            let is_twice = offers[..at].iter().any(|former| former.id == offer.id);
            refuse(is_twice, Rejection::OfferTwice(offer.id))?;
            let is_own = offer.framework == id && offer.session == framework.session;
            refuse(!is_own, Rejection::OfferForeign(offer.id))?;
            let is_mixed = offer.agent != first.agent || offer.role != first.role;
            refuse(is_mixed, Rejection::OfferMixed(offer.id))?;
            self.check_offer(framework, offer)?;
            let outdated = Rejection::OfferOutdated(offer.id, offer.agent);
            sum = sum.plus(&offer.resources).ok_or(outdated)?;
        }
        Ok(sum)
    }

    fn check_offer(&self, framework: &Framework, offer: &OfferTerms) -> Checked {
        let is_expired = self.time >= offer.expires;
        refuse(is_expired, Rejection::OfferExpired(offer.id))?;
        let has_left = !framework.info.roles.contains(&offer.role);
        refuse(has_left, invalid("offers"))?;
        let agent = self.agent(offer.agent)?;
        let (id, mode) = (agent.id, agent.mode());
        let is_active = mode == AgentMode::Registered;
        refuse(!is_active, Rejection::AgentNotActive(id, mode))?;
        let is_outdated = offer.offer_revision != agent.offer_revision
            || !agent.total().contains(&offer.resources);
        refuse(is_outdated, Rejection::OfferOutdated(offer.id, id))?;
        // The leader has a book of the offers of its epoch, but not of earlier ones.
        let used = &agent.used_offers;
        let is_below = offer.id.epoch < self.cluster.epoch && offer.id <= used.floor;
        let is_future = offer.id.epoch > self.cluster.epoch;
        let is_used = used.ids.contains(&offer.id) || is_below || is_future;
        refuse(is_used, Rejection::OfferUsed(offer.id))
    }

    fn use_offers(&mut self, agent: AgentId, offers: &[OfferTerms]) {
        let agent = self.agents.get_mut(&agent).expect("it was found");
        let used = &mut agent.used_offers;
        used.ids.extend(offers.iter().map(|offer| offer.id));
        while used.ids.len() > limits::USED_OFFERS {
            let oldest = used.ids.pop_first().expect("there are many");
            used.floor = used.floor.max(oldest);
        }
    }

    /// Returns the resources that the tasks of an agent use. An executor counts once.
    pub(crate) fn used(&self, id: AgentId) -> Resources {
        let mut executors = BTreeSet::new();
        self.live_on(id).fold(Resources::none(), |used, task| {
            let executor = task.spec.executor.as_deref();
            let is_first =
                |one: &&ExecutorSpec| executors.insert((task.key.framework, one.executor.clone()));
            let executor = executor.filter(is_first).map(|one| &one.resources);
            let mut parts = executor.into_iter().chain([&task.spec.resources]);
            let sum = parts.try_fold(used, |used, part| used.plus(part));
            sum.expect("tasks do not overlap")
        })
    }

    pub(crate) fn free(&self, id: AgentId) -> Resources {
        let total = self.agents[&id].total();
        total.minus(&self.used(id)).unwrap_or_default()
    }

    /// Adds a task, or all tasks of a group, to the plan.
    fn plan_unit(&self, plan: &mut Plan, unit: &[TaskSpec], is_group: bool) -> Checked {
        let Some(group) = unit[0].group.as_ref().map(|group| group.id.clone()) else {
            refuse(is_group, invalid("group"))?;
            return self.plan_task(plan, &unit[0]);
        };
        let is_of_group = |spec: &TaskSpec| spec.group.as_ref().is_some_and(|of| of.id == group);
        let mut present = self.tasks_of(plan.framework);
        let is_used =
            present.any(|task| is_of_group(&task.spec)) || plan.launches.iter().any(is_of_group);
        let is_whole = TaskGroup::of(&group, unit.to_vec()) == unit;
        let has_executor = unit.iter().any(|spec| spec.executor.is_some());
        let mut planned = unit.iter().map(|spec| self.plan_task(plan, spec));
        match is_used || !is_whole || has_executor || planned.any(|one| one.is_err()) {
            true => Err(Rejection::TaskGroupInvalid {
                group,
                text: String::new(),
            }),
            false => Ok(()),
        }
    }

    fn plan_task(&self, plan: &mut Plan, spec: &TaskSpec) -> Checked {
        check_description(spec)?;
        let task = &spec.task;
        let key = key(plan.framework, task);
        let mut planned = plan.launches.iter();
        let is_planned = planned.any(|other| other.task == *task);
        let is_used = is_planned || self.tasks.contains_key(&key) || self.is_finished(&key);
        refuse(is_used, Rejection::TaskExists(task.clone()))?;
        let mut wanted = spec.resources.clone();
        if let Some(executor) = &spec.executor
            && !self.has_executor(plan, executor)?
        {
            let sum = wanted.plus(&executor.resources);
            wanted = sum.ok_or(invalid("executor"))?;
        }
        for rest in &mut plan.rests {
            let left = match rest.is_empty() {
                true => "nothing".to_owned(),
                false => rest.to_string(),
            };
            let asked = wanted.to_string();
            let why = Rejection::TooLarge { asked, left };
            *rest = rest.minus(&wanted).ok_or(why)?;
        }
        plan.launches.push(spec.clone());
        Ok(())
    }

    /// Returns whether the executor has a task on the agent. All its tasks describe it alike, and
    /// are in one role.
    fn has_executor(&self, plan: &Plan, executor: &ExecutorSpec) -> Checked<bool> {
        let present = self.live_on(plan.agent);
        let present = present.filter(|task| task.key.framework == plan.framework);
        let present = present.map(|task| (&*task.spec, &task.role));
        let planned = plan.launches.iter().map(|spec| (spec, &plan.role));
        let mut is_present = false;
        for (spec, role) in present.chain(planned) {
            let other = spec.executor.as_deref();
            if let Some(other) = other.filter(|other| other.executor == executor.executor) {
                let differs = *other != *executor || *role != plan.role;
                refuse(differs, invalid("executor"))?;
                is_present = true;
            }
        }
        Ok(is_present)
    }

    fn launch(&mut self, plan: &Plan, spec: TaskSpec, wall_ms: i64) {
        let (agent, role) = (plan.agent, plan.role.clone());
        let key = key(plan.framework, &spec.task);
        let order = self.order(agent);
        let latest = self.by_master((TaskState::Staging, Reason::None), wall_ms);
        self.add_transition(&key, TaskTransition::of(&latest));
        let task = Task {
            key: key.clone(),
            agent,
            role,
            order,
            spec: Arc::new(spec),
            kill: None,
            limits_change: None,
            state: TaskState::Staging,
            agent_state: TaskState::Staging,
            standing: Default::default(),
            reported: 0,
            revision: latest.revision,
            latest,
            unacknowledged: Vec::new(),
        };
        self.tasks.insert(key.clone(), task);
        self.emit(Event::TaskLaunched { key, agent, order });
    }
}

/// Returns the parts of an operation that are launched or refused together: the tasks of a group,
/// or a single task.
fn units(operation: &OfferOperation) -> Vec<&[TaskSpec]> {
    let id = |spec: &TaskSpec| spec.group.as_ref().map(|group| group.id.clone());
    let is_together = |a: &TaskSpec, b: &TaskSpec| a.group.is_some() && id(a) == id(b);
    match operation {
        OfferOperation::LaunchGroup(tasks) => tasks.chunks(tasks.len().max(1)).collect(),
        OfferOperation::Launch(tasks) => tasks.chunk_by(is_together).collect(),
    }
}

/// Checks a description, of which the random frameworks set few fields.
fn check_description(task: &TaskSpec) -> Checked {
    let modelled = TaskSpec {
        environment: task.environment.clone(),
        stop_after_ms: task.stop_after_ms,
        group: task.group.clone(),
        executor: task.executor.clone(),
        ..spec(task.task.as_str(), &task.resources.to_string())
    };
    assert_eq!(*task, modelled, "not modelled");
    let mut names = task.environment.keys();
    refuse(names.any(|name| name.contains('=')), invalid("environment"))
}
