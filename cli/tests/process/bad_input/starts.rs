//! Rows of several steps: processes that must not start, or must not take part.

use std::process::Stdio;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::commands::program;
use super::row::{RowEnd, RowOutcome};
use super::site::BadInputCluster;
use crate::cluster::{TestMember, member, to_strings, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Waits until the log of a process that does not exit contains `part`, and returns that log.
async fn says(member: &mut TestMember, part: &str) -> (RowEnd, String) {
    wait_until(
        &format!("{} says {part:?}", member.name),
        LONG,
        async || {
            let said = member.log();
            let ended = member.ended().and_then(|status| status.code());
            match ended {
                Some(code) => Some((RowEnd::Exit(code), said)),
                None => said.contains(part).then_some((RowEnd::Retries, said)),
            }
        },
    )
    .await
}

/// An agent keeps retrying, because the list of masters may be wrong.
pub(super) fn an_agent_of_another_cluster(
    site: &BadInputCluster,
) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let masters = site.cluster.masters_list().to_string();
        let mut agent = site.agent("other-agent", site.free_host(), &masters);
        agent.start();
        let (ended, said) = says(&mut agent, "belongs to").await;
        let place = site.place();
        RowOutcome { ended, said, place }
    }
    .boxed_local()
}

/// An agent waits for masters, because they may be started after it.
pub(super) fn an_agent_that_reaches_no_master(
    site: &BadInputCluster,
) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let place = site.place();
        let masters = place.expand(site, "{free}:5050");
        let mut agent = site.agent("lonely-agent", site.free_host(), &masters);
        agent.start();
        let (ended, said) = says(&mut agent, "refused").await;
        RowOutcome { ended, said, place }
    }
    .boxed_local()
}

/// Two masters that are to form a group, with different third members.
pub(super) fn unequal_lists(site: &BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let (place, second) = (site.place(), site.place());
        let peers = place.expand(site, "{free}:5052,") + &second.expand(site, "{free}:5052");
        let third = site.place().expand(site, ",{free}:5052");
        let listen = place.expand(site, "{free}");
        let mut arguments = to_strings(&["master", "start", "--listen", &listen, "--peers"]);
        arguments.extend([format!("{peers}{third}"), "--data-dir".to_owned()]);
        arguments.push(site.folder("first").display().to_string());
        let address = listen.parse().expect("it is an address");
        let mut first = member(&site.folder(""), "first".to_owned(), address, arguments);
        first.start();
        let mut command = program(site, &place);
        let listen = second.expand(site, "{free}");
        command.args(["master", "start", "--listen", &listen, "--peers", &peers]);
        command.arg("--data-dir").arg(site.folder("second"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the executable starts");
        let output = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .expect("it does not panic")
            .expect("it is our child");
        RowOutcome {
            ended: output.status.code().map_or(RowEnd::Aborted, RowEnd::Exit),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            place,
        }
    }
    .boxed_local()
}

/// A master that has lost its disk is unknown at its old address: the group waits for an operator.
pub(super) fn a_wiped_master(site: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let folder = site.folder("master-2");
        let master = &mut site.cluster.masters[1];
        master.kill();
        std::fs::remove_dir_all(&folder).expect("it is there");
        master.start();
        let (ended, said) = says(master, "argosy master join").await;
        site.count_processes();
        let place = site.place();
        RowOutcome { ended, said, place }
    }
    .boxed_local()
}
