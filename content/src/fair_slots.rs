//! Slots for concurrent work, which frameworks share fairly.
//!
//! A framework gets another slot only while more slots are free than it uses. So one framework uses
//! half of them at most, and leaves slots to others, which leave slots in turn. A slot that becomes
//! free goes to the framework that uses the fewest, and of several to the one that has waited
//! longest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use argosy_state::ids::FrameworkId;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};

/// A number of slots.
pub struct FairSlots {
    /// A lock, because all users of the slots share it.
    state: Mutex<SlotState>,
}

struct SlotState {
    free: usize,
    /// The number of the next request.
    next_request: u64,
    /// The frameworks that use a slot or wait for one.
    frameworks: BTreeMap<FrameworkId, FrameworkSlots>,
}

#[derive(Default)]
struct FrameworkSlots {
    used: usize,
    /// The requests that wait, oldest first. Bounded by the work that waits.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A slot, or the request for one, until it is dropped.
pub struct FairSlot {
    slots: Arc<FairSlots>,
    framework: FrameworkId,
    request: u64,
}

impl FairSlots {
    /// Creates so many free slots.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        let state = SlotState {
            free: count,
            next_request: 0,
            frameworks: BTreeMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// Waits for a slot for a framework.
    pub async fn acquire(self: &Arc<Self>, framework: FrameworkId) -> FairSlot {
        let (sender, granted) = oneshot::channel();
        let slot = FairSlot {
            slots: Arc::clone(self),
            framework,
            request: self.change(|state| state.request(framework, sender)),
        };
        // The state has the sender until it grants the request, or the request is dropped.
        granted.await.expect("a request is granted");
        slot
    }

    /// Waits for a slot for work that several frameworks share, in the turn of any of them. Their
    /// set may grow.
    pub(crate) async fn acquire_for_any(
        self: &Arc<Self>,
        mut frameworks: watch::Receiver<BTreeSet<FrameworkId>>,
    ) -> FairSlot {
        let mut requests = FuturesUnordered::new();
        let mut known = BTreeSet::new();
        loop {
            let all = frameworks.borrow_and_update().clone();
            for framework in all.difference(&known) {
                requests.push(self.acquire(*framework));
            }
            known = all;
            tokio::select! {
                biased;
                Some(slot) = requests.next() => return slot,
                Ok(()) = frameworks.changed() => {}
            }
        }
    }

    /// Changes the state, and grants the requests that can be granted then.
    fn change<T>(&self, change: impl FnOnce(&mut SlotState) -> T) -> T {
        let (result, granted) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = change(&mut state);
            (result, state.grant())
        };
        // Without the lock, because it runs code of the receivers.
        for sender in granted {
            // A request that was dropped by now returns its slot.
            let _ = sender.send(());
        }
        result
    }
}

impl SlotState {
    /// Adds a request, and returns its number.
    fn request(&mut self, framework: FrameworkId, sender: oneshot::Sender<()>) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        let slots = self.frameworks.entry(framework).or_default();
        slots.waiting.insert(number, sender);
        number
    }

    /// Removes a request, whose sender it returns, or frees its slot.
    fn release(&mut self, framework: FrameworkId, request: u64) -> Option<oneshot::Sender<()>> {
        let slots = self.frameworks.get_mut(&framework)?;
        let waiting = slots.waiting.remove(&request);
        if waiting.is_none() {
            slots.used -= 1;
            self.free += 1;
        }
        if slots.used == 0 && slots.waiting.is_empty() {
            self.frameworks.remove(&framework);
        }
        waiting
    }

    /// Grants the requests that can be granted, and returns their senders.
    fn grant(&mut self) -> Vec<oneshot::Sender<()>> {
        let mut granted = Vec::new();
        while let Some(framework) = self.next_framework()
            && let Some(slots) = self.frameworks.get_mut(&framework)
            && let Some((_, sender)) = slots.waiting.pop_first()
        {
            slots.used += 1;
            self.free -= 1;
            granted.push(sender);
        }
        granted
    }

    /// Returns the framework that gets the next slot.
    fn next_framework(&self) -> Option<FrameworkId> {
        let able = self.frameworks.iter();
        let able = able.filter(|(_, slots)| slots.used < self.free);
        let ranks = able.filter_map(|(framework, slots)| {
            let oldest = slots.waiting.keys().next()?;
            Some((slots.used, *oldest, *framework))
        });
        ranks.min().map(|(_, _, framework)| framework)
    }
}

