//! `cluster.json`: the description of a dev cluster for scripts.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::credentials;
use super::members::DevMembers;
use super::plan::{DevMember, DevPlan, MemberKind};
use crate::args::{ClientTls, Dev};
use crate::parsers::{AGENT_PORT, API_PORT, RAFT_PORT};
use crate::pid_file;

/// Name of the file in the cluster's directory.
pub(super) const FILE: &str = "cluster.json";

/// Content of the file. Fields are added, and never get another meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DevRecord {
    /// Format version of this file.
    format: u32,
    version: &'static str,
    /// Whether a leader is known and every agent is registered. The file is first written with
    /// false.
    pub(super) ready: bool,
    /// Process id of `argosy dev` itself.
    pid: u32,
    directory: PathBuf,
    /// API addresses, in the format of ARGOSY_MASTERS.
    masters: String,
    /// The context by which commands find the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<String>,
    /// Files of TLS of the user; absent in plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<RecordedTls>,
    /// Flags of the agents that open something to tasks or to other users.
    opened: Vec<String>,
    members: Vec<RecordedMember>,
}

/// Paths of files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RecordedTls {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RecordedTls {
    pub(super) fn new(home: &Path) -> Self {
        let ClientTls {
            tls_ca,
            tls_cert,
            tls_key,
        } = credentials::of_user(home);
        Self {
            ca: tls_ca,
            certificate: tls_cert,
            key: tls_key,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RecordedMember {
    name: String,
    /// `master` or `agent`.
    kind: &'static str,
    /// The first process. After a manual restart, `pid_file` has the current one.
    pid: Option<u32>,
    pid_file: PathBuf,
    api: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    raft: Option<String>,
    directory: PathBuf,
    log: PathBuf,
    /// The command line that starts it again.
    argv: Vec<String>,
}

impl DevRecord {
    pub(super) fn new(plan: &DevPlan, home: &Path, opened: Vec<String>) -> Self {
        Self {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            ready: false,
            pid: std::process::id(),
            directory: home.to_owned(),
            masters: plan.masters().to_string(),
            context: None,
            tls: None,
            opened,
            members: plan.members.iter().map(member).collect(),
        }
    }

    pub(super) fn opened(&self) -> &[String] {
        &self.opened
    }

    pub(super) fn note_processes(&mut self, members: &DevMembers) {
        for member in &mut self.members {
            member.pid = members.pid(&member.name);
        }
    }

    /// Writes the file atomically.
    pub(super) fn write(&self, arguments: &Dev) -> anyhow::Result<()> {
        let text =
            serde_json::to_string_pretty(self).context("the record cannot be written as JSON")?;
        let own = self.directory.join(FILE);
        for path in [Some(&own), arguments.record.as_ref()]
            .into_iter()
            .flatten()
        {
            pid_file::replace(path, &text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn member(member: &DevMember) -> RecordedMember {
    let at = |port: u16| format!("{}:{port}", member.address);
    let (kind, api, raft) = match member.kind {
        MemberKind::Master => ("master", at(API_PORT), Some(at(RAFT_PORT))),
        MemberKind::Agent => ("agent", at(AGENT_PORT), None),
    };
    RecordedMember {
        name: member.name.clone(),
        kind,
        pid: None,
        pid_file: member.pid_file.clone(),
        api,
        raft,
        directory: member.directory.clone(),
        log: member.log.clone(),
        argv: member.argv.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan_of;
    use super::*;

    #[test]
    fn a_record_contains_the_fields_for_scripts() {
        let opened = vec!["--allow-files".to_owned()];
        let mut record = DevRecord::new(&plan_of(&["--size", "1x1"]), Path::new("/d"), opened);
        record.tls = Some(RecordedTls::new(Path::new("/d")));
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["tls"]["ca"], "/d/ca.crt");
        assert_eq!(json["tls"]["key"], "/d/tls/operator.key");
        assert_eq!(json["masters"], "127.77.0.1:5050");
        assert_eq!(json["members"][0]["raft"], "127.77.0.1:5052");
        assert_eq!(json["members"][1]["api"], "127.77.0.2:5051");
        assert_eq!(json["members"][1]["argv"][1], "agent");
        assert_eq!(json["opened"][0], "--allow-files");
        assert_eq!(json["ready"], false);
    }
}
