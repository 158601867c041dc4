//! `master rejoin`: the data of a stopped master is discarded and copied from the others, under a
//! new id.
//!
//! Everything is checked before anything is removed, and each step can be repeated. The group
//! removes the former member, the directory is emptied, and a master runs until the group has made
//! it a voter.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Context;
use argosy_master::{MasterConfig, MasterError, MasterParts};
use argosy_proto::v1;
use argosy_raft::LockedDirectory;
use argosy_tls::application::Application;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{CalledMasters, MasterRejoin};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::master::{BoundMaster, MasterAddresses, RaftRuntime};
use crate::operator::ClusterClient;
use crate::output::{self, StatusLine, StatusMode, note};
use crate::shutdown::{self, StopCondition};
use crate::transport::ServiceTransport;
use crate::{learner, listen, logging, random};

/// Time for the new master to become a voter, including its snapshot.
const JOIN_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for which the group may refuse to remove a member. It refuses for 20 s while it adds a new
/// member that is gone.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(40);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn rejoin(arguments: &MasterRejoin) -> VerbResult {
    let start = &arguments.start;
    if start.bootstrap {
        return Err(Failure::usage(
            "--bootstrap creates a new group, but rejoin joins an existing one; omit it",
        ));
    }
    let CalledMasters { masters, timeout } = &arguments.reach;
    let Some(masters) = masters else {
        let failure = Failure::usage("rejoin calls the other masters, and none is named");
        return Err(failure.advise("name them with --masters, as --masters 10.0.0.1,10.0.0.2"));
    };
    logging::install(&start.logging)?;
    // First, because a running master keeps its directory and its addresses.
    let stopped = LockedDirectory::open(&start.data_dir).map_err(|error| {
        Failure::of(&error).advise("nothing was changed; stop that master first if it is this one")
    })?;
    let BoundMaster {
        addresses: places,
        transport,
        api,
        raft,
        config,
        raft_runtime,
        runtime,
        // A master that is being filled serves no lists.
        readers: _,
    } = BoundMaster::new(start)?;
    // The addresses were free. Until the master runs, calls to them must be refused and not wait.
    drop((api, raft));
    let ended = runtime.block_on(async {
        transport.begin();
        let operator = ClusterClient::within(masters.clone(), *timeout, transport.client());
        let mode = StatusMode::unless(arguments.show.output.is_json());
        let Some(former) = confirmed(arguments, &operator, &config, mode).await? else {
            return Ok(DONE);
        };
        // Until now nothing was changed, and a signal ended the process.
        let stop = CancellationToken::new();
        shutdown::watch(StopCondition::Signals(&stop))?;
        discard_data((&operator, mode), &former, stopped, &stop).await?;
        let host = RejoinEnvironment {
            addresses: &places,
            transport: &transport,
            raft_runtime: &raft_runtime,
            mode,
        };
        let reply = host.take_data(&operator, config, &stop).await;
        let reply = reply.map_err(advise_repeat)?;
        output::list(arguments.show.output, &reply, &reply.masters)
    });
    runtime.shutdown_background();
    raft_runtime.end();
    ended
}

/// Returns the ids of the former members at this address once the user agrees to their removal;
/// `None` on a dry run.
async fn confirmed(
    arguments: &MasterRejoin,
    operator: &ClusterClient,
    config: &MasterConfig,
    mode: StatusMode,
) -> Result<Option<Vec<String>>, Failure> {
    let mut line = StatusLine::new(mode);
    let cluster = operator.cluster(v1::Consistency::Linearizable);
    let cluster = line.during("waiting for an answer of the masters", cluster);
    let cluster = cluster.await.map_err(advise_quorum)?;
    line.clear();
    let former = former_members(&cluster.masters, &config.raft_address, &config.peers)?;
    let what = describe(arguments, &former);
    if arguments.dry_run {
        note(&format!("would be done: {what}"));
        return Ok(None);
    }
    confirm(&what, arguments.yes)?;
    let ids = former.into_iter().map(|master| master.node_id.clone());
    Ok(Some(ids.collect()))
}

/// Makes the group remove the former members, then discards their data.
async fn discard_data(
    (operator, mode): (&ClusterClient, StatusMode),
    former: &[String],
    stopped: LockedDirectory,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    for id in former {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                let text = format!(
                    "stopped while the group removes {id}, which may still happen; the data on this host is kept"
                );
                return Err(advise_repeat(Failure::failed(text)));
            }
            removed = remove(operator, id, mode) => removed.map_err(advise_quorum)?,
        }
        note(&format!("{id} is removed from the group"));
    }
    if stop.is_cancelled() {
        let text = "stopped before the data on this host was discarded";
        return Err(advise_repeat(Failure::failed(text)));
    }
    let discarded = stopped.discard();
    // `stopped` holds the lock. The master that starts now takes it.
    discarded.map_err(|error| advise_repeat(Failure::of(&error)))
}

