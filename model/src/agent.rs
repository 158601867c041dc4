//! The agent: its journal, its containers, and its link to a leader.
//!
//! A record that an effect waits for is on disk in the same step. In the code, the agent does
//! nothing between the two that others notice: if it crashes, the step has not happened.

use crate::*;

impl Facts {
    /// Returns a task that the cluster tracks.
    pub(super) fn held(&self, task: usize) -> Option<&TaskFacts> {
        self.tasks[task].as_ref().filter(|task| !task.is_orphan)
    }
}

impl Agent {
    /// Returns the facts in memory.
    pub(super) fn facts(&self) -> &Facts {
        &self.journal[self.journal.len() - 1]
    }

    /// Appends a record to the journal. The end of the process may lose lazy records since the last
    /// awaited one.
    fn persist(&mut self, is_awaited: bool, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts().clone();
        change(&mut facts);
        self.journal.retain(|_| !is_awaited);
        self.journal.push(facts);
        self.journal.dedup();
    }

    fn persist_task(&mut self, is_awaited: bool, task: usize, change: impl FnMut(&mut TaskFacts)) {
        self.persist(is_awaited, |facts| facts.tasks[task].iter_mut().for_each(change));
    }

    /// Ends the process after a number of lazy records. The next one finds the containers, which a
    /// reboot of the host ends.
    pub(super) fn crash(&mut self, synced: usize, is_reboot: bool) {
        self.journal.truncate(synced + 1);
        (self.link, self.incarnation) = (None, self.incarnation + 1);
        for id in 0..TASKS {
            self.containers[id] = self.containers[id].filter(|_| !is_reboot);
            let is_new = !is_reboot && self.containers[id].is_none();
            self.persist_task(true, id, |task| task.is_waiting = is_new && task.updates.is_empty());
        }
    }

    pub(super) fn connect(&mut self, epoch: u8) {
        let stage = LinkStage::Registering(self.facts().clone());
        let up = vec![Command::RegisterAgent(self.incarnation)];
        self.link = Some(Link { epoch, stage, up, down: vec![], is_registered: false });
    }

    fn send(&mut self, command: Command) {
        let link = self.link.as_mut().filter(|link| link.is_registered);
        link.into_iter().for_each(|link| link.up.push(command));
    }

    /// Handles the next message of the leader.
    pub(super) fn receive(&mut self, bounds: &Bounds) {
        let link = self.link.as_mut().expect("it has a message");
        let (epoch, message) = (link.epoch, link.down.remove(0));
        if epoch < self.facts().epoch && !bounds.has(Mistake::EpochNotChecked) {
            self.link = None;
            return;
        }
        if epoch > self.facts().epoch {
            self.persist(true, |facts| facts.epoch = epoch);
        }
        match message {
            Message::Registered => self.registered(bounds),
            Message::ListTasks => {
                let held = [0, 1].map(|task| self.facts().held(task).is_some());
                self.send(Command::ReconcileAgent(self.incarnation, self.facts().floor, held));
            }
            Message::Order(index, order) => self.order(bounds, epoch, index, order),
            Message::Committed(id, number, is_released) => {
                self.persist_task(false, id, |task| task.committed = task.committed.max(number));
                let is_live = self.is_startable(id) || self.containers[id] == Some(true);
                self.persist_task(is_released && is_live, id, |task| task.is_orphan |= is_released);
            }
            Message::KillStray(task) => self.persist_task(true, task, |task| task.is_orphan = true),
        }
    }

    /// Sends all updates that are not committed.
    fn registered(&mut self, bounds: &Bounds) {
        self.link.as_mut().expect("it has sent this").is_registered = true;
        let is_forgotten = bounds.has(Mistake::UpdateForgotten) && self.incarnation > 0;
        for id in (0..TASKS).filter(|_| !is_forgotten) {
            let task = self.facts().held(id).cloned().unwrap_or_default();
            let updates = (1..).zip(task.updates).skip(task.committed.into());
            updates.for_each(|(number, state)| self.send(Command::UpdateTasks(id, number, state)));
        }
    }

    fn order(&mut self, bounds: &Bounds, epoch: u8, index: u8, order: Order) {
        let floor = self.facts().floor;
        self.link.take_if(|_| index > floor + 1);
        if index != floor + 1 && !bounds.has(Mistake::LaunchRepeated) {
            return;
        }
        self.persist(!bounds.has(Mistake::OrderNotSynced), |facts| {
            facts.taken.push((epoch, index));
            facts.floor = if bounds.has(Mistake::FloorNotJournaled) { floor } else { index };
            match order {
                Order::Launch(id, is_killed) => {
                    let task = facts.tasks[id].insert(TaskFacts::default());
                    (task.is_waiting, task.is_killed) = (true, is_killed);
                }
                Order::Kill(id) => facts.tasks[id].iter_mut().for_each(|one| one.is_killed = true),
                Order::Void => {}
            }
        });
        self.persist(false, |facts| facts.floor = index);
    }

    /// Removes orphans that have ended, with their containers.
    pub(super) fn remove_orphans(&mut self) {
        for id in 0..TASKS {
            let is_orphan = self.facts().tasks[id].as_ref().is_some_and(|task| task.is_orphan);
            if is_orphan && self.containers[id] != Some(true) {
                self.persist(false, |facts| facts.tasks[id] = None);
                self.containers[id] = None;
            }
        }
    }

    /// Returns the state that is to be reported.
    pub(super) fn observe(&self, task: usize) -> Option<TaskState> {
        let facts = self.facts().held(task)?;
        let state = match self.containers[task] {
            Some(true) => TaskState::Running,
            None if facts.is_waiting && !facts.is_killed => return None,
            Some(false) | None => TaskState::Ended,
        };
        (facts.updates.last() != Some(&state)).then_some(state)
    }

    pub(super) fn report(&mut self, bounds: &Bounds, id: usize) {
        let state = self.observe(id).expect("it has changed");
        self.persist_task(true, id, |task| {
            task.updates.push(state);
            task.committed += u8::from(bounds.has(Mistake::SettledBeforeCommit));
        });
        let number = self.facts().held(id).map_or(0, |task| task.updates.len());
        self.send(Command::UpdateTasks(id, number as u8, state));
    }

    /// Returns whether a task is to be started.
    pub(super) fn is_startable(&self, task: usize) -> bool {
        self.facts().held(task).is_some_and(|task| task.is_waiting && !task.is_killed)
    }

    pub(super) fn start(&mut self, task: usize) {
        (self.starts[task], self.containers[task]) = (self.starts[task] + 1, Some(true));
        self.persist_task(false, task, |task| task.is_waiting = false);
    }
}
