//! A cluster of real processes, started by `dev`, with helpers to use it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_client::{ConnectorConfig, Dialer};
use argosy_testbed::leftovers::remove_networks;
use argosy_testbed::processes::{end, remove_flag_variables};
use argosy_tls::application::Application;
use argosy_tls::credentials::{CredentialFiles, OwnFiles};
use argosy_tls::store::CredentialStore;
use argosy_tls::{PlaintextPolicy, Time, dialer};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Time limit of a step on a busy machine.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(90);

/// A host without CA certificates must suffice: clusters have their own.
pub(crate) const NO_CERTIFICATES: [(&str, &str); 2] = [
    ("SSL_CERT_FILE", "/nonexistent"),
    ("SSL_CERT_DIR", "/nonexistent"),
];

/// Returns the executable under test. The virtual machine has it at another path than the build.
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("ARGOSY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_argosy").into(), PathBuf::from)
}

pub(crate) fn argosy(words: &[&str]) -> Command {
    program(&executable(), words)
}

/// Returns a program in an environment that names no cluster.
fn program(name: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(name);
    remove_flag_variables(&mut command);
    command.envs(NO_CERTIFICATES).args(words);
    // Nor do contexts of the user who runs the tests.
    command.env(CONFIGURATION, "/nonexistent");
    command
}

/// The variable of the directory with the configuration of all programs, so with the contexts.
pub(crate) const CONFIGURATION: &str = "XDG_CONFIG_HOME";

/// Exit code, standard output, standard error.
pub(crate) type CommandOutput = (i32, String, String);

/// A running `argosy dev`, which is stopped on drop.
pub(crate) struct DevCluster {
    dev: Child,
    pub(crate) record: serde_json::Value,
    /// The directory with the contexts of its user.
    pub(crate) configuration: TempDir,
}

impl DevCluster {
    /// Starts a cluster. Each test has separate loopback addresses, because the ports are the
    /// default ones.
    pub(crate) fn start(number: u32, size: &str, more: &[&str]) -> Self {
        Self::start_with(number, size, more, &[])
    }

    /// The same with these variables for all members.
    pub(crate) fn start_with(
        number: u32,
        size: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let pid = std::process::id();
        let base = format!(
            "127.{}.{}.1",
            100 + pid % 100,
            (pid / 100 + number * 83) % 250
        );
        let words = [
            "dev",
            "--size",
            size,
            "--base",
            &base,
            "-o",
            "json",
            "--timeout",
            "80s",
        ];
        let mut command = argosy(&words);
        command.args(more).envs(variables.iter().copied());
        Self::of(command)
    }

    /// Starts a cluster by a command line that `dev` has printed.
    pub(crate) fn start_by(line: &str) -> Self {
        Self::of(program(Path::new("sh"), &["-c", &format!("exec {line}")]))
    }

    fn of(mut command: Command) -> Self {
        let configuration = tempfile::tempdir().unwrap();
        let mut dev = command
            .env(CONFIGURATION, configuration.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(dev.stdout.take().unwrap());
        let mut text = String::new();
        while serde_json::from_str::<serde_json::Value>(&text).is_err() {
            if lines.read_line(&mut text).unwrap() == 0 {
                let mut why = String::new();
                dev.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                panic!("the cluster did not start: {why}");
            }
        }
        let record = serde_json::from_str(&text).unwrap();
        Self {
            dev,
            record,
            configuration,
        }
    }

    pub(crate) fn argosy(&self, words: &[&str]) -> Command {
        self.reached_by(argosy(words))
    }

    /// Returns a shell that runs this line, and whose programs reach the cluster.
    pub(crate) fn shell(&self, line: &str) -> Command {
        self.reached_by(program(Path::new("sh"), &["-c", line]))
    }

    fn reached_by(&self, mut command: Command) -> Command {
        // A test may name one master in addition.
        command.env("ARGOSY_CONTEXT", self.record["context"].as_str().unwrap());
        command.env(CONFIGURATION, self.configuration.path());
        command
    }

    /// Returns the settings of a framework's connections to the masters.
    pub(crate) fn connector(&self) -> ConnectorConfig {
        let path = |name: &str| PathBuf::from(self.record["tls"][name].as_str().unwrap());
        let files = CredentialFiles {
            own: Some(OwnFiles {
                certificate: path("certificate"),
                key: path("key"),
            }),
            ca: path("ca"),
        };
        let credentials = CredentialStore::load(files, Time::now()).unwrap();
        ConnectorConfig {
            dialer: dialer::dial(
                Dialer::tcp(),
                Arc::new(credentials),
                Application::Http2,
                PlaintextPolicy::Rejected,
            ),
            ..ConnectorConfig::default()
        }
    }

    pub(crate) fn run(&self, words: &[&str]) -> CommandOutput {
        split(self.argosy(words).output().unwrap())
    }

    pub(crate) fn members(&self) -> &Vec<serde_json::Value> {
        self.record["members"].as_array().unwrap()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.record["directory"].as_str().unwrap().into()
    }

    /// Stops it as Ctrl-C does, and returns the exit code of `dev` and its output.
    pub(crate) fn stop(&mut self) -> (i32, String) {
        let status = end(&mut self.dev, Signal::SIGINT, STEP_TIMEOUT).unwrap();
        let code = status.code().expect("it exits in time");
        let mut text = String::new();
        self.dev
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (code, text)
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        let _ = end(&mut self.dev, Signal::SIGTERM, STEP_TIMEOUT);
        if self.directory().exists() {
            // Its agents continue with the next cluster on the directory.
            return;
        }
        for member in self.members() {
            // Of an agent that a test has killed.
            let directory = member["directory"].as_str().unwrap();
            if let Err(error) = remove_networks(Path::new(directory)) {
                eprintln!("networks of {directory} remain: {error}");
            }
        }
    }
}

pub(crate) fn split(output: Output) -> CommandOutput {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {STEP_TIMEOUT:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
