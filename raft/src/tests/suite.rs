//! openraft's own tests of a store.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::harness::{self, DiskFixture, OpenedStore};
use crate::state_machine::StateMachine;
use crate::storage::log::LogStore;
use crate::storage::store::{Store, StoreLocation};
use crate::types::TypeConfig;

struct TestStoreBuilder(fn() -> DiskFixture);

/// Keeps the store and its directory until the test is over.
struct TestStoreGuard {
    _store: Store,
    _fixture: DiskFixture,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TestStoreGuard> for TestStoreBuilder {
    async fn build(
        &self,
    ) -> Result<(TestStoreGuard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let environment = (self.0)();
        let OpenedStore {
            store,
            log,
            machine,
            ..
        } = harness::open(&environment.location).await;
        let guard = TestStoreGuard {
            _store: store,
            _fixture: environment,
        };
        Ok((guard, log, machine))
    }
}

#[test]
fn the_memory_store_passes_the_openraft_suite() {
    let environment = || DiskFixture {
        location: StoreLocation::Memory(Default::default()),
        _directory: None,
    };
    run(TestStoreBuilder(environment));
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_disk_store_passes_the_openraft_suite() {
    run(TestStoreBuilder(harness::on_disk));
}

fn run(builder: TestStoreBuilder) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(builder)).unwrap();
}
