//! Rows of several steps: processes that must not start, or must not take part.

use std::process::Stdio;
use std::time::Duration;

use argosy_testbed::command_lines::{MasterFlags, MemberTransport, PLAINTEXT};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::commands::program;
use super::environment::BadInputCluster;
use super::row::{RowEnd, RowOutcome};
use crate::cluster::{TestMember, member, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Waits until the log of a process that does not exit contains `part`, and returns that log.
async fn run_until_exit(member: &mut TestMember, part: &str) -> (RowEnd, String) {
    wait_until(
        &format!("{} reports {part:?}", member.name),
        LONG,
        async || {
            let message = member.log();
            let ended = member.ended().and_then(|status| status.code());
            match ended {
                Some(code) => Some((RowEnd::Exit(code), message)),
                None => message.contains(part).then_some((RowEnd::Retries, message)),
            }
        },
    )
    .await
}

/// An agent keeps retrying, because the list of masters may be wrong.
pub(super) fn agent_of_other_cluster(fixture: &BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let masters = fixture.cluster.masters_list().to_string();
        let mut agent = fixture.agent("other-agent", fixture.free_host(), &masters);
        agent.start();
        let (ended, reported) = run_until_exit(&mut agent, "belongs to").await;
        let place = fixture.addresses();
        RowOutcome {
            end: ended,
            message: reported,
            addresses: place,
        }
    }
    .boxed_local()
}

/// An agent waits for masters, because they may be started after it.
pub(super) fn agent_without_master(fixture: &BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let place = fixture.addresses();
        let masters = place.expand(fixture, "{free}:5050");
        let mut agent = fixture.agent("lonely-agent", fixture.free_host(), &masters);
        agent.start();
        let (ended, reported) = run_until_exit(&mut agent, "refused").await;
        RowOutcome {
            end: ended,
            message: reported,
            addresses: place,
        }
    }
    .boxed_local()
}

/// Two masters that are to form a group, with different third members.
pub(super) fn unequal_lists(fixture: &BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let (place, second) = (fixture.addresses(), fixture.addresses());
        let peers = place.expand(fixture, "{free}:5052,") + &second.expand(fixture, "{free}:5052");
        let third = fixture.addresses().expand(fixture, ",{free}:5052");
        let listen = place.expand(fixture, "{free}");
        let flags = MasterFlags {
            listen: &listen,
            peers: &format!("{peers}{third}"),
            data_dir: &fixture.directory("first"),
            transport: &MemberTransport::Plaintext,
        };
        let address = listen.parse().expect("it is an address");
        let mut first = member(
            &fixture.directory(""),
            "first".to_owned(),
            address,
            flags.arguments(&[]),
        );
        first.start();
        let mut command = program(fixture, &place);
        let listen = second.expand(fixture, "{free}");
        command.args(["master", "start", "--listen", &listen, "--peers", &peers]);
        command.arg("--data-dir").arg(fixture.directory("second"));
        command.arg(PLAINTEXT);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the executable starts");
        let output = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .expect("it does not panic")
            .expect("it is our child");
        RowOutcome {
            end: output.status.code().map_or(RowEnd::Aborted, RowEnd::Exit),
            message: String::from_utf8_lossy(&output.stderr).into_owned(),
            addresses: place,
        }
    }
    .boxed_local()
}

/// A master that has lost its disk is unknown at its old address: the group waits for an operator.
pub(super) fn wiped_master(fixture: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let directory = fixture.directory("master-2");
        let master = &mut fixture.cluster.masters[1];
        master.kill();
        std::fs::remove_dir_all(&directory).expect("it is there");
        master.start();
        let (ended, reported) = run_until_exit(master, "argosy master join").await;
        fixture.count_processes();
        let place = fixture.addresses();
        RowOutcome {
            end: ended,
            message: reported,
            addresses: place,
        }
    }
    .boxed_local()
}