impl Drop for FairSlot {
    fn drop(&mut self) {
        let (framework, request) = (self.framework, self.request);
        let removed = self.slots.change(|state| state.release(framework, request));
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::LocalBoxFuture;

    use super::*;

    fn take(slots: &Arc<FairSlots>, framework: u64) -> Option<FairSlot> {
        slots.acquire(FrameworkId(framework)).now_or_never()
    }

    /// Returns a request that waits.
    fn wait(slots: &Arc<FairSlots>, framework: u64) -> LocalBoxFuture<'_, FairSlot> {
        let mut request = slots.acquire(FrameworkId(framework)).boxed_local();
        assert!(request.as_mut().now_or_never().is_none());
        request
    }

    fn take_all(slots: &Arc<FairSlots>, framework: u64) -> Vec<FairSlot> {
        std::iter::from_fn(|| take(slots, framework)).collect()
    }

    #[test]
    fn each_framework_leaves_slots_to_others() {
        let slots = FairSlots::new(128);
        let mut taken: Vec<_> = (1..=4).map(|number| take_all(&slots, number)).collect();
        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts, [64, 32, 16, 8]);
        taken.remove(0);
        // It uses 8, and 72 are free: then it uses as many as are free.
        assert_eq!(take_all(&slots, 4).len(), 32);
        drop(taken);
        assert_eq!(take_all(&slots, 2).len(), 64);
        assert!(slots.state.lock().unwrap().frameworks.is_empty());
    }

    #[test]
    fn a_free_slot_goes_to_the_framework_that_uses_the_fewest() {
        let slots = FairSlots::new(4);
        let busy = take_all(&slots, 1);
        let (second, third) = (take(&slots, 2).unwrap(), take(&slots, 3).unwrap());
        assert!(take(&slots, 4).is_none());
        let mut of_busy = wait(&slots, 1);
        let (mut fourth, mut fifth) = (wait(&slots, 4), wait(&slots, 5));
        drop(second);
        assert!(of_busy.as_mut().now_or_never().is_none());
        assert!(fifth.as_mut().now_or_never().is_none());
        let fourth = fourth.as_mut().now_or_never().unwrap();
        drop(busy);
        assert!(of_busy.as_mut().now_or_never().is_some());
        assert!(fifth.as_mut().now_or_never().is_some());
        drop((third, fourth));
    }

    #[test]
    fn a_dropped_request_takes_no_slot() {
        let slots = FairSlots::new(2);
        let first = take(&slots, 1).unwrap();
        let (waiting, granted) = (wait(&slots, 1), wait(&slots, 1));
        drop(waiting);
        let second = take(&slots, 2).unwrap();
        // It grants the request, which is dropped before it notices.
        drop(first);
        drop(granted);
        drop(second);
        assert_eq!(slots.state.lock().unwrap().free, 2);
        assert!(slots.state.lock().unwrap().frameworks.is_empty());
    }

    #[test]
    fn shared_work_gets_the_first_slot_of_any_of_its_frameworks() {
        let slots = FairSlots::new(4);
        let busy = take_all(&slots, 1);
        let (sender, frameworks) = watch::channel(BTreeSet::from([FrameworkId(1)]));
        let mut waiting = Box::pin(slots.acquire_for_any(frameworks));
        assert!(waiting.as_mut().now_or_never().is_none());
        sender.send_if_modified(|all| all.insert(FrameworkId(2)));
        let slot = waiting.as_mut().now_or_never().unwrap();
        assert_eq!(slot.framework, FrameworkId(2));
        drop((waiting, slot, busy));
        assert!(slots.state.lock().unwrap().frameworks.is_empty());
    }
}
