//! crun and runc, called as their usual callers do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::UsageWho;
use serde_json::{Value, json};

use super::ContainerNetwork;
use super::ours::processor_us;

/// The result of one container.
pub(super) struct RuntimeResult {
    pub(super) ms: f64,
    /// Processor time in microseconds, of the runtime and all that it started.
    pub(super) core_us: f64,
}

/// A thread in a mount namespace that both runtimes accept, and its children.
pub(super) struct Runtimes {
    requests: Option<Sender<&'static str>>,
    answers: Receiver<Result<RuntimeResult>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtimes {
    /// Creates a bundle of this root, and the thread.
    ///
    /// # Errors
    /// If one of them is not installed, or no mount namespace can be created.
    pub(super) fn start(directory: &Path, root: &Path, net: ContainerNetwork) -> Result<Self> {
        let bundle = bundle(directory, root, net)?;
        let (requests, wanted) = channel();
        let (answer, answers) = channel();
        let serve = move || {
            if let Err(error) = hide_control_groups() {
                // The receiver is gone if the run was cancelled.
                let _ = answer.send(Err(error));
                return;
            }
            for program in wanted {
                if answer.send(time(program, &bundle)).is_err() {
                    return;
                }
            }
        };
        Ok(Self {
            requests: Some(requests),
            answers,
            thread: Some(std::thread::spawn(serve)),
        })
    }

    /// Times `run` of one container.
    pub(super) fn time(&self, program: &'static str) -> Result<RuntimeResult> {
        let requests = self.requests.as_ref().expect("it is dropped last");
        // A thread that has ended has left its reason.
        let _ = requests.send(program);
        self.answers
            .recv()
            .context("the thread of crun and runc has ended")?
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // It never panics, and waits only for requests.
            let _ = thread.join();
        }
    }
}

/// Hides cgroup version 1, because crun rejects hosts with both versions.
fn hide_control_groups() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot make mounts private")?;
    let nothing = MsFlags::empty();
    mount(
        Some("none"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        nothing,
        None::<&str>,
    )
    .context("cannot mount cgroup2")
}

/// Returns the bundle that `crun spec` makes, of the benchmark's root and program.
fn bundle(directory: &Path, root: &Path, net: ContainerNetwork) -> Result<PathBuf> {
    let bundle = directory.join(format!("bundle-{net:?}"));
    std::fs::create_dir_all(&bundle).context("cannot make a bundle")?;
    let made = Command::new("crun")
        .arg("spec")
        .current_dir(&bundle)
        .output()
        .context("cannot run crun: install the packages crun and runc")?;
    if !made.status.success() {
        bail!("crun spec: {}", String::from_utf8_lossy(&made.stderr));
    }
    let file = bundle.join("config.json");
    let text = std::fs::read(&file).context("crun has made no config.json")?;
    let mut config: Value = serde_json::from_slice(&text).context("config.json is not JSON")?;
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["terminal"] = json!(false);
    config["root"] = json!({"path": root, "readonly": true});
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("resources");
        if let Some(Value::Array(namespaces)) = linux.get_mut("namespaces") {
            namespaces.retain(|namespace| {
                net != ContainerNetwork::Host || namespace["type"] != "network"
            });
        }
    }
    std::fs::write(&file, config.to_string()).context("cannot write config.json")?;
    Ok(bundle)
}

/// No other child of this process may end during this, because its time would count.
fn time(program: &str, bundle: &Path) -> Result<RuntimeResult> {
    let name = format!("argosy-bench-{}", std::process::id());
    let mut command = Command::new(program);
    command.args(["run", "--bundle"]).arg(bundle).arg(name);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let used = processor_us(UsageWho::RUSAGE_CHILDREN)?;
    let started = Instant::now();
    let ended = command
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output());
    let took = started.elapsed().as_secs_f64() * 1e3;
    let ended = ended.with_context(|| format!("cannot run {program}: install its package"))?;
    if !ended.status.success() {
        let words = String::from_utf8_lossy(&ended.stderr);
        bail!("{program} run: {}", words.trim());
    }
    Ok(RuntimeResult {
        ms: took,
        core_us: processor_us(UsageWho::RUSAGE_CHILDREN)? - used,
    })
}
