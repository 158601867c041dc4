//! The processes of a dev cluster: started, watched, stopped.
//!
//! A member that somebody killed and started again is stopped too: its pid file names it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use argosy_isolation::Process;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::Signal;
use tokio::process::{Child, ChildStdin, Command};

use super::groups;
use super::opened::INHERITED;
use super::plan::{Kind, Member, Plan};
use crate::exit::Failure;
use crate::pid_file;

/// How long a member may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the end of a process is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Variables that a member inherits besides those that are reported as opened.
const LOGS: [&str; 2] = ["ARGOSY_LOG", "ARGOSY_LOG_FORMAT"];
/// How much of a log is shown when a member fails.
const LINES: usize = 5;

/// See the file's head.
pub(super) struct Members {
    plan: Plan,
    /// The agents' cgroup trees, once they are known: an agent that was killed cannot be asked any more.
    pub(super) trees: Vec<PathBuf>,
    running: BTreeMap<String, Running>,
}

struct Running {
    child: Child,
    /// Its end tells the member that we are gone.
    _input: Option<ChildStdin>,
    process: Option<Process>,
}

impl Members {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            trees: Vec::new(),
            running: BTreeMap::new(),
        }
    }

    /// Starts them all.
    pub(super) fn start(&mut self, plan: &Plan, keeps: bool) -> anyhow::Result<()> {
        for member in &plan.members {
            if keeps {
                // Left by a cluster that did not end in order; it must not be taken for the new one.
                let _ = fs::remove_file(&member.pid_file);
            }
            let running = start(member).with_context(|| format!("cannot start {}", member.name))?;
            self.running.insert(member.name.clone(), running);
        }
        Ok(())
    }

    /// The first process of this member.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let running = self.running.get(name)?;
        running.process.map(|process| process.pid as u32)
    }

    /// The next member whose process has ended, as a sentence. Waits for ever when none is left.
    pub(super) async fn next_end(&mut self) -> String {
        let mut waits: FuturesUnordered<_> = self
            .running
            .iter_mut()
            .map(|(name, running)| {
                running
                    .child
                    .wait()
                    .map(move |status| (name.clone(), status))
            })
            .collect();
        let Some((name, status)) = waits.next().await else {
            return std::future::pending().await;
        };
        drop(waits);
        self.running.remove(&name);
        let how = status.map_or_else(|error| error.to_string(), describe);
        format!("{name} has ended ({how}); {}", self.log_of(&name))
    }

    /// A member that has ended already, if any: nothing ends while a cluster forms.
    pub(super) fn failed(&mut self) -> Option<Failure> {
        let ended = self.running.iter_mut().find_map(|(name, running)| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((name.clone(), status))
        });
        let (name, status) = ended?;
        let member = self
            .plan
            .members
            .iter()
            .find(|member| member.name == name)?;
        let text = fs::read_to_string(&member.log).unwrap_or_default();
        let last: Vec<_> = text.lines().rev().take(LINES).collect();
        let failure = Failure::failed(format!(
            "{name} has ended ({}) before the cluster was ready",
            describe(status)
        ));
        Some(
            last.into_iter()
                .rev()
                .fold(failure, |failure, line| failure.advise(line)),
        )
    }

    /// Processes that live now, by member; those started again by hand, too.
    pub(super) fn living(&self, kind: Kind) -> Vec<Process> {
        let members = self
            .plan
            .members
            .iter()
            .filter(|member| member.kind == kind);
        let processes = members.flat_map(|member| {
            let ours = self
                .running
                .get(&member.name)
                .and_then(|running| running.process);
            [ours, pid_file::read(&member.pid_file).ok().flatten()]
        });
        let mut living: Vec<_> = processes
            .flatten()
            .filter(|process| pid_file::lives(*process))
            .collect();
        living.dedup();
        living
    }

    /// Looks where the groups of the agents that live now are.
    pub(super) fn find_trees(&mut self) {
        let found = groups::trees(&self.living(Kind::Agent));
        self.trees.extend(found);
        self.trees.sort();
        self.trees.dedup();
    }

    fn log_of(&self, name: &str) -> String {
        let member = self.plan.members.iter().find(|member| member.name == name);
        member
            .map(|member| format!("its log is {}", member.log.display()))
            .unwrap_or_default()
    }

    /// Stops all of a kind: `signal`, after a while KILL. Those that were started again by hand, too.
    pub(super) async fn stop(&mut self, kind: Kind, signal: Signal) -> Result<(), Failure> {
        let mut waiting = self.living(kind);
        let mut first = signal_all(&waiting, signal).err();
        if !gone(&mut waiting, PATIENCE).await {
            first = first.or(signal_all(&waiting, Signal::SIGKILL).err());
            if !gone(&mut waiting, PATIENCE).await {
                let pids: Vec<_> = waiting
                    .iter()
                    .map(|process| process.pid.to_string())
                    .collect();
                return Err(Failure::failed(format!(
                    "processes {} do not end",
                    pids.join(", ")
                )));
            }
        }
        // Ours are reaped here, so that none stays as a zombie while the rest is cleared.
        for member in self
            .plan
            .members
            .iter()
            .filter(|member| member.kind == kind)
        {
            if let Some(mut running) = self.running.remove(&member.name) {
                let _ = running.child.wait().await;
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn start(member: &Member) -> anyhow::Result<Running> {
    let folder = member.log.parent().context("a log has a folder")?;
    // An agent that has given up root passes through to its own; a master's is nobody else's.
    let mode = match member.kind {
        Kind::Master => 0o700,
        Kind::Agent => 0o711,
    };
    let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    let log = File::options().create(true).append(true).open(&member.log);
    let log = log.with_context(|| format!("cannot write {}", member.log.display()))?;
    let (program, words) = member
        .argv
        .split_first()
        .context("a command line has a program")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .args(&member.bound)
        .stdin(Stdio::piped());
    command
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ARGOSY_") && !is_inherited(&text) {
            command.env_remove(&name);
        }
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot execute {program}"))?;
    let process = child.id().and_then(|pid| Process::of(pid as i32).ok());
    Ok(Running {
        _input: child.stdin.take(),
        child,
        process,
    })
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn signal_all(processes: &[Process], signal: Signal) -> Result<(), Failure> {
    for process in processes {
        pid_file::signal(*process, signal).map_err(|error| {
            Failure::failed(format!("cannot stop process {}: {error}", process.pid))
        })?;
    }
    Ok(())
}

/// Waits until none of them lives; those that do stay in the list.
async fn gone(processes: &mut Vec<Process>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        processes.retain(|process| pid_file::lives(*process));
        if processes.is_empty() || Instant::now() >= deadline {
            return processes.is_empty();
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether a member inherits this variable. Others of ours would contradict its command line.
fn is_inherited(name: &str) -> bool {
    LOGS.contains(&name) || INHERITED.iter().any(|(inherited, _)| *inherited == name)
}
