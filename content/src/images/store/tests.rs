//! Tests of concurrent changes of the store.

use std::thread;

use super::*;
use crate::images::image::ImageConfig;

const REFERENCE: &str = "docker.io/library/web:1";

/// Returns the record of this version of the image.
fn record(version: u32) -> ImageRecord {
    let digest = Digest::of(&version.to_be_bytes());
    let config = ImageConfig::default();
    ImageRecord::new(REFERENCE.to_owned(), digest, config, Vec::new(), 0)
}

/// A collection that has the lock removes both.
#[test]
fn the_record_of_a_moved_tag_changes_on_disk_and_in_memory_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path(), Arc::new(LocalLayerDirs)).unwrap();
    store.add_image(record(0)).unwrap();
    let path = store.dirs.records().join(ImageRecord::file_name(REFERENCE));
    thread::scope(|scope| {
        let pulls = scope.spawn(|| (1..=20).for_each(|at| store.add_image(record(at)).unwrap()));
        while !pulls.is_finished() {
            let state = store.state();
            let on_disk = fs::read(&path).unwrap();
            let on_disk: ImageRecord = serde_json::from_slice(&on_disk).unwrap();
            assert_eq!(on_disk, state.images[REFERENCE].0);
            drop(state);
            thread::yield_now();
        }
    });
    drop(store);
    let opened = ImageStore::open(directory.path(), Arc::new(LocalLayerDirs)).unwrap();
    assert_eq!(opened.state().images[REFERENCE].0, record(20));
}
