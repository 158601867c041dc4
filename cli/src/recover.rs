//! `master recover`: the data of one surviving master becomes that of a new cluster, after the loss
//! of a majority.

use std::path::PathBuf;

use anyhow::Context as _;
use argosy_master::SavedSnapshot;
use argosy_proto::clock::WallClock;
use argosy_raft::{LockedDirectory, OpenError, SavedSnapshotHeader};
use argosy_state::Registry;
use argosy_state::ids::ClusterId;
use clap::Args;
use tokio::runtime::Builder;

use crate::args::OutputArguments;
use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult};
use crate::output::{self, note};
use crate::random;
use crate::snapshot_file::{SnapshotSummary, unusable};

#[derive(Debug, Args)]
pub(crate) struct MasterRecover {
    /// Directory of the stopped master
    #[arg(
        long,
        env = "ARGOSY_MASTER_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/master"
    )]
    data_dir: PathBuf,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
}

fn failed(error: &OpenError) -> Failure {
    let advice = match error {
        OpenError::Locked { .. } => "nothing was changed; stop that master first",
        OpenError::MustRejoin { .. } | OpenError::Damaged { .. } => {
            "recover from the data of another master, or restore a saved snapshot: argosy snapshot restore"
        }
        _ => return Failure::of(error),
    };
    Failure::of(error).advise(advice)
}

pub(crate) fn recover(arguments: &MasterRecover) -> VerbResult {
    let directory = LockedDirectory::open(&arguments.data_dir).map_err(|error| failed(&error))?;
    if directory.is_recovering().map_err(|error| failed(&error))? {
        if arguments.dry_run {
            note(
                "would be done: an interrupted recovery is finished, and the data becomes that of a new cluster with this master alone",
            );
            return Ok(DONE);
        }
        note("continuing an interrupted recovery");
        return finish(directory, arguments);
    }
    let path = arguments.data_dir.clone();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start a runtime")?;
    let data = runtime
        .block_on(directory.read())
        .map_err(|error| failed(&error))?;
    drop(runtime);
    let after_applied = data.entries.len();
    let former = SavedSnapshot::of_stopped(data).map_err(|error| unusable(&path, &error))?;
    let what = format!(
        "the registry of cluster {} in {}, with {after_applied} log entries that were not applied yet, becomes that of a new cluster with this master alone; other masters of the former cluster must not be started again",
        former.header.cluster_id,
        path.display()
    );
    if arguments.dry_run {
        note(&format!("would be done: {what}"));
        return Ok(DONE);
    }
    confirm(&what, arguments.yes)?;
    let restored = new_cluster(former).map_err(|failure| failure.advise("nothing was changed"))?;
    let kept = directory.former_data();
    let begun = directory.begin_recovery(restored.header, &restored.records);
    begun.map_err(|error| {
        let text = format!("if {} is of an earlier recovery, remove it", kept.display());
        failed(&error).advise(text)
    })?;
    finish(directory, arguments)
}

fn finish(directory: LockedDirectory, arguments: &MasterRecover) -> VerbResult {
    let kept = directory.former_data();
    let finished = directory.finish_recovery();
    let (header, records) = finished.map_err(|error| failed(&error))?;
    note(&format!(
        "the former data is in {}; remove it later",
        kept.display()
    ));
    note(
        "start this master as usual: it forms a group of one, which masters with empty directories join",
    );
    let summary = summary(&SavedSnapshot { header, records })?;
    output::one(arguments.show.output, &summary, &summary.details())
}

fn new_cluster(former: SavedSnapshot) -> Result<SavedSnapshot, Failure> {
    let id = ClusterId(u128::from_be_bytes(random::bytes()?));
    let restored = former.restored(id, random::bytes()?);
    let restored = restored.map_err(|error| Failure::of(&error))?;
    let header = SavedSnapshotHeader {
        saved_at_ms: WallClock::system().now_ms(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        ..restored.header
    };
    Ok(SavedSnapshot { header, ..restored })
}

fn summary(restored: &SavedSnapshot) -> Result<SnapshotSummary, Failure> {
    let registry = Registry::load(restored.header.index, restored.records.iter().cloned());
    let registry = registry.map_err(|error| Failure::of(&error))?;
    Ok(SnapshotSummary::of(restored, &registry))
}
