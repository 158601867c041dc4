//! `master rejoin`: the data of a stopped master is discarded and taken from the others, under a new id.
//!
//! Everything is checked before anything is removed, and each step can be repeated: the group forgets the
//! former member, the directory is emptied, a master runs until the group has made it a voter.

use std::time::{Duration, Instant};

use anyhow::Context;
use argosy_master::{Config, Parts, RunError};
use argosy_proto::v1;
use argosy_raft::Discarding;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::MasterRejoin;
use crate::commands::confirm;
use crate::exit::{Code, DONE, Ended, Failure};
use crate::master::{Places, Prepared, RaftRuntime};
use crate::operator::Operator;
use crate::output::{self, note};
use crate::shutdown::{self, Until};
use crate::{listen, logging, random};

/// How long the new master may take to become a voter, its snapshot included.
const JOINING: Duration = Duration::from_secs(600);
/// How long the group may refuse to remove a member, as it does while a new one is taken in that is gone: 20 s.
const REMOVING: Duration = Duration::from_secs(40);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn rejoin(arguments: &MasterRejoin) -> Ended {
    let start = &arguments.start;
    if start.bootstrap {
        return Err(Failure::usage(
            "--bootstrap makes a new group, and rejoin takes part in one; leave it out",
        ));
    }
    if arguments.reach.masters.is_none() {
        let failure = Failure::usage("rejoin asks the other masters, and none is named");
        return Err(failure.advise("name them with --masters, as --masters 10.0.0.1,10.0.0.2"));
    }
    logging::install(&start.logging)?;
    // First of all: a running master keeps its directory, and its addresses.
    let stopped = Discarding::open(&start.data_dir).map_err(|error| {
        Failure::of(&error).advise("nothing was changed; stop that master first if it is this one")
    })?;
    let Prepared {
        places,
        api,
        raft,
        config,
        raft_runtime,
        runtime,
        // No lists are read of a master that is being filled.
        readers: _,
    } = Prepared::new(start)?;
    // They were free. Until the master runs a call to them must be refused, not wait.
    drop((api, raft));
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        shutdown::watch(Until::Signals(&stop))?;
        let operator = Operator::open(&arguments.reach);
        if !give_up_data(arguments, &operator, &config, stopped).await? {
            return Ok(DONE);
        }
        let host = Host {
            places: &places,
            raft_runtime: &raft_runtime,
        };
        let reply = host.take_data(&operator, config, &stop).await;
        let reply = reply.map_err(again)?;
        output::list(arguments.show.output, &reply, &reply.masters)
    });
    runtime.shutdown_background();
    raft_runtime.end();
    ended
}

/// Has the group remove the former member, then discards what it kept. False if that is only to be said.
async fn give_up_data(
    arguments: &MasterRejoin,
    operator: &Operator,
    config: &Config,
    stopped: Discarding,
) -> Result<bool, Failure> {
    let cluster = operator.cluster(v1::Consistency::Linearizable).await;
    let cluster = cluster.map_err(unchanged)?;
    let former = former(&cluster.masters, &config.raft_address, &config.peers)?;
    let what = in_words(arguments, &former);
    if arguments.dry_run {
        note(&format!("would do so: {what}"));
        return Ok(false);
    }
    confirm(&what, arguments.yes)?;
    for master in &former {
        remove(operator, &master.node_id).await.map_err(unchanged)?;
        note(&format!("{} is removed from the group", master.node_id));
    }
    let discarded = stopped.discard();
    // With `stopped` the lock goes: the master that starts now takes it for itself.
    discarded.map_err(|error| again(Failure::of(&error)))?;
    Ok(true)
}

