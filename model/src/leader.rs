//! The leaders: the link of the agent, and the effects of committed commands.

use crate::*;

/// Returns whether the agent holds exactly what it should, apart from orders above its floor.
fn is_equal(registry: &Registry, facts: &Facts) -> bool {
    let is_delivered = |task: &&Task| task.order <= facts.floor || task.reported > 0;
    let expected = |id| registry.live(id).filter(is_delivered).map(|task| task.reported);
    let is_unreachable = |task: &Task| task.state == TaskState::Unreachable;
    facts.floor <= registry.orders
        && (0..TASKS).all(|id| expected(id) == facts.held(id).map(|task| task.committed))
        && !registry.tasks.iter().flatten().any(is_unreachable)
}

impl System {
    /// Handles the next message of the agent.
    pub(super) fn receive(&mut self, bounds: &Bounds) {
        let link = self.agent.link.as_mut().expect("it has a message");
        let (command, epoch) = (link.up.remove(0), link.epoch);
        let is_above = matches!(&link.stage, LinkStage::Registering(facts) if facts.epoch > epoch);
        if is_above && !bounds.has(Mistake::EpochNotChecked) {
            self.agent.link = None;
            return;
        }
        if let Command::ReconcileAgent(_, floor, _) = command {
            link.stage = LinkStage::Listing(Some(floor));
        }
        let at = usize::from(epoch != self.leaders[0].registry.epoch);
        let leader = &mut self.leaders[at];
        let known = Command::RegisterAgent(leader.registry.incarnation);
        if command != known || leader.registry.is_unreachable {
            leader.proposals.push(command);
        }
        self.serve(bounds, at);
    }

    /// Registers the agent if its hello waits for that: it is ready, or must send its list. Sends
    /// the orders that a ready link has not been sent.
    fn serve(&mut self, bounds: &Bounds, at: usize) {
        let registry = &self.leaders[at].registry;
        let is_known = registry.incarnation == self.agent.incarnation && !registry.is_unreachable;
        let is_own = |link: &&mut Link| link.epoch == registry.epoch;
        let Some(link) = self.agent.link.as_mut().filter(is_own) else { return };
        if let (LinkStage::Registering(facts), true) = (&link.stage, link.up.is_empty() && is_known)
        {
            let is_ignored = bounds.has(Mistake::DigestIgnored) && facts.floor == registry.orders;
            let is_skipped = bounds.has(Mistake::EqualWithUnsentOrder);
            let sent = if is_skipped { registry.orders } else { facts.floor };
            link.down.push(Message::Registered);
            if is_equal(registry, facts) || is_ignored {
                link.stage = LinkStage::Ready(sent);
            } else {
                link.stage = LinkStage::Listing(None);
                link.down.push(Message::ListTasks);
            }
        }
        if let LinkStage::Ready(sent) = &mut link.stage {
            let orders = *sent + 1..=registry.orders;
            link.down.extend(orders.map(|index| Message::Order(index, registry.order(index))));
            *sent = registry.orders;
        }
    }

    /// Applies the next command of a leader. The present leader handles the consequences.
    pub(super) fn commit(&mut self, bounds: &Bounds, at: usize) {
        let command = self.leaders[at].proposals.remove(0);
        let ticket = self.leaders[at].registry.epoch;
        let registry = &mut self.leaders[0].registry;
        let is_valid = registry.apply(bounds, ticket, &command);
        let link = self.agent.link.as_mut().filter(|link| link.epoch == registry.epoch);
        let linked = link.filter(|link| !matches!(link.stage, LinkStage::Registering(_)));
        let is_live = |task| registry.live(task).is_some();
        match (command, linked) {
            _ if !is_valid => {}
            (Command::AgentUnreachable(_), Some(_)) => self.agent.link = None,
            (Command::UpdateTasks(task, number, _), Some(link)) => {
                link.down.push(Message::Committed(task, number, !is_live(task)));
            }
            (Command::ReconcileAgent(_, _, held), Some(link)) => {
                let orphans = (0..TASKS).filter(|task| held[*task] && !is_live(*task));
                link.down.extend(orphans.map(Message::KillStray));
                if let LinkStage::Listing(Some(floor)) = link.stage {
                    let is_wrong = bounds.has(Mistake::LaunchRepeated);
                    link.stage = LinkStage::Ready(if is_wrong { 0 } else { floor });
                }
            }
            (Command::Accept(_, task), _) => self.launched[task] = true,
            _ => {}
        }
        self.serve(bounds, 0);
    }

    /// Replaces the leader. Of its proposals, the first ones are committed.
    pub(super) fn open_epoch(&mut self, bounds: &Bounds, committed: usize) {
        let former = &mut self.leaders[0];
        let (mut registry, ticket) = (former.registry.clone(), former.registry.epoch);
        for command in former.proposals.drain(..committed).chain([Command::OpenEpoch]) {
            registry.apply(bounds, ticket, &command);
        }
        self.leaders.insert(0, Leader { registry, ..Leader::default() });
    }

    /// Proposes a request of a framework, or a decision of a leader.
    pub(super) fn propose(&mut self, bounds: &Bounds, at: usize, command: Command) {
        if let Command::Accept(offer, task) = command {
            let is_kept = bounds.has(Mistake::UsedOfferHonoured);
            self.leaders[at].book.retain(|open| *open != offer || is_kept);
            self.launched[task] |= bounds.has(Mistake::AnswerBeforeCommit);
        }
        self.leaders[at].proposals.push(command);
    }
}
