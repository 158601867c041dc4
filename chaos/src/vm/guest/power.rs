//! The guest's part in power cuts: it reads everything back, then generates load until the machine
//! is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::super::report::Report;
use super::cluster::{self, AGAIN, ALL, Cluster};
use super::kernel_args::Words;
use super::load::{self, Load};
use super::{Voice, disks, reading};

/// Timeout of each step. The host's timeout is longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// Reads back, reports everything, and generates load. Ends only in the last boot of a series.
///
/// # Errors
/// The violation.
pub(super) async fn run(words: &Words, voice: &Voice) -> anyhow::Result<()> {
    for disk in ALL {
        disks::attach(&disks::device(disk), disk, PATIENCE).await?;
    }
    voice.say(&Report::Mounted)?;
    let mut cluster = Cluster::start()?;
    let outcome = course(&mut cluster, words, voice).await;
    if let Err(error) = &outcome {
        // The host shows the console after a failure.
        for number in ALL {
            eprintln!("master-{number}: {}", cluster::words(number));
        }
        voice.say(&Report::Failed {
            why: format!("{error:#}"),
        })?;
    }
    outcome
}

async fn course(cluster: &mut Cluster, words: &Words, voice: &Voice) -> anyhow::Result<()> {
    let ms = cluster::serving(cluster, PATIENCE).await?;
    voice.say(&Report::Serving { ms })?;
    for (agent, values) in reading::values().await? {
        voice.say(&Report::State { agent, values })?;
    }
    let mut applied = 0;
    for copy in reading::copies(cluster, &ALL, PATIENCE).await? {
        applied = copy.applied;
        voice.say(&Report::Digest {
            master: copy.master,
            applied: copy.applied,
            digest: copy.digest,
        })?;
    }
    voice.say(&Report::Settled { applied })?;
    if words.number("last")? == 1 {
        return Ok(());
    }
    let agent = load::register().await?;
    voice.say(&Report::Loading {
        agent: agent.clone(),
    })?;
    let said = voice.clone();
    let told = move |writer, batch, revision| {
        said.say(&Report::Acknowledged {
            writer,
            batch,
            revision,
        })
    };
    let mut load = Load::start(&agent, Arc::new(told))?;
    tokio::select! {
        error = load.failure() => Err(error),
        ended = alone(cluster, words, voice) => ended,
    }
}

/// Cuts the disk power of some masters, kills them and starts them again. Then it watches all
/// masters until the cut.
async fn alone(cluster: &mut Cluster, words: &Words, voice: &Voice) -> anyhow::Result<()> {
    let chosen = words.numbers("alone")?;
    if !chosen.is_empty() {
        tokio::time::sleep(Duration::from_millis(words.number("alone_ms")?)).await;
        let began = Instant::now();
        for disk in &chosen {
            voice.say(&Report::Off { disk: *disk })?;
            cluster.kill(*disk)?;
        }
        for disk in &chosen {
            disks::detach(*disk, PATIENCE).await?;
            voice.say(&Report::Released { disk: *disk })?;
        }
        for disk in &chosen {
            disks::attach(&disks::device(*disk), *disk, PATIENCE).await?;
            cluster.start_one(*disk)?;
        }
        for disk in &chosen {
            caught_up(cluster, *disk).await?;
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            voice.say(&Report::Back { disk: *disk, ms })?;
        }
    }
    loop {
        cluster.all_live(&ALL)?;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits until this master has applied the entries that another one had when the wait began.
pub(super) async fn caught_up(cluster: &mut Cluster, number: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut goal = None;
    loop {
        cluster.all_live(&ALL)?;
        for other in ALL.into_iter().filter(|other| *other != number) {
            // A master that is down, too, does not count.
            if let Ok(copy) = cluster::copy_of(other).await {
                goal = goal.or(Some(copy.committed_index));
            }
        }
        if let (Some(goal), Ok(own)) = (goal, cluster::copy_of(number).await)
            && own.applied_index >= goal
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            let own = cluster::copy_of(number).await;
            let own = own.map(|copy| (copy.applied_index, copy.committed_index));
            let words = cluster::words(number);
            bail!("master-{number} has not caught up: {own:?} of {goal:?}; {words}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}
