//! The records that an entry has changed, for storage and for the digest.

use super::{key, record};
use crate::Registry;
use crate::digest::record_mark;
use crate::registry::RecordWrite;

impl Registry {
    /// Returns the encoded changes since the last call, and updates the digest. It must be called
    /// after every entry.
    pub fn take_changes(&mut self) -> Vec<RecordWrite> {
        let changed = std::mem::take(&mut self.changed);
        let mut writes = Vec::with_capacity(changed.len());
        for name in changed {
            let key = key(&name);
            let value = record(self, &name);
            let former = match &value {
                Some(value) => {
                    let mark = record_mark(&key, value);
                    self.digest = self.digest.wrapping_add(mark);
                    self.marks.insert(name, mark)
                }
                None => self.marks.remove(&name),
            };
            self.digest = self.digest.wrapping_sub(former.unwrap_or(0));
            writes.push(RecordWrite { key, value });
        }
        writes
    }
}
