//! The broker's process: created by an agent that is root, it serves that agent until it exits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use argosy_host::spawner::{self, AllowedPrograms, Spawner};
use argosy_isolation::Isolation;
use argosy_isolation::disk;
use argosy_isolation::division::{self, HostUser};
use argosy_isolation::service::PacketSocket;

use super::operations::{PrivilegedOperations, prepare};
use crate::broker_client::link::{self, BrokerLink, ControlMessage};
use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult, ReplyResult};
use crate::config::Config;
use crate::error::{RunError, error_chain};
use crate::runner::{HelperCommands, host_ids};
use crate::start;

/// Exit status of a broker in which a request panicked, as of other Rust programs.
const PANICKED: i32 = 101;

/// Divides this process, which is an agent that is about to start: a copy of it keeps root, and
/// this one continues as the user of agents. Returns `None` if this process stays unchanged: it is
/// not root, it isolates less than in full, so that its tasks run as its own user, or its directory
/// is inaccessible to the user of agents.
///
/// `kept` are descriptors that `commands` name. Root performs `at_end` when the agent has ended.
/// Only before there are threads.
///
/// # Errors
/// If a step fails. This process must exit then.
pub fn separate_privileges(
    config: &Config,
    commands: &HelperCommands,
    kept: &[BorrowedFd<'_>],
    at_end: impl FnOnce(),
) -> Result<Option<BrokerLink>, RunError> {
    let isolation = config.isolation()?;
    if isolation != Isolation::Full || !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let failed = |source| RunError::SplitPrivileges { source };
    let owner = HostUser::agent();
    prepare(&config.directory, HostUser::current())?;
    if let Err(error) = start::is_reachable(&config.directory, owner) {
        let why = error_chain(&error);
        tracing::warn!(why, "this agent keeps root, without a broker");
        return Ok(None);
    }
    prepare(&config.directory, owner)?;
    let (mut own, theirs) = link::pair().map_err(failed)?;
    let theirs = Arc::new(theirs);
    let sockets = theirs.requests.iter().chain([&theirs.control]);
    let mut all: Vec<_> = sockets.map(|packets| packets.as_fd()).collect();
    all.extend_from_slice(kept);
    let served = Arc::clone(&theirs);
    let broker = division::fork(c"argosy-broker", &all, move || {
        // Before the broker's own filter, which executed programs would inherit.
        let spawner = spawner::start(programs(config, commands), kept);
        let ended = spawner.map(Arc::new).and_then(|spawner| {
            let ended = serve(&served, config, commands, owner, &spawner);
            spawner.end();
            ended
        });
        at_end();
        match ended {
            Ok(()) => 0,
            Err(error) => {
                let why = error_chain(&error);
                tracing::error!(why, "the broker cannot serve its agent");
                1
            }
        }
    })
    .map_err(failed)?;
    own.broker = Some(broker);
    let map = || -> io::Result<()> {
        link::send(&own.control, &ControlMessage::MapUsers, &[])?;
        match link::receive::<ReplyResult>(&own.control)? {
            Some((Ok(_), _)) => Ok(()),
            Some((Err(why), _)) => Err(io::Error::other(why)),
            None => Err(io::Error::other("the broker has ended")),
        }
    };
    division::drop_root(map).map_err(|why| failed(io::Error::other(why)))?;
    Ok(Some(own))
}

/// Returns all programs that are executed for an agent.
fn programs(config: &Config, commands: &HelperCommands) -> AllowedPrograms {
    let own = [&commands.launcher.program, &commands.content.program];
    let of_host = ["nft"]
        .into_iter()
        .chain(disk::MKFS_PATHS)
        .map(PathBuf::from);
    AllowedPrograms {
        files: own.into_iter().cloned().chain(of_host).collect(),
        directories: config.networks.cni.plugins.clone(),
    }
}

fn serve(
    link: &Arc<BrokerLink>,
    config: &Config,
    commands: &HelperCommands,
    owner: HostUser,
    spawner: &Arc<Spawner>,
) -> io::Result<()> {
    let agent = nix::unistd::getppid().as_raw();
    let Some((ControlMessage::MapUsers, _)) = link::receive(&link.control)? else {
        return Ok(());
    };
    let mapped = division::map_users(agent, owner, &host_ids::foreign_ids());
    let result: ReplyResult = mapped
        .map(|()| BrokerReply::Done)
        .map_err(|error| error.to_string());
    link::send(&link.control, &result, &[])?;
    let Some((ControlMessage::Open, lock)) = link::receive(&link.control)? else {
        return Ok(());
    };
    // The lock is held as long as one of the two processes runs.
    let _lock: Vec<OwnedFd> = lock;
    let (operations, host) = match PrivilegedOperations::open(config, commands.clone(), owner) {
        Ok(opened) => opened,
        Err(error) => {
            let result: ReplyResult = Err(error_chain(&error));
            return link::send(&link.control, &result, &[]);
        }
    };
    if let Err(why) = division::confine() {
        let result: ReplyResult = Err(format!("the broker {why}"));
        return link::send(&link.control, &result, &[]);
    }
    let result: ReplyResult = Ok(BrokerReply::Opened(host));
    link::send(&link.control, &result, &[])?;
    let watch = std::thread::Builder::new().name("broker".to_owned());
    let watched = Arc::clone(spawner);
    watch.spawn(move || {
        if watched.wait() {
            return;
        }
        // Without it no program can be executed. A new agent has a new one.
        tracing::error!("the spawner of this agent has ended, and its broker ends with it");
        std::process::exit(1);
    })?;
    let operations = Arc::new(operations);
    for at in 0..link.requests.len() {
        let (operations, link) = (Arc::clone(&operations), Arc::clone(link));
        let thread = std::thread::Builder::new().name("broker".to_owned());
        thread.spawn(move || {
            let answers = AssertUnwindSafe(|| answer_until_closed(&link, at, &operations));
            if catch_unwind(answers).is_err() {
                std::process::exit(PANICKED);
            }
        })?;
    }
    // Until the agent's end. An operation in progress is interrupted as if the agent had crashed in
    // it; the next run recovers from any point.
    let ended = loop {
        match link::receive::<ControlMessage>(&link.control) {
            Ok(Some((ControlMessage::Heartbeat, _))) => {
                let result: ReplyResult = Ok(BrokerReply::Done);
                // Fails only if the agent has exited, which the next receive shows.
                let _ = link::send(&link.control, &result, &[]);
            }
            Ok(Some((ControlMessage::MapUsers | ControlMessage::Open, _)) | None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    operations.end();
    ended
}

/// Serves one socket until the agent closes it. If it cannot, the broker ends: the agent may wait
/// for a reply, and without its broker it exits, and both are restarted.
fn answer_until_closed(link: &BrokerLink, at: usize, operations: &PrivilegedOperations) {
    if let Err(error) = answer(&link.requests[at], operations) {
        tracing::warn!(why = %error, "the broker cannot answer its agent, and ends");
        link.control.close();
    }
}

fn answer(packets: &PacketSocket, operations: &PrivilegedOperations) -> io::Result<()> {
    while let Some((request, descriptors)) = link::receive::<BrokerRequest>(packets)? {
        reply(packets, operations.perform(request, descriptors))?;
    }
    Ok(())
}

/// Sends a reply. One that has no encoding, or is too long, becomes an error of its request.
pub(super) fn reply(packets: &PacketSocket, performed: OperationResult) -> io::Result<()> {
    let (result, descriptors): (ReplyResult, _) = match performed {
        Ok((reply, descriptors)) => (Ok(reply), descriptors),
        Err(why) => (Err(why), Vec::new()),
    };
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    match link::prepare(&result) {
        Ok(prepared) => prepared.send(packets, &descriptors),
        Err(why) => {
            let failed: ReplyResult = Err(format!("the broker cannot send its reply: {why}"));
            link::send(packets, &failed, &[])
        }
    }
}