/// Has the group remove a member. It changes in one way at a time: what an attempt before this one has begun ends first.
async fn remove(operator: &Operator, id: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match operator.remove_master(id.to_owned()).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.code == Code::Refused && begun.elapsed() < REMOVING => {
                tracing::info!(why = %failure.message, "not removed yet");
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Where the empty master runs until it has joined.
struct Host<'a> {
    places: &'a Places,
    raft_runtime: &'a RaftRuntime,
}

impl Host<'_> {
    /// Runs an empty master until it is a voter, and ends it.
    async fn take_data(
        &self,
        operator: &Operator,
        config: Config,
        stop: &CancellationToken,
    ) -> Result<v1::MembershipReply, Failure> {
        let api = listen::bind(&self.places.listen, "--listen")?;
        let raft = listen::bind(&self.places.raft_listen, "--raft-listen")?;
        let parts = Parts {
            api: listen::connections(api).context("cannot use the API's socket")?,
            raft: self.raft_runtime.surroundings(raft)?,
            raft_runtime: self.raft_runtime.handle.clone(),
            readers: tokio::runtime::Handle::current(),
            memory: None,
            metrics: None,
            entropy: random::bytes()?,
        };
        let raft_address = config.raft_address.clone();
        let mut running = tokio::spawn(argosy_master::run(config, parts, stop.child_token()));
        let joined = join(operator, &raft_address, &mut running, stop).await;
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

/// The members that this master was until now, by its address: more than one if an earlier attempt was interrupted.
fn former<'a>(
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
            Code::Refused,
            "no other master of --peers belongs to the group that answers at --masters",
        )
        .advise("nothing was changed; name the other masters of this group with --masters"));
    }
    let own = masters.iter().filter(|master| !is_other(master));
    Ok(own.collect())
}

fn in_words(arguments: &MasterRejoin, former: &[&v1::Master]) -> String {
    let ids: Vec<&str> = former
        .iter()
        .map(|master| master.node_id.as_str())
        .collect();
    let removed = match ids.is_empty() {
        true => "the group has no member with this address any more".to_owned(),
        false => format!("the group removes {}", ids.join(", ")),
    };
    let directory = arguments.start.data_dir.display();
    format!(
        "{removed}, all data in {directory} is discarded, and an empty master joins as a new member"
    )
}

/// Asks the group to make the running, empty master a voter, until it is one.
async fn join(
    operator: &Operator,
    raft_address: &str,
    running: &mut JoinHandle<Result<(), RunError>>,
    stop: &CancellationToken,
) -> Result<v1::MembershipReply, Failure> {
    let begun = Instant::now();
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
            Err(failure) if begun.elapsed() >= JOINING => return Err(failure),
            Err(failure) => tracing::info!(why = %failure.message, "not a voter yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A change whose answer was lost has happened: then asking again is refused, and the list says why.
async fn try_join(operator: &Operator, raft_address: &str) -> Result<v1::MembershipReply, Failure> {
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    let mut masters = cluster.masters.iter();
    if masters.any(|master| master.voter && master.raft_address == raft_address) {
        return Ok(v1::MembershipReply {
            masters: cluster.masters,
        });
    }
    operator.join_master(raft_address.to_owned()).await
}

fn unchanged(failure: Failure) -> Failure {
    failure.advise("nothing was removed on this host; the other masters need a quorum first")
}

fn again(failure: Failure) -> Failure {
    failure.advise("run the same argosy master rejoin again: it takes up where this one ended")
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
    fn what_this_master_was_is_found_by_its_address() {
        let masters = [master(1, "a:1"), master(2, "b:1"), master(3, "c:1")];
        let found = former(&masters, "b:1", &peers()).unwrap();
        assert_eq!(found, [&masters[1]]);
        // As an interrupted attempt leaves it: the learner that it had begun.
        let masters = [master(1, "a:1"), master(3, "c:1"), master(90, "b:1")];
        let found = former(&masters, "b:1", &peers()).unwrap();
        assert_eq!(found, [&masters[2]]);
        let removed = [master(1, "a:1"), master(3, "c:1")];
        assert!(former(&removed, "b:1", &peers()).unwrap().is_empty());
    }

    #[test]
    fn another_cluster_is_never_joined_and_a_group_of_one_has_nobody_to_take_from() {
        let others = [master(1, "x:1"), master(2, "y:1")];
        let failure = former(&others, "b:1", &peers()).unwrap_err();
        assert_eq!(failure.code, Code::Refused);
        assert!(failure.to_string().contains("nothing was changed"));
        let alone = [master(2, "b:1")];
        let failure = former(&alone, "b:1", &peers()).unwrap_err();
        assert_eq!(failure.code, Code::Refused);
        let failure = former(&others, "d:1", &peers()).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
    }
}
