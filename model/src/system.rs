//! The steps of the system, as a model for the checker.

use stateright::{Model, Property};

use crate::*;

impl Action {
    /// Returns the budget of a step that may never happen. Each other step happens at some time.
    pub(super) fn budget(&self) -> Option<usize> {
        match self {
            Self::OpenEpoch(_) => Some(0),
            Self::Offer(_) => Some(1),
            Self::Propose(_, Command::Accept(..) | Command::Kill(_)) => Some(2),
            Self::Crash(..) => Some(3),
            Self::Disconnect | Self::Connect(1) => Some(4),
            Self::Propose(_, Command::AgentUnreachable(_)) => Some(5),
            _ => None,
        }
    }
}

impl System {
    fn agent_actions(&self, actions: &mut Vec<Action>) {
        let records = 0..self.agent.journal.len();
        actions.extend(records.clone().map(|synced| Action::Crash(synced, false)));
        actions.extend(records.map(|synced| Action::Crash(synced, true)));
        match &self.agent.link {
            None => actions.extend((0..self.leaders.len()).map(Action::Connect)),
            Some(link) => {
                actions.push(Action::Disconnect);
                actions.extend(link.up.first().copied().map(Action::ToLeader));
                actions.extend(link.down.first().copied().map(Action::ToAgent));
            }
        }
        for task in 0..TASKS {
            let runs = self.agent.containers[task] == Some(true);
            actions.extend(self.agent.is_startable(task).then_some(Action::Start(task)));
            actions.extend(runs.then_some(Action::Exit(task)));
            actions.extend(self.agent.observe(task).map(|_| Action::Report(task)));
        }
    }

    /// Returns what a leader may propose for frameworks and by itself.
    fn requests(&self, bounds: &Bounds, at: usize) -> Vec<Command> {
        let Leader { registry, book, proposals } = &self.leaders[at];
        let is_open = |offer: &&_| book.contains(offer) || offer.0 < registry.epoch;
        let mut commands = Vec::new();
        for (id, task) in registry.tasks.iter().enumerate().take(bounds.tasks) {
            let offers = self.offers.iter().filter(|_| task.is_none()).filter(is_open);
            commands.extend(offers.map(|offer| Command::Accept(*offer, id)));
            let is_killable = self.launched[id] && registry.live(id).is_some();
            commands.extend(is_killable.then_some(Command::Kill(id)));
            let is_due = |task: &&Task| !task.is_live() && task.acknowledged < task.revision;
            let ended = task.as_ref().filter(is_due).filter(|_| at == 0);
            commands.extend(ended.map(|task| Command::Acknowledge(id, task.revision)));
        }
        let is_watched = at == 0 && !registry.is_unreachable;
        commands.extend(is_watched.then_some(Command::AgentUnreachable(registry.revision)));
        commands.retain(|command| !proposals.contains(command));
        commands
    }
}

impl Model for Bounds {
    type State = System;
    type Action = Action;

    fn init_states(&self) -> Vec<System> {
        let agent = Agent { journal: vec![Facts::default()], ..Agent::default() };
        let leaders = vec![Leader::default()];
        vec![System { leaders, agent, left: self.budget, ..System::default() }]
    }

    fn actions(&self, system: &System, actions: &mut Vec<Action>) {
        system.agent_actions(actions);
        for (at, leader) in system.leaders.iter().enumerate() {
            actions.extend(leader.proposals.first().map(|command| Action::Apply(at, *command)));
            actions.push(Action::Offer(at));
            let requests = system.requests(self, at).into_iter();
            actions.extend(requests.map(|command| Action::Propose(at, command)));
        }
        match &system.leaders[..] {
            [leader] => actions.extend((0..=leader.proposals.len()).map(Action::OpenEpoch)),
            _ => actions.push(Action::StepDown),
        }
        actions.retain(|action| action.budget().is_none_or(|of| system.left[of] > 0));
    }

    fn next_state(&self, former: &System, action: Action) -> Option<System> {
        let mut next = former.clone();
        action.budget().into_iter().for_each(|of| next.left[of] -= 1);
        let agent = &mut next.agent;
        match action {
            Action::OpenEpoch(committed) => next.open_epoch(self, committed),
            Action::StepDown => {
                next.leaders.pop();
                agent.link.take_if(|link| link.epoch != next.leaders[0].registry.epoch);
            }
            Action::Offer(at) => {
                let offer = (next.leaders[at].registry.epoch, self.budget[1] - next.left[1]);
                next.leaders[at].book.push(offer);
                next.offers.push(offer);
            }
            Action::Propose(at, command) => next.propose(self, at, command),
            Action::Apply(at, _) => next.commit(self, at),
            Action::Connect(at) => agent.connect(next.leaders[at].registry.epoch),
            Action::Disconnect => agent.link = None,
            Action::ToLeader(_) => next.receive(self),
            Action::ToAgent(_) => agent.receive(self),
            Action::Start(task) => agent.start(task),
            Action::Exit(task) => agent.containers[task] = Some(false),
            Action::Report(task) => agent.report(self, task),
            Action::Crash(synced, is_reboot) => agent.crash(synced, is_reboot),
        }
        next.agent.remove_orphans();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::tests::laws::properties()
    }
}
