//! `agent adopt`: the confirmation of an operator that an agent follows a restored cluster, in a
//! file that the agent reads when it starts.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context as _;
use argosy_agent::Adoption;
use argosy_agent::paths::Paths;
use argosy_host::atomic_file::{self, WriteOptions};
use argosy_state::ids::ClusterId;
use clap::Args;

use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult};
use crate::output::note;

/// The second word of a file by which quarantined tasks are ended.
const END_QUARANTINED: &str = "end-quarantined";

#[derive(Debug, Args)]
pub(crate) struct AgentAdopt {
    /// Id of the restored cluster, as argosy status shows it
    #[arg(value_name = "CLUSTER-ID")]
    cluster: ClusterId,
    /// Directory of the agent of this host
    #[arg(
        long,
        env = "ARGOSY_AGENT_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/agent"
    )]
    data_dir: PathBuf,
    /// End the tasks that the restored cluster does not have, instead of keeping them
    #[arg(long)]
    end_quarantined: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(crate) fn adopt(arguments: &AgentAdopt) -> VerbResult {
    let AgentAdopt {
        cluster,
        data_dir,
        end_quarantined,
        yes,
    } = arguments;
    let paths = Paths::new(data_dir);
    if !paths.journal().exists() {
        let text = format!("{} is not the directory of an agent", data_dir.display());
        return Err(Failure::usage(text).advise("name it with --data-dir"));
    }
    let fate = match end_quarantined {
        true => "its tasks that the cluster does not have are killed",
        false => "its tasks that the cluster does not have keep running",
    };
    let what = format!(
        "the agent in {} leaves its cluster for {cluster} if that was restored from it; {fate}",
        data_dir.display()
    );
    confirm(&what, *yes)?;
    let text = match end_quarantined {
        true => format!("{cluster} {END_QUARANTINED}\n"),
        false => format!("{cluster}\n"),
    };
    let path = paths.adoption();
    let draft = path.with_extension("next");
    atomic_file::replace(&path, &draft, text.as_bytes(), WriteOptions::SYNCED)
        .with_context(|| format!("cannot write {}", path.display()))?;
    note("restart the agent: its tasks keep running");
    Ok(DONE)
}

/// Returns what the operator has confirmed for the agent in this directory.
pub(crate) fn read(directory: &Path) -> Result<Option<Adoption>, Failure> {
    let path = Paths::new(directory).adoption();
    match fs::read_to_string(&path) {
        Ok(text) => match parse(&text) {
            Some(adoption) => Ok(Some(adoption)),
            None => Err(Failure::failed(format!(
                "{} does not name a cluster: remove it, or run argosy agent adopt again",
                path.display()
            ))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let failed = anyhow::Error::new(error);
            Err(failed
                .context(format!("cannot read {}", path.display()))
                .into())
        }
    }
}

fn parse(text: &str) -> Option<Adoption> {
    let mut words = text.split_whitespace();
    let cluster = words.next()?.parse().ok()?;
    let ends_quarantine = match words.next() {
        None => false,
        Some(END_QUARANTINED) => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Adoption {
        cluster,
        ends_quarantine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_names_a_cluster_and_the_fate_of_other_tasks() {
        let id = "00112233445566778899aabbccddeeff";
        let cluster: ClusterId = id.parse().unwrap();
        for (text, ends_quarantine) in [
            (format!("{id}\n"), false),
            (format!("{id} end-quarantined\n"), true),
        ] {
            let adoption = Adoption {
                cluster,
                ends_quarantine,
            };
            assert_eq!(parse(&text), Some(adoption));
        }
        for text in [
            "",
            "cluster",
            "00",
            &format!("{id} end"),
            &format!("{id} end-quarantined 1"),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