/// Makes the group remove a member. The group makes one change at a time, so a change of an earlier
/// attempt ends first.
async fn remove(operator: &ClusterClient, id: &str, mode: StatusMode) -> Result<(), Failure> {
    let started = Instant::now();
    let mut line = StatusLine::new(mode);
    let text = format!("waiting until the group has removed {id}");
    loop {
        let removed = operator.remove_master(id.to_owned());
        match line.during(&text, removed).await {
            Ok(_) => return Ok(()),
            Err(failure)
                if failure.code == FailureCode::Refused && started.elapsed() < REMOVE_TIMEOUT =>
            {
                tracing::info!(why = %failure.message, "not removed yet");
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The environment of the empty master until it has joined.
struct RejoinEnvironment<'a> {
    addresses: &'a MasterAddresses,
    transport: &'a ServiceTransport,
    raft_runtime: &'a RaftRuntime,
    mode: StatusMode,
}

impl RejoinEnvironment<'_> {
    /// Runs an empty master until it is a voter, and stops it.
    async fn take_data(
        &self,
        operator: &ClusterClient,
        config: MasterConfig,
        stop: &CancellationToken,
    ) -> Result<v1::MembershipReply, Failure> {
        let api = listen::bind(&self.addresses.listen, "--listen")?;
        let raft = listen::bind(&self.addresses.raft_listen, "--raft-listen")?;
        let parts = MasterParts {
            api: listen::connections(api, self.transport).context("cannot use the API's socket")?,
            raft: self.raft_runtime.environment(raft, self.transport)?,
            masters: self.transport.dialer(Application::Http2),
            agents: self.transport.dialer(Application::Http1),
            raft_runtime: self.raft_runtime.handle.clone(),
            readers: tokio::runtime::Handle::current(),
            memory: None,
            metrics: None,
            entropy: random::bytes()?,
            serving: None,
        };
        let raft_address = config.raft_address.clone();
        let mut running = tokio::spawn(argosy_master::run(config, parts, stop.child_token()));
        let line = StatusLine::new(self.mode);
        let joined = tokio::select! {
            joined = join(operator, &raft_address, &mut running, stop) => joined,
            never = show_progress(operator, &raft_address, line) => match never {},
        };
        let has_joined = joined.is_ok();
        stop.cancel();
        if has_joined {
            let ended = running.await.context("the master ended")?;
            ended.map_err(|error| Failure::of(&error))?;
            note(&format!(
                "{raft_address} is a voter again, with the data of the group; start it with argosy master start"
            ));
        }
        joined
    }
}

/// Returns the former members at this master's address: more than one if an earlier attempt was
/// interrupted.
fn former_members<'a>(
    masters: &'a [v1::Master],
    raft_address: &str,
    peers: &[String],
) -> Result<Vec<&'a v1::Master>, Failure> {
    if !peers.iter().any(|peer| peer == raft_address) {
        return Err(Failure::usage(format!(
            "--peers ({}) does not name this master, {raft_address}",
            peers.join(", ")
        ))
        .advise("give the flags that argosy master start has on this host"));
    }
    let is_other = |master: &&v1::Master| master.raft_address != raft_address;
    let mut others = masters.iter().filter(is_other);
    if !others.any(|master| peers.contains(&master.raft_address)) {
        return Err(Failure::new(
            FailureCode::Refused,
            "no other master of --peers belongs to the group that answers at --masters",
        )
        .advise("nothing was changed; name the other masters of this group with --masters"));
    }
    let own = masters.iter().filter(|master| !is_other(master));
    Ok(own.collect())
}

fn describe(arguments: &MasterRejoin, former: &[&v1::Master]) -> String {
    let ids: Vec<&str> = former
        .iter()
        .map(|master| master.node_id.as_str())
        .collect();
    let removed = match ids.is_empty() {
        true => "the group no longer has a member with this address".to_owned(),
        false => format!("the group removes {}", ids.join(", ")),
    };
    let directory = arguments.start.data_dir.display();
    format!(
        "{removed}, all data in {directory} is discarded, and an empty master joins as a new member"
    )
}

