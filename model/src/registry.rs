//! The committed facts. Only `apply` changes them, one command of the log after the other.

use crate::*;

impl Task {
    /// Returns whether the agent should hold the task.
    pub(super) fn is_live(&self) -> bool {
        self.ends == 0
    }

    fn set_state(&mut self, state: TaskState) {
        let is_terminal = matches!(state, TaskState::Ended | TaskState::Dropped | TaskState::Gone);
        (self.state, self.revision) = (state, self.revision + 1);
        self.ends += u8::from(is_terminal);
    }
}

impl Registry {
    pub(super) fn live(&self, task: usize) -> Option<&Task> {
        self.tasks[task].as_ref().filter(|task| task.is_live())
    }

    /// Returns the order with a number; void if it is no longer in effect.
    pub(super) fn order(&self, index: u8) -> Order {
        let order = |id| match self.live(id)? {
            task if task.order == index => Some(Order::Launch(id, task.kill.is_some())),
            task => (task.kill == Some(index)).then_some(Order::Kill(id)),
        };
        (0..TASKS).find_map(order).unwrap_or(Order::Void)
    }

    /// Applies a command with the ticket of an epoch. Returns whether it is valid.
    pub(super) fn apply(&mut self, bounds: &Bounds, ticket: u8, command: &Command) -> bool {
        let is_lost = self.is_unreachable;
        match *command {
            Command::OpenEpoch => self.epoch += 1,
            _ if ticket != self.epoch => return false,
            Command::RegisterAgent(incarnation) => {
                self.revision += u8::from(is_lost || self.incarnation != incarnation);
                (self.incarnation, self.is_unreachable) = (incarnation, false);
            }
            Command::AgentUnreachable(decided_on) if self.revision != decided_on => return false,
            Command::AgentUnreachable(_) => {
                (self.revision, self.is_unreachable) = (self.revision + 1, true);
                let live = self.tasks.iter_mut().flatten().filter(|task| task.is_live());
                live.for_each(|task| task.set_state(TaskState::Unreachable));
            }
            Command::UpdateTasks(..) if is_lost => return false,
            Command::ReconcileAgent(of, ..) if is_lost || self.incarnation != of => return false,
            Command::ReconcileAgent(_, floor, held) => {
                for (task, is_held) in self.tasks.iter_mut().zip(held) {
                    let Some(task) = task.as_mut().filter(|task| task.is_live()) else { continue };
                    let state = match (is_held, task.state) {
                        (true, TaskState::Unreachable) => task.agent_state,
                        (false, _) if task.order <= floor => TaskState::Gone,
                        (false, TaskState::Unreachable) => TaskState::Dropped,
                        _ => continue,
                    };
                    task.set_state(state);
                }
            }
            Command::UpdateTasks(task, number, state) => {
                let task = self.tasks[task].as_mut().expect("it was launched");
                let is_new = task.is_live() && number > task.reported;
                if is_new || bounds.has(Mistake::UpdateRepeated) {
                    (task.reported, task.agent_state) = (number, state);
                    task.set_state(state);
                }
            }
            Command::Accept(offer, task) => return self.accept(bounds, offer, task),
            Command::Kill(task) => {
                for task in self.tasks[task].iter_mut().filter(|task| task.is_live()) {
                    self.orders += u8::from(task.kill.is_none());
                    task.kill.get_or_insert(self.orders);
                }
            }
            Command::Acknowledge(task, revision) => {
                let task = self.tasks[task].as_mut().expect("it has updates");
                task.acknowledged = task.acknowledged.max(revision);
            }
        }
        true
    }

    /// Launches a task on an offer. If the launch is refused, the offer is used nevertheless.
    fn accept(&mut self, bounds: &Bounds, offer: OfferId, task: usize) -> bool {
        let is_below = offer.0 < self.epoch && offer <= self.used_floor;
        if self.is_unreachable || is_below || self.used_offers.contains(&offer) {
            return false;
        }
        if offer > self.used_floor && !bounds.has(Mistake::UsedOfferHonoured) {
            self.used_offers.insert(offer);
        }
        if self.used_offers.len() > bounds.window {
            self.used_floor = self.used_offers.pop_first().expect("it is longer than its limit");
        }
        let used = (0..TASKS).filter(|task| self.live(*task).is_some()).count();
        let is_free = used < bounds.units || bounds.has(Mistake::UsageNotChecked);
        if self.tasks[task].is_some() || !is_free {
            return false;
        }
        self.orders += 1;
        let (order, launch) = (self.orders, (offer, self.epoch));
        self.tasks[task] = Some(Task { order, launch, ..Task::default() });
        true
    }
}
