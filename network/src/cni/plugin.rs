//! One run of a CNI plugin: parameters in its environment and standard input, result on standard
//! output.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use argosy_host::child::{ChildProcess, memory_file, read_all};
use argosy_host::spawner::{ProgramCall, StandardStreams};
use serde::Deserialize;
use serde_json::Value;

use super::lock::ContainerLock;

/// The `PATH` of plugins.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A run of a plugin.
pub(super) struct PluginCall<'a> {
    pub(super) executable: &'a Path,
    pub(super) environment: Vec<(&'static str, OsString)>,
    pub(super) timeout: Duration,
}

/// A plugin's error result.
#[derive(Deserialize)]
struct PluginError {
    code: u64,
    msg: String,
    #[serde(default)]
    details: String,
}

impl PluginCall<'_> {
    /// Returns its result, null if it is empty; or the error as text.
    pub(super) fn run(&self, input: &Value, lock: &mut ContainerLock) -> Result<Value, String> {
        let words = |error: io::Error| format!("cannot run it: {error}");
        // Files, not pipes: a plugin that does not read, or a child that it leaves behind, cannot
        // block this process.
        let reported = lock.input(&input.to_string()).map_err(words)?;
        let mut answered = memory_file().map_err(words)?;
        let mut complained = memory_file().map_err(words)?;
        let copy = |file: &File| file.try_clone().map(OwnedFd::from);
        let streams = StandardStreams {
            input: reported,
            output: copy(&answered).map_err(words)?,
            error: Some(copy(&complained).map_err(words)?),
        };
        let mut command = Command::new(self.executable);
        command.env("PATH", PATH);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let execution = ProgramCall::of(&command).without_our_environment();
        let mut child = ChildProcess::execute(&execution, streams).map_err(words)?;
        let status = match child.wait_for_output(self.timeout, &[&answered, &complained]) {
            Ok(Some(status)) => status,
            Ok(None) => {
                child.kill();
                return Err(format!("it did not end within {:?}", self.timeout));
            }
            Err(error) => {
                child.kill();
                return Err(words(error));
            }
        };
        let answer = read_all(&mut answered).map_err(words)?;
        if status.success() {
            if answer.trim().is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&answer)
                .map_err(|error| format!("its result is invalid: {error}"));
        }
        match serde_json::from_str::<PluginError>(&answer) {
            Ok(PluginError { code, msg, details }) if details.is_empty() => {
                Err(format!("{msg} (code {code})"))
            }
            Ok(PluginError { code, msg, details }) => {
                Err(format!("{msg}: {details} (code {code})"))
            }
            Err(_) => {
                let complaint = read_all(&mut complained).map_err(words)?;
                Err(format!("it ended with {status}: {}", complaint.trim()))
            }
        }
    }
}
