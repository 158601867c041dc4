//! `master start|list|failovers|join|remove|transfer|raise-level|log-level|rejoin|recover`.

mod listing;
mod transfer;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use argosy_client::Masters;
use argosy_proto::v1;
use clap::{Args, Subcommand};

use listing::MasterList;

use super::agents::show_filter;
use super::{ObjectCommand, calls};
use crate::args::{
    ConnectionArguments, Format, ListArguments, LogLevel, MasterRejoin, MasterStart,
    OutputArguments,
};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::lookup::{master_candidate, pick_master};
use crate::operator::ClusterClient;
use crate::output::{self, StatusLine, StatusMode, note, span_ms};
use crate::recover::{MasterRecover, recover};
use crate::{learner, master, parsers, rejoin};

/// Interval at which the masters are asked for the next leader.
const LEADER_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(crate) enum MasterCommand {
    /// Start a master
    #[command(after_help = "Examples:
  argosy master start --bootstrap --insecure-plaintext     a group of one, for this host only
  argosy master start --listen 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --tls-cert m1.crt --tls-key m1.key --tls-ca ca.crt

Without a certificate, --insecure-plaintext is needed. `argosy ca` creates certificates.")]
    Start(Box<MasterStart>),
    /// List the masters, with leader and lag
    #[command(after_help = "Examples:
  argosy master list --sort behind --reverse
  argosy master list --watch

A silent master did not answer this command; an unconfirmed one leads without a quorum. With
--watch, the last line of a master that has left the group has the state removed. BEHIND is
the number of log entries that a follower lacks, HEARD the time since its last answer to the leader,
and LEVELS the feature levels that it supports.")]
    List(MasterList),
    /// List the changes of leader that the masters remember, with the times of their phases
    #[command(after_help = "Examples:
  argosy master failovers
  argosy master failovers --sort commit --reverse --limit 5

BEGAN is the time at which the former leader was found dead, else that of the election. The other
times are counted from it, until the new leader was elected, had committed its first entry, and had
made its first offer and launch. The newest 50 are kept, until all masters have stopped.")]
    Failovers(ListArguments),
    /// Add a started, empty master to the group, or record the new address of a member
    #[command(after_help = "Examples:
  argosy master join 10.0.0.4:5052
  argosy master join 10.0.0.4 --timeout 2m

If a member was moved with its data directory, the group records its new addresses.")]
    Join(MasterJoin),
    /// Remove a master from the group
    #[command(after_help = "Examples:
  argosy master remove master-3
  argosy master remove master-3 --dry-run")]
    Remove(MasterRemove),
    /// Transfer leadership to another master
    #[command(after_help = "Examples:
  argosy master transfer                     to the most up-to-date master
  argosy master transfer --away-from 10.0.0.1:5050

With --away-from, nothing happens if that master does not lead.")]
    Transfer(MasterTransfer),
    /// Raise the feature level of the cluster after an upgrade
    #[command(
        name = "raise-level",
        long_about = "Raise the feature level of the cluster after an upgrade

Masters of two releases work together at the level of the older one. When every master runs the new release, this
command enables what that release adds. It is rejected while any master does not report support for the new level.
It cannot be undone: a master of the older release exits, and rejects its data directory.",
        after_help = "Examples:
  argosy master raise-level                  to the next level, if all masters support it
  argosy master raise-level --to 3 --yes"
    )]
    RaiseLevel(MasterRaiseLevel),
    /// Show or change the log level of a master
    #[command(
        name = "log-level",
        after_help = "Examples:
  argosy master log-level master-2 argosy_master=debug,info
  argosy master log-level 10.0.0.2           the present one

The change ends with the process."
    )]
    LogLevel(LogLevel),
    /// Replace the data of a stopped master of this host with that of the group
    #[command(
        long_about = "Replace the data of a stopped master of this host with that of the group

For a master that refuses to start because its data is damaged or differs from that of the group. It takes the same
flags as `argosy master start`. The group removes the former member, the data directory is emptied, and an empty
master joins as a new member and copies all data from the others. Then this command exits: start the master as usual.
Nothing is removed while the other masters have no quorum. After an interruption at any point, it can be run again.",
        after_help = "Examples:
  argosy master rejoin --masters 10.0.0.1,10.0.0.2 --listen 10.0.0.3 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext
  argosy master rejoin --masters 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext --dry-run"
    )]
    Rejoin(Box<MasterRejoin>),
    /// Make a new cluster of the data of this stopped master, after the loss of a majority
    #[command(
        long_about = "Make a new cluster of the data of this stopped master, after the loss of a majority

