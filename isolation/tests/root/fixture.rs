//! The fixture of one agent: its cgroup tree, its directories, its launcher. Removed without a
//! trace on drop.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use argosy_host::{ContainerId, ProcessId};
use argosy_isolation::{
    CgroupTree, Container, Exit, Handle, Isolation, LaunchSpec, Launcher, Namespaces, Program,
    cgroup, clean_up_abandoned, detect, disable_layer, launcher,
};

use crate::layers::WITHOUT;

/// A test: its name and its function.
pub(crate) type TestCase = (&'static str, fn());

/// The timeout of all waits in tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Ends a test that is not possible here. Counted, and printed with its reason.
pub(crate) struct SkipTest(pub(crate) String);

pub(crate) fn skip(reason: String) -> ! {
    // Not a panic: nothing failed, so only the reason is printed.
    std::panic::resume_unwind(Box::new(SkipTest(reason)))
}

/// Checks whether containers can be created here.
pub(crate) fn possible() -> Result<(), String> {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err("needs root".to_owned());
    }
    detect().full
}

pub(crate) struct RootFixture {
    pub(crate) tree: CgroupTree,
    pub(crate) launcher: Option<Launcher>,
    work: tempfile::TempDir,
    containers: u32,
}

pub(crate) fn launcher_for(tree: Option<&CgroupTree>) -> Launcher {
    let mut command = launcher::own_executable().unwrap();
    command.arg("launcher").env("LEAK", "from the agent");
    Launcher::spawn(&command, tree).unwrap()
}

impl RootFixture {
    pub(crate) fn new() -> Self {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let agent = ContainerId::new(format!("test-{}-{number}", std::process::id())).unwrap();
        let tree = CgroupTree::create(&cgroup::default_parent().unwrap(), &agent).unwrap();
        Self {
            launcher: Some(launcher_for(Some(&tree))),
            tree,
            work: tempfile::tempdir().unwrap(),
            containers: 0,
        }
    }

    /// Switches to a launcher that disables these layers.
    pub(crate) fn disable_layers(&mut self, disabled: &[disable_layer::MandatoryLayer]) {
        let gone: Vec<_> = disabled.iter().map(|wall| format!("{wall:?}")).collect();
        let mut command = launcher::own_executable().unwrap();
        command.args(["launcher", WITHOUT, &gone.join(",")]);
        self.launcher = Some(Launcher::spawn(&command, Some(&self.tree)).unwrap());
    }

    /// Returns a launch of this line in a shell, fully isolated, with new directories.
    pub(crate) fn spec(&mut self, line: &str) -> LaunchSpec {
        self.containers += 1;
        let spec = spec_in(self.work.path(), &format!("c{}", self.containers), line);
        let group = self.tree.group(&spec.id).path().to_owned();
        LaunchSpec {
            cgroup: Some(group),
            ..spec
        }
    }

    pub(crate) fn launch(&mut self, spec: &LaunchSpec) -> Container {
        self.launcher.as_mut().unwrap().launch(spec).unwrap()
    }

    /// Waits until the launcher has created the supervisor of a container that it was asked for,
    /// and returns that. Other children of a launcher are no supervisors: before it reads its first
    /// request, some create mount namespaces for it.
    pub(crate) fn supervisor_of(&mut self, container: &ContainerId) -> ProcessId {
        let launcher = self.launcher.as_mut().unwrap();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mut made = launcher.supervisors().into_iter();
            if let Some((_, process)) = made.find(|(id, _)| id == container) {
                return process;
            }
            assert!(Instant::now() < deadline, "{container} has no supervisor");
            // Without a pause: some tests end the supervisor in its first steps.
            std::thread::yield_now();
        }
    }

    /// Launches and waits until it runs.
    pub(crate) fn start(&mut self, spec: &LaunchSpec) -> (Container, Handle) {
        let mut container = self.launch(spec);
        let handle = container.wait_started(TIMEOUT).unwrap().unwrap();
        (container, handle)
    }

    /// Launches and waits until it has ended.
    pub(crate) fn run(&mut self, spec: &LaunchSpec) -> Exit {
        self.launch(spec).wait(TIMEOUT).unwrap()
    }

    /// Runs a line and returns its output.
    pub(crate) fn output(&mut self, line: &str) -> String {
        let spec = self.spec(line);
        let exit = self.run(&spec);
        let written = stdout(&spec);
        assert_eq!(
            exit.reason,
            "exited with code 0",
            "{line}: {written} {}",
            stderr(&spec)
        );
        written
    }

    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }
}

