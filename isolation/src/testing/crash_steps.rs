//! The crash points ([`argosy_host::crash_points`]) of launcher, supervisor and init, and of an
//! agent's calls of this crate and of those below it.

/// Each is named after the step just completed.
pub const STEPS: &[&str] = &[
    "launcher.request-read",
    "launcher.supervisor-made",
    "supervisor.begun",
    "supervisor.request-read",
    "start.network-entered",
    "start.group-made",
    "start.limits-written",
    "start.outputs-made",
    "start.secrets-locked",
    "start.view-taken",
    "start.init-made",
    "start.users-mapped",
    "start.owners-mapped",
    "start.mapping-sent",
    "handoff.claim-drafted",
    "handoff.claimed",
    "start.leave-given",
    "supervisor.start-sent",
    "supervisor.listening",
    "supervisor.accepted",
    "supervisor.ordered",
    "supervisor.killed-all",
    "ending.init-reaped",
    "ending.rest-killed",
    "ending.output-kept",
    "ending.group-removed",
    "handoff.exit-written",
    "ending.exit-sent",
    "ending.control-removed",
    "ending.refused",
    "init.begun",
    "init.users-mapped",
    "init.secrets-unlocked",
    "init.volumes-shown",
    "init.root-laid",
    "init.host-left",
    "init.view-entered",
    "init.descriptors-closed",
    "init.domain-entered",
    "init.user-found",
    "init.leave-taken",
    "command.settled",
    "init.command-made",
    "init.start-sent",
    "init.command-reaped",
    "init.end-sent",
    "init.entry-made",
    "entry.begun",
    "entry.command-made",
    "entry.start-sent",
    "agent.request-sent",
    "adopt.claimed",
    "adopt.connected",
    "destroy.voided",
    "destroy.group-killed",
    "destroy.processes-ended",
    "destroy.group-removed",
    "destroy.control-removed",
    "network.forwarding-of-ipv6-set",
    "network.table-replaced",
    "network.address-taken",
    "network.namespace-made",
    "network.device-made",
    "network.connected",
    "network.assigned",
    "network.port-recorded",
    "network.published",
    "network.withdrawn",
    "network.port-returned",
    "network.address-returned",
    "network.devices-removed",
    "network.table-removed",
    "disk.file-made",
    "disk.formatted",
    "disk.attached",
    "disk.mounted",
    "disk.shown",
    "disk.shut-down",
    "disk.hidden",
    "disk.unmounted",
    "disk.file-removed",
    "quota.joined",
    "quota.limited",
    "quota.lifted",
    "cni.recorded",
    "cni.namespace-file-made",
    "cni.namespace-bound",
    "cni.plugin-added",
    "cni.result-kept",
    "cni.plugin-deleted",
    "cni.namespace-removed",
    "cni.record-removed",
    "agent.unpacking-asked",
    "unpack.begun",
    "unpack.files-received",
    "unpack.worker-made",
    "unpack.users-mapped",
    "unpack.leave-given",
    "unpack.leave-taken",
    "unpack.confined",
    "unpack.file-written",
    "unpack.ended",
    "unpack.worker-reaped",
    "disposal.moved-up",
    "disposal.emptied",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Returns the steps that the sources of these crates name, with their counts.
    fn in_sources() -> BTreeMap<String, usize> {
        let room = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut waiting = ["src", "../host/src", "../network/src"]
            .map(|sources| room.join(sources))
            .to_vec();
        let mut found = BTreeMap::new();
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                continue;
            }
            if path.ends_with("crash_steps.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for rest in text.split("crash_point!(\"").skip(1) {
                let step = rest.split('"').next().unwrap();
                *found.entry(step.to_owned()).or_default() += 1;
            }
        }
        found
    }

    #[test]
    fn every_isolation_crash_point_is_listed_and_used_once() {
        let found = in_sources();
        let mut listed: Vec<_> = STEPS.iter().map(|step| (*step).to_owned()).collect();
        listed.sort();
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), listed);
        assert!(found.values().all(|count| *count == 1), "{found:?}");
    }
}