Only for a cluster that has lost the disks of most of its masters for good. Choose the master with the highest log
index. The new cluster has another id, names the former one as its ancestor, and has every entry of this master's log,
also those that were not committed. Changes that only the lost masters had are lost. The former data is kept in the
directory. After an interruption no master starts on it: run the command again.",
        after_help = "Examples:
  argosy master recover --data-dir /var/lib/argosy/master --dry-run
  argosy master recover --data-dir /var/lib/argosy/master"
    )]
    Recover(MasterRecover),
}

#[derive(Debug, Args)]
pub(crate) struct MasterJoin {
    /// Raft address of the master
    #[arg(value_name = "HOST:PORT", value_parser = |text: &str| parsers::address(text, parsers::RAFT_PORT))]
    pub(crate) raft_address: String,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterRemove {
    /// Id or address, as shown by `argosy master list`
    pub(crate) master: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterTransfer {
    /// Id or address of the next leader
    pub(crate) master: Option<String>,
    /// Transfer leadership only if this master leads, to any other one: id or address
    #[arg(long, value_name = "MASTER", conflicts_with = "master")]
    pub(crate) away_from: Option<String>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterRaiseLevel {
    /// Feature level; by default the next one, if all masters support it
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) to: u32,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

impl ObjectCommand for MasterCommand {
    const ABOUT: &str = "Masters: start, list, add, remove, transfer leadership";
    const EXAMPLES: &str = "Examples:
  argosy master list
  argosy master transfer                     transfer leadership to another master";

    fn run(&self) -> VerbResult {
        match self {
            Self::Start(arguments) => master::start(arguments),
            Self::List(arguments) => calls(listing::list(arguments)),
            Self::Failovers(arguments) => calls(listing::failovers(arguments)),
            Self::Join(arguments) => calls(join(arguments)),
            Self::Remove(arguments) => calls(remove(arguments)),
            Self::Transfer(arguments) => calls(transfer(arguments)),
            Self::RaiseLevel(arguments) => calls(raise_level(arguments)),
            Self::LogLevel(arguments) => calls(log_level(arguments)),
            Self::Rejoin(arguments) => rejoin::rejoin(arguments),
            Self::Recover(arguments) => recover(arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::Start(_) => None,
            Self::List(arguments) => Some(arguments.show),
            Self::Failovers(arguments) => Some(arguments.show),
            Self::Join(arguments) => Some(arguments.show),
            Self::Remove(arguments) => Some(arguments.show),
            Self::Transfer(arguments) => Some(arguments.show),
            Self::RaiseLevel(arguments) => Some(arguments.show),
            Self::LogLevel(arguments) => Some(arguments.show),
            Self::Rejoin(arguments) => Some(arguments.show),
            Self::Recover(arguments) => Some(arguments.show),
        }
    }
}

pub(crate) async fn join(arguments: &MasterJoin) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let address = &arguments.raft_address;
    let line = StatusLine::new(StatusMode::unless(arguments.show.output.is_json()));
    let reply = tokio::select! {
        reply = operator.join_master(address.clone()) => reply?,
        never = report_learner(&operator, address, line) => match never {},
    };
    note(&format!("{address} is a voter now"));
    output::list(arguments.show.output, &reply, &reply.masters)
}

/// Reports how far a joining master is, until the future is dropped: on one line of a terminal, or
/// by a new line for each change.
async fn report_learner(
    operator: &ClusterClient,
    raft_address: &str,
    mut line: StatusLine,
) -> Infallible {
    let mut last = String::new();
    loop {
        tokio::time::sleep(learner::INTERVAL).await;
        // Without an answer, the call itself reports the problem.
        let Some(text) = learner::progress(operator, raft_address).await else {
            continue;
        };
        if line.is_shown() {
            line.show(|_| text);
        } else if text != last {
            note(&text);
            last = text;
        }
    }
}

pub(crate) async fn remove(arguments: &MasterRemove) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let master = find(&operator, &arguments.master).await?;
    let shown = format!("{} ({})", master.node_id, master.api_address);
    if arguments.dry_run {
        note(&format!("would remove {shown}, a {} now", master.role));
        return Ok(DONE);
    }
    confirm(
        &format!("this removes {shown} from the group; it can only return as a new member"),
        arguments.yes,
    )?;
    let reply = operator.remove_master(master.node_id).await?;
    note(&format!(
        "{shown} is removed; stop it, and empty its data directory before it joins again"
    ));
    output::list(arguments.show.output, &reply, &reply.masters)
}

pub(crate) async fn transfer(arguments: &MasterTransfer) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    if let Some(wanted) = &arguments.away_from {
        return transfer::away_from(&operator, wanted, arguments.show.output).await;
    }
    let node_id = match &arguments.master {
        Some(wanted) => find(&operator, wanted).await?.node_id,
        None => String::new(),
    };
    operator.transfer_leader(node_id).await?;
    let masters = masters_with_leader(&operator, None).await?;
    report_leader(arguments.show.output, masters)
}

fn report_leader(output: Format, masters: Vec<v1::Master>) -> VerbResult {
    let leader = leader_of(&masters).map(|leader| master_candidate(leader).label);
    note(&format!("{} leads now", leader.unwrap_or_default()));
    let reply = v1::MembershipReply { masters };
    output::list(output, &reply, &reply.masters)
}

/// Returns the masters, once one of them leads that is not `former`: the former leader may not know
/// the next one yet.
async fn masters_with_leader(
    operator: &ClusterClient,
    former: Option<&str>,
) -> Result<Vec<v1::Master>, Failure> {
    let is_next = |leader: &v1::Master| Some(leader.node_id.as_str()) != former;
    let deadline = Instant::now() + operator.timeout();
    let mut last = None;
    let mut line = StatusLine::new(StatusMode::Shown);
    while Instant::now() < deadline {
        match operator.cluster(v1::Consistency::Linearizable).await {
            Ok(cluster) if leader_of(&cluster.masters).is_some_and(is_next) => {
                return Ok(cluster.masters);
            }
            Ok(_) => {}
            Err(failure) => last = Some(failure),
        }
        line.show(|_| "waiting for the next leader".to_owned());
        tokio::time::sleep(LEADER_INTERVAL).await;
    }
    Err(without_leader(operator.timeout(), last))
}

/// Returns the failure of a transfer after which no master leads.
fn without_leader(waited: Duration, last: Option<Failure>) -> Failure {
    let waited = span_ms(waited.as_millis() as u64);
    let why = last.map_or_else(String::new, |last| format!(": {}", last.message));
    let text = format!("leadership was transferred, but no other master leads after {waited}{why}");
    Failure::new(FailureCode::Unavailable, text)
        .advise("argosy status shows which masters are down; --timeout waits longer")
}

fn leader_of(masters: &[v1::Master]) -> Option<&v1::Master> {
    masters.iter().find(|master| master.role == "leader")
}

pub(crate) async fn raise_level(arguments: &MasterRaiseLevel) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    confirm(
        "this raises the feature level of the cluster; no master of an earlier release can return",
        arguments.yes,
    )?;
    let reply = operator.raise_level(arguments.to).await?;
    let level = reply.level;
    note(&match level == reply.former_level {
        true => format!("the cluster is at feature level {level} already"),
        false => format!("the cluster is at feature level {level} now"),
    });
    output::list(arguments.show.output, &reply, &reply.masters)
}

