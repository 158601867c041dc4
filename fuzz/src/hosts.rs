//! Targets for decoders of agents: journals, orders, hand-off files, images, networks, audit logs.

use argosy_content::images::{Digest, ImageReference};
use argosy_network::{Subnet, Subnet6};

use crate::input::{parts, two_texts, variant};
use crate::property::text;

/// A journal: its bytes, or its records.
pub fn journal(bytes: &[u8]) -> bool {
    argosy_agent::fuzzing::journal_bytes(bytes, &parts(bytes))
}

/// A launch order of a master.
pub fn launch_order(bytes: &[u8]) -> bool {
    argosy_agent::fuzzing::launch_order(bytes)
}

/// A message of a master or of an executor.
pub fn agent_message(bytes: &[u8]) -> bool {
    argosy_agent::fuzzing::agent_message(bytes)
}

/// A message between an agent and its broker, or a launch.
pub fn broker_message(bytes: &[u8]) -> bool {
    argosy_agent::fuzzing::broker_message(bytes)
}

/// A file that a container or its supervisor leaves for an agent.
pub fn hand_off_file(bytes: &[u8]) -> bool {
    argosy_isolation::fuzzing::hand_off_file(bytes)
}

/// A user of an image, and the accounts in it.
pub fn accounts(bytes: &[u8]) -> bool {
    let Some((user, files)) = two_texts(bytes) else {
        return false;
    };
    let (passwd, group) = files.split_once("\n---\n").unwrap_or((files, ""));
    argosy_isolation::fuzzing::accounts(user, passwd, group)
}

/// A manifest and a configuration of an image.
pub fn image_manifest(bytes: &[u8]) -> bool {
    let Some((manifest, config)) = two_texts(bytes) else {
        return false;
    };
    argosy_content::images::fuzzing::manifest(manifest.as_bytes(), config.as_bytes())
}

/// The configuration of an image.
pub fn image_configuration(bytes: &[u8]) -> bool {
    argosy_content::images::fuzzing::image_configuration(bytes)
}

/// The name of an image or a digest, or the challenges of a registry: the first byte selects one.
pub fn registry_texts(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    let Ok(value) = std::str::from_utf8(rest) else {
        return false;
    };
    match kind {
        b'r' => text::<ImageReference>(value),
        b'd' => text::<Digest>(value),
        b'c' => argosy_content::images::fuzzing::challenges(rest),
        _ => false,
    }
}

/// A file of credentials of Docker.
pub fn docker_credentials(bytes: &[u8]) -> bool {
    argosy_content::images::fuzzing::docker_credentials(bytes)
}

/// A list of CNI plugins with the result of one, a stored record, or a subnet: the first byte
/// selects one.
pub fn networks(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    let Some((first, second)) = two_texts(rest) else {
        return false;
    };
    match kind {
        b'c' => argosy_network::cni::fuzzing::configuration(first, second),
        b'r' => argosy_network::cni::fuzzing::stored_record(rest),
        b'4' => text::<Subnet>(first),
        b'6' => text::<Subnet6>(first),
        _ => false,
    }
}

/// The lines of an audit log.
pub fn audit_log(bytes: &[u8]) -> bool {
    let (_, lines) = variant(bytes);
    argosy_host::audit::verified_lines(&lines) > 0
}
