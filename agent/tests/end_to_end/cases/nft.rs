//! Programs of the host that an agent runs, and that do not do what they should.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use argosy_proto::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;

use super::leftovers::bridged;
use super::{state, with_namespaces};
use crate::host::{Agent, Host};
use crate::master::{Link, Master, shell};

const NFT: &str = "/usr/sbin/nft";

/// Another file in the place of nft, for the mounts of this test alone; until it is dropped.
struct Instead;

impl Instead {
    fn of(file: &Path) -> Self {
        let none = None::<&str>;
        mount(Some(file), NFT, none, MsFlags::MS_BIND, none).unwrap();
        Self
    }
}

impl Drop for Instead {
    fn drop(&mut self) {
        umount2(NFT, MntFlags::MNT_DETACH).unwrap();
    }
}

pub(super) async fn an_nft_that_hangs_or_is_missing_fails_what_needs_it_and_nothing_else() {
    with_namespaces(
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS,
        without_nft,
    )
    .await;
}

async fn without_nft() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let hangs = host.shared().join("hangs");
    fs::write(&hangs, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).unwrap();
    // A file that cannot be executed is as good as none.
    let missing = host.shared().join("missing");
    fs::write(&missing, "").unwrap();
    let mut order = 0;
    for (file, says) in [(&hangs, "has not ended within"), (&missing, "denied")] {
        let instead = Instead::of(file);
        let agent = host.agent(master.address).await;
        let (mut link, _) = master.registered(order > 0).await;
        order += 2;
        let [first, second] = [order - 1, order].map(|number| format!("t{number}"));
        link.launch(order - 1, bridged(&first, "exit 0")).await;
        link.launch(order, shell(&second, "exit 0")).await;
        let end = ended(&mut link, &second).await;
        assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
        let end = ended(&mut link, &first).await;
        assert_eq!(state(&end), v1::TaskState::Failed, "{}", end.text);
        assert!(end.text.contains(says), "{}", end.text);
        drop(instead);
        order += 1;
        works_again(&mut link, &agent, order).await;
        agent.stop().await;
    }
}

async fn ended(link: &mut Link, task: &str) -> v1::NumberedUpdate {
    link.end_of(task).await.pop().unwrap()
}

/// The agent needs no restart.
async fn works_again(link: &mut Link, agent: &Agent, order: u64) {
    let task = format!("t{order}");
    link.launch(order, bridged(&task, "exit 0")).await;
    let end = ended(link, &task).await;
    assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
    agent.is_clear().await;
}
