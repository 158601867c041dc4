//! The flags by which a dev cluster opens more than masters and agents do by default. Pure.

use std::ffi::OsString;

use super::plan::{DevPlan, MemberKind};
use crate::args::former_variable;

/// Flags of agents that open something to tasks or to other users.
const OPENING_FLAGS: [&str; 16] = [
    "--allow-capabilities",
    "--allow-files",
    "--allow-host",
    "--allow-host-network",
    "--allow-nested-user-namespaces",
    "--allow-new-privileges",
    "--allow-unconfined-seccomp",
    "--api-user",
    "--fetch-allow",
    "--fetch-dir",
    "--host-path",
    "--insecure-plaintext",
    "--insecure-registry",
    "--isolation",
    "--secret-dir",
    "--task-allow",
];
/// Inherited variables with the same effect, and their flags.
pub(super) const INHERITED: [(&str, &str); 3] = [
    ("ARGOSY_AGENT_IMAGE_DIRS", "--image-dir"),
    ("ARGOSY_AGENT_CNI_CONFIG_DIR", "--cni-config-dir"),
    ("ARGOSY_AGENT_CNI_PLUGINS", "--cni-plugins"),
];

/// Returns the opening flags with their values, as all agents of the cluster have them. `variable`
/// reads the environment.
pub(super) fn opening_flags(
    plan: &DevPlan,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Vec<String> {
    let mut members = plan.members.iter();
    let agent = members.find(|member| member.kind == MemberKind::Agent);
    let words = agent.map_or(&[][..], |agent| &agent.argv);
    let mut opened = Vec::new();
    for (at, flag) in words.iter().enumerate() {
        if !OPENING_FLAGS.contains(&flag.as_str()) {
            continue;
        }
        let value = words.get(at + 1).filter(|word| !word.starts_with("--"));
        match value.map(String::as_str) {
            // The default for root, which opens nothing.
            Some("full") if flag == "--isolation" => {}
            Some(value) => opened.push(format!("{flag} {value}")),
            None => opened.push(flag.clone()),
        }
    }
    for (name, flag) in INHERITED {
        let value = variable(name).or_else(|| variable(former_variable(name)?));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            opened.push(format!("{flag} {}", value.to_string_lossy()));
        }
    }
    opened
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan_of;
    use super::*;

    #[test]
    fn exactly_the_opening_flags_are_listed_with_their_values() {
        assert!(opening_flags(&plan_of(&["--isolation", "full"]), |_| None).is_empty());
        let mut plan = plan_of(&[
            "--isolation",
            "processes",
            "--host-path",
            "/srv",
            "--fetch-dir",
            "/srv/files",
            "--fetch-allow",
            "127.77.0.0/16",
            "--insecure-registry",
            "127.0.0.1:5000",
            "--task-allow",
            "5050",
            "--allow-host",
            "dev.example",
            "--allow-files",
            "--api-user",
            "1001",
            "--secret-dir",
            "/srv/secrets",
            "--allow-capabilities",
            "CHOWN",
            "--allow-new-privileges",
            "--allow-unconfined-seccomp",
            "--allow-nested-user-namespaces",
            "--insecure-plaintext",
        ]);
        plan.allow_host_network();
        let mut opened = opening_flags(&plan, |name| match name {
            // It is set under its former name.
            "ARGOSY_AGENT_CNI_CONFIG_DIR" => None,
            "ARGOSY_AGENT_CNI_CONFIG" => Some("/etc/cni/net.d".into()),
            "ARGOSY_AGENT_CNI_PLUGINS" => Some("/opt/cni/bin".into()),
            _ => Some("/srv/images".into()),
        });
        opened.sort();
        assert_eq!(
            opened,
            [
                "--allow-capabilities CHOWN",
                "--allow-files",
                "--allow-host dev.example",
                "--allow-host-network",
                "--allow-nested-user-namespaces",
                "--allow-new-privileges",
                "--allow-unconfined-seccomp",
                "--api-user 1001",
                "--cni-config-dir /etc/cni/net.d",
                "--cni-plugins /opt/cni/bin",
                "--fetch-allow 127.77.0.0/16",
                "--fetch-dir /srv/files",
                "--host-path /srv",
                "--image-dir /srv/images",
                "--insecure-plaintext",
                "--insecure-registry 127.0.0.1:5000",
                "--isolation processes",
                "--secret-dir /srv/secrets",
                "--task-allow 5050",
            ]
        );
    }
}
