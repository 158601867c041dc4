//! openraft's own tests of a store.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::harness::{self, Ground, Opened};
use crate::state_machine::Machine;
use crate::storage::log::LogStore;
use crate::storage::store::{Place, Store};
use crate::types::TypeConfig;

struct Builder(fn() -> Ground);

/// Keeps the store and its directory until the test is over.
struct Guard {
    _store: Store,
    _ground: Ground,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        let ground = (self.0)();
        let Opened {
            store,
            log,
            machine,
            ..
        } = harness::open(&ground.place).await;
        let guard = Guard {
            _store: store,
            _ground: ground,
        };
        Ok((guard, log, machine))
    }
}

#[test]
fn the_store_in_memory_passes_the_suite_of_openraft() {
    let ground = || Ground {
        place: Place::Memory(Default::default()),
        _directory: None,
    };
    run(Builder(ground));
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_store_on_disk_passes_the_suite_of_openraft() {
    run(Builder(harness::on_disk));
}

fn run(builder: Builder) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(builder)).unwrap();
}