impl Drop for RootFixture {
    fn drop(&mut self) {
        self.launcher = None;
        if std::thread::panicking() {
            // Best effort: the failure that is being reported takes precedence.
            let _ = clean_up_abandoned(&self.tree, &BTreeSet::new(), TIMEOUT);
            let _ = self.tree.remove();
            return;
        }
        assert_eq!(
            clean_up_abandoned(&self.tree, &BTreeSet::new(), TIMEOUT).unwrap(),
            [],
            "a test cleans up"
        );
        eventually("every supervisor ends", || self.tree.remove().is_ok());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let work = self.work.path().to_str().unwrap();
        assert!(!mounts.contains(work), "no mount is left");
    }
}

pub(crate) fn spec_in(work: &Path, id: &str, line: &str) -> LaunchSpec {
    let directory = work.join(id);
    let sandbox = directory.join("sandbox");
    fs::create_dir_all(&sandbox).unwrap();
    let program = Program::Shell(line.to_owned());
    let mut spec = LaunchSpec::new(ContainerId::new(id).unwrap(), &directory, &sandbox, program);
    spec.nonce = 42;
    spec
}

/// Returns the same launch without namespaces or group.
pub(crate) fn plain(spec: LaunchSpec) -> LaunchSpec {
    LaunchSpec {
        isolation: Isolation::Processes,
        namespaces: Namespaces::NONE,
        cgroup: None,
        ..spec
    }
}

pub(crate) fn stdout(spec: &LaunchSpec) -> String {
    fs::read_to_string(spec.sandbox.join("stdout")).unwrap()
}

pub(crate) fn stderr(spec: &LaunchSpec) -> String {
    fs::read_to_string(spec.sandbox.join("stderr")).unwrap()
}

/// Waits for a condition; fails with its name.
pub(crate) fn eventually(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "not within {TIMEOUT:?}: {condition}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the number of processes with this word among their arguments.
pub(crate) fn processes_with(word: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| {
            line.split(|byte| *byte == 0)
                .any(|argument| argument == word.as_bytes())
        })
        .count()
}

/// An agent in a separate process, which has launched one container and can be killed.
pub(crate) struct Agent {
    pub(crate) process: Child,
}

impl Agent {
    /// Starts the agent and waits until its container runs.
    pub(crate) fn launching(
        spec: &LaunchSpec,
        tree: Option<&CgroupTree>,
        uid: Option<u32>,
    ) -> Self {
        let request = spec.directory.join("request.json");
        fs::write(&request, serde_json::to_vec(spec).unwrap()).unwrap();
        let mut executable = std::env::current_exe().unwrap();
        if uid.is_some() {
            // The user may have no access to the build directory.
            let copy = spec.directory.join("agent");
            fs::copy(executable, &copy).unwrap();
            executable = copy;
        }
        let mut command = Command::new(executable);
        command.arg("agent").arg(&request);
        command.args(tree.map(|tree| tree.supervisors()));
        command.stdin(Stdio::null());
        if let Some(uid) = uid {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
        }
        let process = command.spawn().unwrap();
        let agent = Self { process };
        eventually("the agent's container has started or ended", || {
            spec.directory.join("told").exists()
        });
        agent
    }

    /// Returns the agent's result: "started" or the error.
    pub(crate) fn outcome(spec: &LaunchSpec) -> String {
        fs::read_to_string(spec.directory.join("told")).unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The agent's side of [`Agent`]: launches one request, reports that, and waits to be killed.
pub(crate) fn agent(arguments: &[String]) -> ExitCode {
    let spec: LaunchSpec = serde_json::from_slice(&fs::read(&arguments[0]).unwrap()).unwrap();
    let mut launcher = launcher_for(None);
    if let Some(supervisors) = arguments.get(1).map(PathBuf::from) {
        let group = argosy_isolation::Cgroup::at(&supervisors);
        group.add(launcher.pid() as i32).unwrap();
    }
    let mut container = launcher.launch(&spec).unwrap();
    let reported = match container.wait_started(TIMEOUT).unwrap() {
        Ok(_) => "started".to_owned(),
        Err(exit) => exit.reason,
    };
    let draft = spec.directory.join("telling");
    fs::write(&draft, reported).unwrap();
    fs::rename(&draft, spec.directory.join("told")).unwrap();
    loop {
        std::thread::park();
    }
}