/// Calls the group until the running, empty master is a voter.
async fn join(
    operator: &ClusterClient,
    raft_address: &str,
    running: &mut JoinHandle<Result<(), MasterError>>,
    stop: &CancellationToken,
) -> Result<v1::MembershipReply, Failure> {
    let started = Instant::now();
    loop {
        let joined = tokio::select! {
            ended = &mut *running => {
                return Err(match ended {
                    Ok(Err(error)) => Failure::of(&error),
                    Ok(Ok(())) => Failure::failed("the master was stopped before it had joined"),
                    Err(error) => Failure::of(&error),
                });
            }
            () = stop.cancelled() => return Err(Failure::failed("stopped before it had joined")),
            joined = try_join(operator, raft_address) => joined,
        };
        match joined {
            Ok(reply) => return Ok(reply),
            Err(failure) if started.elapsed() >= JOIN_TIMEOUT => return Err(failure),
            Err(failure) => tracing::info!(why = %failure.message, "not a voter yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows on a terminal how far the new master is, until the future is dropped.
async fn show_progress(
    operator: &ClusterClient,
    raft_address: &str,
    mut line: StatusLine,
) -> Infallible {
    if !line.is_shown() {
        return std::future::pending().await;
    }
    loop {
        let text = learner::progress(operator, raft_address).await;
        let text = text.unwrap_or_else(|| format!("waiting until the group adds {raft_address}"));
        line.during(&text, tokio::time::sleep(learner::INTERVAL))
            .await;
    }
}

/// Makes one attempt. A change whose answer was lost may have happened: the repeated call is then
/// rejected, and the member list shows why.
async fn try_join(
    operator: &ClusterClient,
    raft_address: &str,
) -> Result<v1::MembershipReply, Failure> {
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    let mut masters = cluster.masters.iter();
    if masters.any(|master| master.voter && master.raft_address == raft_address) {
        return Ok(v1::MembershipReply {
            masters: cluster.masters,
        });
    }
    operator.join_master(raft_address.to_owned()).await
}

fn advise_quorum(failure: Failure) -> Failure {
    failure.advise("nothing was removed on this host; the other masters need a quorum first")
}

fn advise_repeat(failure: Failure) -> Failure {
    failure.advise("run the same argosy master rejoin again: it continues where this one ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(id: u64, address: &str) -> v1::Master {
        v1::Master {
            node_id: format!("master-{id}"),
            raft_address: address.to_owned(),
            ..v1::Master::default()
        }
    }

    fn peers() -> Vec<String> {
        ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_former_member_is_found_by_its_address() {
        let masters = [master(1, "a:1"), master(2, "b:1"), master(3, "c:1")];
        let found = former_members(&masters, "b:1", &peers()).unwrap();
        assert_eq!(found, [&masters[1]]);
        // The state after an interrupted attempt: the learner that it had added.
        let masters = [master(1, "a:1"), master(3, "c:1"), master(90, "b:1")];
        let found = former_members(&masters, "b:1", &peers()).unwrap();
        assert_eq!(found, [&masters[2]]);
        let removed = [master(1, "a:1"), master(3, "c:1")];
        assert!(
            former_members(&removed, "b:1", &peers())
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_stop_discards_no_data() {
        let stop = CancellationToken::new();
        stop.cancel();
        let masters = argosy_client::Masters::new(["127.0.0.1:1"]).unwrap();
        let transport = crate::transport::ClientTransport::plaintext();
        let operator = ClusterClient::to(masters, PAUSE, transport);
        for (former, text) in [
            (
                vec!["master-2".to_owned()],
                "removes master-2, which may still happen",
            ),
            (vec![], "stopped before the data on this host was discarded"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let stopped = LockedDirectory::open(directory.path()).unwrap();
            let file = directory.path().join("store");
            std::fs::write(&file, "data").unwrap();
            let place = (&operator, StatusMode::Quiet);
            let failure = discard_data(place, &former, stopped, &stop).await;
            let failure = failure.unwrap_err().to_string();
            assert!(failure.contains(text), "{failure}");
            assert!(file.exists());
        }
    }

    #[test]
    fn rejoin_refuses_another_cluster_and_a_group_of_one() {
        let others = [master(1, "x:1"), master(2, "y:1")];
        let failure = former_members(&others, "b:1", &peers()).unwrap_err();
        assert_eq!(failure.code, FailureCode::Refused);
        assert!(failure.to_string().contains("nothing was changed"));
        let alone = [master(2, "b:1")];
        let failure = former_members(&alone, "b:1", &peers()).unwrap_err();
        assert_eq!(failure.code, FailureCode::Refused);
        let failure = former_members(&others, "d:1", &peers()).unwrap_err();
        assert_eq!(failure.code, FailureCode::Usage);
    }
}