async fn log_level(arguments: &LogLevel) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let master = find(&operator, &arguments.id).await?;
    // A call reaches the log of the master that answers it.
    let address = Masters::new([&master.api_address]).map_err(|why| Failure::of(&why))?;
    let itself = operator.at(address, operator.timeout());
    let changed = itself.set_log_filter(String::new(), arguments.filter.clone());
    show_filter(arguments.show.output, &changed.await?)
}

async fn find(operator: &ClusterClient, wanted: &str) -> Result<v1::Master, Failure> {
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    pick_master(cluster.masters, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_without_a_next_leader_is_reported() {
        let master = |node_id: &str, role: &str| v1::Master {
            node_id: node_id.to_owned(),
            role: role.to_owned(),
            ..v1::Master::default()
        };
        let mut masters = [master("master-1", "follower"), master("master-2", "leader")];
        assert_eq!(leader_of(&masters).unwrap().node_id, "master-2");
        masters[1].role = "unconfirmed".to_owned();
        assert_eq!(leader_of(&masters), None);
        let refused = Failure::new(FailureCode::Unavailable, "10.0.0.1:5050 refused");
        let failure = without_leader(Duration::from_secs(10), Some(refused));
        assert_eq!(failure.code, FailureCode::Unavailable);
        assert_eq!(
            failure.message,
            "leadership was transferred, but no other master leads after 10 s: 10.0.0.1:5050 refused"
        );
        assert!(failure.advice[0].starts_with("argosy status"), "{failure}");
    }
}
