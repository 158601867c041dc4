//! The command lines of masters and agents: the flags that every cluster under test sets, followed
//! by those of one cluster.

use std::path::Path;

use crate::certificates::IdentityFiles;

/// The flag of a process without TLS. A test of TLS replaces it.
pub const PLAINTEXT: &str = "--insecure-plaintext";

/// The transport of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberTransport {
    Plaintext,
    Tls(IdentityFiles),
}

impl MemberTransport {
    fn flags(&self) -> Vec<String> {
        match self {
            Self::Plaintext => vec![PLAINTEXT.to_owned()],
            Self::Tls(files) => files.flags(),
        }
    }
}

/// The flags of every master.
#[derive(Debug, Clone, Copy)]
pub struct MasterFlags<'a> {
    pub listen: &'a str,
    /// The Raft addresses of the group.
    pub peers: &'a str,
    pub data_dir: &'a Path,
    pub transport: &'a MemberTransport,
}

impl MasterFlags<'_> {
    /// Returns the arguments of `argosy`, with `more` at the end.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let data_dir = self.data_dir.display().to_string();
        let every = [
            "master",
            "start",
            "--listen",
            self.listen,
            "--peers",
            self.peers,
            "--data-dir",
            &data_dir,
        ];
        to_strings(&every, self.transport, more)
    }
}

/// The flags of every agent.
#[derive(Debug, Clone, Copy)]
pub struct AgentFlags<'a> {
    pub listen: &'a str,
    /// The API addresses of the masters.
    pub masters: &'a str,
    pub data_dir: &'a Path,
    pub resources: &'a str,
    pub transport: &'a MemberTransport,
}

impl AgentFlags<'_> {
    /// Returns the arguments of `argosy`, with `more` at the end.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let data_dir = self.data_dir.display().to_string();
        let every = [
            "agent",
            "start",
            "--listen",
            self.listen,
            "--masters",
            self.masters,
            "--data-dir",
            &data_dir,
            "--resources",
            self.resources,
            "--allow-missing-controllers",
        ];
        to_strings(&every, self.transport, more)
    }
}

fn to_strings(words: &[&str], transport: &MemberTransport, more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    all.extend(transport.flags());
    all.extend(more.iter().map(|word| (*word).to_owned()));
    all
}
