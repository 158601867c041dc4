//! Passes over all agents for many clients at the same time: the client with the smallest share
//! chooses next, until no client finds anything more.
//!
//! Each client scans the agents once, in machine words of 64, so that a pass costs O(offers · log
//! clients + clients · agents / 64). A pass stops when a turn's budget is spent and continues from
//! there in the next turn. Shares are read again in each turn, and a change in between wakes the
//! clients that it concerns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Allocator;
use super::bits::Bits;
use super::budget::AllocationTurn;
use super::fair_share::ROOT;
use super::offering::VisiblePart;
use super::share::DominantShare;

/// Words of agents that are scanned in about a microsecond.
const WORDS_PER_STEP: usize = 512;

/// Agents that are skipped in about a microsecond because the client's decline of them waits.
const WAITING_PER_STEP: usize = 8;

/// Clients that are ordered in about a microsecond.
const CLIENTS_PER_STEP: usize = 16;

/// Clients that one turn orders, within about two milliseconds. If more wait, they take turns, and
/// those of one turn are served in the order of their shares.
const CLIENTS_PER_TURN: usize = 32_768;

/// The result of a scan for one client, as far as it has come.
enum ScanStep {
    /// The client can be offered this part of the agent.
    Found(u32, VisiblePart),
    /// No agent is left.
    Over,
    /// The turn's budget is spent. The scan continues at its cursor.
    TurnSpent,
}

type Heap = BinaryHeap<Reverse<(DominantShare, u32)>>;

/// Clients that have not scanned all agents yet.
#[derive(Debug, Default)]
pub(super) struct AgentScan {
    waiting: Vec<u32>,
    members: Bits,
    cursors: Vec<u32>,
    heaps: Vec<Heap>,
}

impl AgentScan {
    /// Starts a scan of all agents for a client, or restarts it.
    pub(super) fn wake(&mut self, client: u32) {
        if self.cursors.len() <= client as usize {
            self.cursors.resize(client as usize + 1, 0);
        }
        self.cursors[client as usize] = 0;
        if !self.members.contains(client) {
            self.members.set(client, true);
            self.waiting.push(client);
        }
    }

    /// Removes a client that no longer exists or whose slot is reused.
    pub(super) fn forget(&mut self, client: u32) {
        if self.members.contains(client) {
            self.members.set(client, false);
            self.waiting.retain(|other| *other != client);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Allocator {
    /// Starts a scan of all agents for every client that takes offers.
    pub(super) fn scan_all(&mut self) {
        for client in self.clients.slots() {
            if self.tree.is_active(client) {
                self.scan.wake(client);
            }
        }
    }

    /// Continues the pass, if one is running.
    pub(super) fn continue_scan(&mut self, turn: &mut AllocationTurn<'_>) {
        if self.scan.is_over() || turn.is_spent() {
            return;
        }
        let mut heaps = std::mem::take(&mut self.scan.heaps);
        let ordered = self.scan.waiting.len().min(CLIENTS_PER_TURN);
        // Half of the turn is left for offers, whatever the number of clients: a turn that only
        // orders them is repeated forever.
        turn.spend((ordered / CLIENTS_PER_STEP).min(turn.steps_left / 2));
        self.fill(&mut heaps, ordered);
        let mut path = Vec::new();
        while !turn.is_spent() {
            let Some(client) = descend(&mut heaps, &mut path, |at| self.tree.is_client(at)) else {
                break;
            };
            match self.next_agent(turn, client) {
                ScanStep::Found(agent, part) => {
                    self.offer(turn, client, agent, part);
                    for (parent, child) in path.iter().rev() {
                        if let Some(mut top) = heaps[*parent as usize].peek_mut() {
                            top.0.0 = self.tree.share(*child, &self.kinds);
                        }
                    }
                }
                ScanStep::Over => {
                    if let Some((role, _)) = path.last() {
                        heaps[*role as usize].pop();
                    }
                    self.scan.members.set(client, false);
                    self.record_unmet(turn, client);
                }
                ScanStep::TurnSpent => break,
            }
        }
        for heap in &mut heaps {
            heap.clear();
        }
        self.scan.heaps = heaps;
        self.scan.waiting.rotate_left(ordered);
        let members = &self.scan.members;
        self.scan.waiting.retain(|client| members.contains(*client));
    }

    /// Fills one heap for each role that has some of the first `ordered` waiting clients below it,
    /// in the order of the current shares.
    fn fill(&mut self, heaps: &mut Vec<Heap>, ordered: usize) {
        heaps.resize_with(self.tree.len(), Heap::new);
        let (tree, members) = (&self.tree, &mut self.scan.members);
        let mut filled = Bits::default();
        for client in &self.scan.waiting[..ordered] {
            if !tree.is_active(*client) {
                members.set(*client, false);
                continue;
            }
            let mut at = *client;
            while at != ROOT && !filled.contains(at) {
                filled.set(at, true);
                let share = tree.share(at, &self.kinds);
                at = {
                    let parent = tree.parent(at);
                    heaps[parent as usize].push(Reverse((share, at)));
                    parent
                };
            }
        }
    }

    /// Continues the scan of a client until an agent of which it can be offered anything.
    fn next_agent(&mut self, turn: &mut AllocationTurn<'_>, client: u32) -> ScanStep {
        let facts = self.clients.get(client);
        let candidates = if facts.minimum.is_none() {
            &self.agents.ample
        } else {
            &self.agents.nonempty
        };
        if candidates.is_empty() {
            return ScanStep::Over;
        }
        let hidden = self.filters.hidden(client);
        let mut cursor = self.scan.cursors[client as usize];
        let mut waiting = 0;
        loop {
            let (found, words) = candidates.next_without(hidden, cursor);
            turn.spend(words / WORDS_PER_STEP);
            let Some(agent) = found else {
                turn.spend(1);
                self.scan.cursors[client as usize] = u32::MAX;
                return ScanStep::Over;
            };
            cursor = agent + 1;
            let is_waiting = self.decline_waits(client, self.agents.get(agent).id);
            waiting += usize::from(is_waiting);
            turn.spend(usize::from(!is_waiting || waiting % WAITING_PER_STEP == 0));
            if !is_waiting
                && let Some(part) = self.offerable_part(turn.book, turn.now, client, agent)
            {
                self.scan.cursors[client as usize] = cursor;
                return ScanStep::Found(agent, part);
            }
            if turn.is_spent() {
                self.scan.cursors[client as usize] = cursor;
                return ScanStep::TurnSpent;
            }
        }
    }

    fn record_unmet(&mut self, turn: &AllocationTurn<'_>, at: u32) {
        let client = self.clients.get(at);
        let offered = turn.book.offered_to(client.framework, &client.role);
        if offered.is_none() && self.waiting.record_unmet(at) {
            self.unmet_due.push_back(at);
        }
    }
}

/// Returns the client that is next: the one with the smallest share at each level. Roles without
/// waiting clients are removed on the way. `path` becomes the edges from the root to the client.
fn descend(
    heaps: &mut [Heap],
    path: &mut Vec<(u32, u32)>,
    is_client: impl Fn(u32) -> bool,
) -> Option<u32> {
    path.clear();
    let mut at = ROOT;
    loop {
        match heaps[at as usize].peek() {
            Some(Reverse((_, child))) => {
                path.push((at, *child));
                if is_client(*child) {
                    return Some(*child);
                }
                at = *child;
            }
            None => {
                let (parent, _) = path.pop()?;
                heaps[parent as usize].pop();
                path.clear();
                at = ROOT;
            }
        }
    }
}
