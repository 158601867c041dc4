//! A cache of encoded records for list responses, shared by all readers.
//!
//! An encoding belongs to one version of a record. It is found by the address of the record, which
//! a weak reference keeps from being reused; a changed record has another address. This module does
//! not depend on the type of the records.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use metrics::gauge;
use prost::Message;

/// Maximum bytes of all encodings. Beyond it, records are encoded for each reader, and cached ones
/// stay: readers scan all records in turn, and replacement would evict each encoding before its
/// next use.
const BYTES: usize = 64 << 20;
/// Overhead of an encoding: its map entry and its heap allocation.
const ENTRY_BYTES: usize = 128;
/// Interval of sweeps. The memory of a changed record may be held for this long.
const SWEEP: Duration = Duration::from_secs(10);
/// Number of sweeps after which an encoding that was not read is dropped.
const UNREAD_SWEEPS: u32 = 6;

/// The encodings of one master. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct EncodingCache(
    // A lock, because readers may be on several threads. It is held for a part of a page, and never
    // by the owner.
    Arc<Mutex<CachedEncodings>>,
);

/// The locked encodings.
#[derive(Debug)]
pub(crate) struct CachedEncodings {
    entries: HashMap<usize, Encoding>,
    bytes: usize,
    limit: usize,
    sweeps: u32,
}

#[derive(Debug)]
struct Encoding {
    record: Weak<dyn Any + Send + Sync>,
    bytes: Box<[u8]>,
    /// The number of the sweep before which it was last read.
    last_read: u32,
}

impl Default for EncodingCache {
    fn default() -> Self {
        Self::bounded(BYTES)
    }
}

impl EncodingCache {
    fn bounded(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(CachedEncodings {
            entries: HashMap::new(),
            bytes: 0,
            limit,
            sweeps: 0,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, CachedEncodings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Periodically drops outdated and unread encodings until the future is dropped.
    pub(crate) async fn sweep(self) {
        let mut sweeps = tokio::time::interval(SWEEP);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            sweeps.tick().await;
            self.lock().sweep();
        }
    }
}

impl CachedEncodings {
    /// Returns the encoding of `record` by `show`, which must depend on the record alone and be the
    /// same for all records of this type.
    pub(crate) fn encoded<R, M>(
        &mut self,
        record: &Arc<R>,
        show: impl FnOnce(&R) -> M,
    ) -> Cow<'_, [u8]>
    where
        R: Any + Send + Sync,
        M: Message,
    {
        match self.entries.entry(Arc::as_ptr(record).addr()) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                known.last_read = self.sweeps;
                Cow::Borrowed(&known.bytes)
            }
            Entry::Vacant(place) => {
                let bytes = show(record).encode_to_vec();
                let cost = bytes.len() + ENTRY_BYTES;
                if self.bytes + cost > self.limit {
                    return Cow::Owned(bytes);
                }
                self.bytes += cost;
                // The type parameter of a weak reference cannot be inferred from the field.
                let weak: Weak<R> = Arc::downgrade(record);
                let kept = place.insert(Encoding {
                    record: weak,
                    bytes: bytes.into_boxed_slice(),
                    last_read: self.sweeps,
                });
                Cow::Borrowed(&kept.bytes)
            }
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    fn sweep(&mut self) {
        self.sweeps += 1;
        let (sweeps, bytes) = (self.sweeps, &mut self.bytes);
        self.entries.retain(|_, encoding| {
            let is_read = sweeps - encoding.last_read < UNREAD_SWEEPS;
            let stays = is_read && encoding.record.strong_count() > 0;
            if !stays {
                *bytes -= encoding.bytes.len() + ENTRY_BYTES;
            }
            stays
        });
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
        gauge!("argosy_encoded_record_bytes").set(self.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Arc<String> {
        Arc::new(text.to_owned())
    }

    /// Returns the encoding, and whether it was made by this call.
    fn read(encodings: &EncodingCache, record: &Arc<String>) -> (Vec<u8>, bool) {
        let mut made = false;
        let mut kept = encodings.lock();
        let bytes = kept.encoded(record, |text| {
            made = true;
            text.clone()
        });
        (bytes.into_owned(), made)
    }

    #[test]
    fn a_record_is_encoded_once_until_it_is_changed() {
        let encodings = EncodingCache::default();
        let mut one = record("one");
        let expected = "one".to_owned().encode_to_vec();
        assert_eq!(read(&encodings, &one), (expected.clone(), true));
        assert_eq!(read(&encodings, &one), (expected, false));
        Arc::make_mut(&mut one).push_str(" more");
        let expected = "one more".to_owned().encode_to_vec();
        assert_eq!(read(&encodings, &one), (expected.clone(), true));
        assert_eq!(read(&encodings, &one), (expected, false));
        encodings.lock().sweep();
        assert_eq!(encodings.lock().entries.len(), 1);
        assert!(!read(&encodings, &one).1);
    }

    #[test]
    fn at_the_limit_records_are_encoded_without_caching() {
        let encodings = EncodingCache::bounded(10 * (ENTRY_BYTES + 8));
        let records: Vec<_> = (0..100)
            .map(|number| record(&format!("r-{number:04}")))
            .collect();
        for _ in 0..3 {
            for record in &records {
                assert_eq!(read(&encodings, record).0, record.encode_to_vec());
            }
        }
        let kept = encodings.lock();
        assert_eq!(kept.entries.len(), 10);
        assert!(kept.bytes <= kept.limit);
    }

    #[test]
    fn unread_and_outdated_encodings_are_dropped() {
        let encodings = EncodingCache::default();
        let (read_on, unread, outdated) = (record("a"), record("b"), record("c"));
        for record in [&read_on, &unread, &outdated] {
            read(&encodings, record);
        }
        drop(outdated);
        encodings.lock().sweep();
        assert_eq!(encodings.lock().entries.len(), 2);
        for _ in 1..UNREAD_SWEEPS {
            assert!(!read(&encodings, &read_on).1);
            encodings.lock().sweep();
        }
        assert_eq!(encodings.lock().entries.len(), 1);
        for _ in 0..UNREAD_SWEEPS {
            encodings.lock().sweep();
        }
        assert_eq!(encodings.lock().bytes, 0);
        assert!(read(&encodings, &read_on).1);
    }
}
