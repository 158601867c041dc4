//! A queue of items to refresh, without duplicates: later items do not overtake earlier ones.

use std::collections::BTreeSet;

/// A queue without duplicates, in two generations. Items that arrive while one generation is
/// processed belong to the next, so that the smallest ids cannot starve the others.
#[derive(Debug)]
pub(super) struct DirtyQueue<Id> {
    present: BTreeSet<Id>,
    next: BTreeSet<Id>,
}

impl<Id> Default for DirtyQueue<Id> {
    fn default() -> Self {
        Self {
            present: BTreeSet::new(),
            next: BTreeSet::new(),
        }
    }
}

impl<Id: Ord + Copy> DirtyQueue<Id> {
    pub(super) fn insert(&mut self, id: Id) {
        if !self.present.contains(&id) {
            self.next.insert(id);
        }
    }

    pub(super) fn extend(&mut self, ids: impl IntoIterator<Item = Id>) {
        for id in ids {
            self.insert(id);
        }
    }

    pub(super) fn take(&mut self) -> Option<Id> {
        if self.present.is_empty() {
            std::mem::swap(&mut self.present, &mut self.next);
        }
        self.present.pop_first()
    }

    pub(super) fn len(&self) -> usize {
        self.present.len() + self.next.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::DirtyQueue;

    #[test]
    fn repeated_insertions_starve_no_other_id() {
        let mut due = DirtyQueue::default();
        due.extend([1, 2, 2, 3]);
        assert_eq!(due.len(), 3);
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.extend(due.take());
            due.insert(1);
        }
        assert_eq!(taken, [1, 2, 3, 1]);
    }
}
