//! Crash points of an agent, and of `content` within it. Those of containers are in
//! `isolation/src/testing/crash_steps.rs`.

/// Each is named after the step that precedes it.
pub const STEPS: &[&str] = &[
    "begin.users-kept",
    "begin.networks-resumed",
    "begin.orphans-removed",
    "begin.orphans-cleared",
    "find.adopted",
    "journal.appended",
    "journal.synced",
    "journal.successor-written",
    "journal.successor-synced",
    "journal.replaced",
    "fetch.users-taken",
    "sandbox.directory-made",
    "fetch.sandbox-made",
    "fetch.disk-bounded",
    "pull.blob-brought",
    "pull.layer-drafted",
    "pull.layer-unpacked",
    "pull.layer-kept",
    "pull.image-kept",
    "fetch.chunk-written",
    "cache.draft-written",
    "cache.draft-synced",
    "cache.room-made",
    "cache.kept",
    "fetch.draft-written",
    "fetch.file-named",
    "extract.directory-made",
    "extract.unpacked",
    "extract.named",
    "fetch.fetched",
    "launch.plugged",
    "launch.directory-made",
    "launch.copy-begun",
    "launch.copied",
    "launch.prepared",
    "launch.made",
    "watch.started",
    "watch.exited",
    "remove.destroyed",
    "remove.network-released",
    "remove.image-released",
    "remove.users-returned",
    "remove.unplugged",
    "group.network-released",
    "group.users-returned",
    "gc.disk-released",
    "gc.record-removed",
    "gc.sandbox-removed",
    "gc.parent-removed",
    "gc.directory-removed",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_crash_point_is_listed_and_used_once() {
        let room = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut waiting = vec![room.join("src"), room.join("../content/src")];
        let mut found = BTreeMap::<String, usize>::new();
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                waiting.extend(entries.map(|entry| entry.unwrap().path()));
            } else if !path.ends_with("crash.rs") {
                let text = fs::read_to_string(&path).unwrap();
                for rest in text.split("crash_point!(\"").skip(1) {
                    *found
                        .entry(rest.split('"').next().unwrap().to_owned())
                        .or_default() += 1;
                }
            }
        }
        let mut listed: Vec<_> = STEPS.iter().map(|step| (*step).to_owned()).collect();
        listed.sort();
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), listed);
        assert!(found.values().all(|count| *count == 1), "{found:?}");
    }
}
