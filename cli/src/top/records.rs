//! Rows by id, each in a slot that does not change while the row exists.

use std::collections::HashMap;

/// Maximum number of rows of one kind: twice the tasks of the largest cluster that is measured.
pub(super) const MAX_ROWS: usize = 200_000;

/// The rows of one kind.
#[derive(Debug)]
pub(super) struct Records<R> {
    slots: Vec<Option<R>>,
    by_id: HashMap<Box<str>, u32>,
    free: Vec<u32>,
    bound: usize,
    is_cut: bool,
}

impl<R> Default for Records<R> {
    fn default() -> Self {
        Self::with_bound(MAX_ROWS)
    }
}

impl<R> Records<R> {
    fn with_bound(bound: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_id: HashMap::new(),
            free: Vec::new(),
            bound,
            is_cut: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether some rows were left out because there are too many.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Returns whether a row with this id can be put here.
    pub(super) fn has_room(&mut self, id: &str) -> bool {
        let has_room = self.by_id.len() < self.bound || self.contains(id);
        self.is_cut |= !has_room;
        has_room
    }

    /// Adds or replaces a row, and returns the former one.
    pub(super) fn put(&mut self, id: &str, row: R) -> Option<R> {
        if !self.has_room(id) {
            return None;
        }
        if let Some(slot) = self.by_id.get(id) {
            return self.slots[*slot as usize].replace(row);
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(row);
                slot
            }
            None => {
                self.slots.push(Some(row));
                u32::try_from(self.slots.len() - 1).expect("there are at most MAX_ROWS slots")
            }
        };
        self.by_id.insert(id.into(), slot);
        None
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<R> {
        let slot = self.by_id.remove(id)?;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// Returns the row in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<&R> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Returns all rows with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &R)> {
        let slots = (0u32..).zip(&self.slots);
        slots.filter_map(|(slot, row)| Some((slot, row.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_rows_are_bounded() {
        let mut rows = Records::with_bound(2);
        assert_eq!(rows.put("a", 1), None);
        assert_eq!(rows.put("b", 2), None);
        assert_eq!(rows.put("c", 3), None);
        assert!(rows.is_cut() && rows.len() == 2 && !rows.contains("c"));
        assert_eq!(rows.put("b", 4), Some(2));
        assert_eq!(rows.remove("a"), Some(1));
        assert_eq!(rows.remove("a"), None);
        assert_eq!(rows.put("d", 5), None);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [(0, &5), (1, &4)]);
        assert_eq!((rows.at(0), rows.at(7)), (Some(&5), None));
    }
}
