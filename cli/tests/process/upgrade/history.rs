//! The log of a stopped master, applied again by both releases.

use std::collections::BTreeMap;
use std::path::Path;

use argosy_state::Registry;
use argosy_state::command::LogEntry;
use argosy_state::encode;
use argosy_state::ids::Timestamp;
use argosy_state::level::Level;
use prost::Message;
use rocksdb::{DB, DBCompressionType, IteratorMode, Options};

use super::former::{self, FormerRegistry};

/// Column families of a store, which are all opened.
const FAMILIES: [&str; 4] = ["log", "meta", "registry", "registry_meta"];
/// Bytes in front of an entry: a checksum, the format, the hash link to the entry before it.
const HEAD: usize = 4 + 1 + 32;

/// A stored entry, as far as it holds commands.
#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(message, optional, tag = "3")]
    batch: Option<CommandBatch>,
}

#[derive(Clone, PartialEq, Message)]
struct CommandBatch {
    #[prost(uint64, tag = "1")]
    at_ms: u64,
    #[prost(bytes = "vec", repeated, tag = "2")]
    commands: Vec<Vec<u8>>,
}

/// The content of a log, which begins with the first entry.
pub(super) struct ReplayedLog {
    /// The digest after each entry.
    pub(super) digests: BTreeMap<u64, u128>,
    /// The final level.
    pub(super) level: Level,
}

/// Applies a log by both releases. Up to the raise of the level they must write the same records.
pub(super) fn replay(store: &Path) -> ReplayedLog {
    let mut options = Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_compression_type(DBCompressionType::Lz4);
    let store = DB::open_cf(&options, store, FAMILIES).expect("the store opens");
    let log = store.cf_handle("log").expect("it was opened");
    let driver = former::executable().expect("it was built");
    let mut former = Some(FormerRegistry::start(&driver));
    let mut registry = Registry::new();
    let mut digests = BTreeMap::new();
    for item in store.iterator_cf(log, IteratorMode::Start) {
        let (key, value) = item.expect("the log can be read");
        let index = u64::from_be_bytes(key[..].try_into().expect("an index"));
        let stored = StoredEntry::decode(&value[HEAD..]).expect("an entry");
        let Some(batch) = stored.batch else { continue };
        let read = batch
            .commands
            .iter()
            .map(|bytes| encode::read_command(bytes));
        let entry = LogEntry {
            at: Timestamp(batch.at_ms),
            commands: read.collect::<Result<_, _>>().expect("commands"),
        };
        registry.apply(index, &entry);
        let writes = registry.take_changes();
        if registry.level() > Level::RELEASE_0_1 {
            former = None;
        }
        if let Some(former) = &mut former {
            let theirs = former.apply(index, batch.at_ms, &batch.commands);
            let ours: Vec<_> = writes.into_iter().map(|one| (one.key, one.value)).collect();
            let difference = former::difference(&ours, &theirs.writes);
            assert_eq!(
                registry.digest(),
                theirs.digest,
                "at {index}:\n{difference}"
            );
        }
        digests.insert(index, registry.digest());
    }
    let level = registry.level();
    ReplayedLog { digests, level }
}
