//! The last step of a process inside a container: it drops its privileges and executes a command.
//!
//! There is one path for all: init uses it for the container's main command, and `exec` for
//! commands of exec sessions. So all have the same isolation layers.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use argosy_host::sys::{self, ExecPointers};
use nix::errno::Errno;
use nix::sys::resource::setrlimit;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::confinement::drop_privileges::Confinement;
use crate::confinement::drop_privileges::close_all_but;
use crate::confinement::seccomp::SeccompFilter;
use crate::spec::{LaunchSpec, Program, RootFs};

/// The search path of commands whose environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The maximum length of a program's name in messages: with a whole script, they would have no room
/// for the cause.
const NAME_BYTES: usize = 1024;

/// The reason why a command cannot be executed, as text.
pub(crate) type ExecuteError = String;

/// Everything that the last step needs, prepared in advance so that the step allocates nothing and
/// adds no errors.
pub(crate) struct PreparedCommand<'a> {
    spec: &'a LaunchSpec,
    /// For messages.
    name: String,
    candidates: Vec<CString>,
    pointers: ExecPointers,
    confinement: Option<Confinement>,
}

impl<'a> PreparedCommand<'a> {
    /// Prepares a validated request. Without a working directory the process stays in its current
    /// one.
    pub(crate) fn prepare(spec: &'a LaunchSpec, filter: &SeccompFilter) -> Self {
        let plain = |text: &str| CString::new(text).expect("the request was checked for NUL bytes");
        let arguments: Vec<String> = match &spec.program {
            Program::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            Program::Arguments(arguments) => arguments.clone(),
        };
        let shown = arguments.first().cloned().unwrap_or_default();
        let path = spec.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(DEFAULT_PATH, |(_, path)| path.as_str());
        let names = candidates(&shown, path);
        let environment = spec.environment.iter();
        let profile = spec.profile.as_ref();
        Self {
            confinement: profile.map(|profile| Confinement::new(profile.isolation_layers, filter)),
            candidates: names.iter().map(|name| plain(name)).collect(),
            pointers: ExecPointers::new(
                arguments.iter().map(|argument| plain(argument)).collect(),
                environment
                    .map(|(name, value)| plain(&format!("{name}={value}")))
                    .collect(),
            ),
            name: shown[..shown.floor_char_boundary(NAME_BYTES)].to_owned(),
            spec,
        }
    }

    /// Switches to the command's user and applies its isolation layers, with only the standard
    /// streams and `kept` open.
    ///
    /// The change is permanent: call it in the process that becomes the command.
    pub(crate) fn confine(&self, kept: Option<BorrowedFd<'_>>) -> Result<(), ExecuteError> {
        let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
        for limit in &self.spec.resource_limits {
            let resource = crate::spec::resource(&limit.name).expect("the request was checked");
            setrlimit(resource, limit.soft, limit.hard)
                .map_err(|errno| words(&format!("set the resource limit {}", limit.name), errno))?;
        }
        if let Some(confinement) = &self.confinement {
            confinement.drop_capabilities()?;
        }
        if let Some(user) = &self.spec.user {
            sys::become_user(user.uid, user.gid, &user.groups).map_err(|errno| {
                let whom = format!("run as user {} group {}", user.uid, user.gid);
                words(&whom, errno)
            })?;
        }
        if let Some(confinement) = &self.confinement {
            let uid = self.spec.user.as_ref().map_or(0, |user| user.uid);
            confinement.apply_layers(uid)?;
        }
        close_all_but(kept).map_err(|errno| words("close what init has open", errno))?;
        // As the user, who may not enter every directory. No open descriptor leads back to another
        // path.
        if let Some(directory) = &self.spec.working_dir {
            nix::unistd::chdir(directory).map_err(|errno| {
                let place = format!("enter the working directory {}", directory.display());
                words(&place, errno)
            })?;
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
            .map_err(|errno| words("unblock signals", errno))?;
        if let Some(confinement) = &self.confinement {
            confinement.filter_system_calls()?;
        }
        Ok(())
    }

    fn has_image(&self) -> bool {
        let profile = self.spec.profile.as_ref();
        profile.is_some_and(|profile| profile.view.root != RootFs::Host)
    }

    /// Returns only if it cannot be executed.
    pub(crate) fn execute(&self) -> ExecuteError {
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            match sys::execute(candidate, &self.pointers) {
                // The next candidate is tried, as in a shell; a file without execute permission is
                // remembered.
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => worst = Errno::EACCES,
                other => {
                    worst = other;
                    break;
                }
            }
        }
        let remedy = match worst {
            Errno::ENOENT if self.has_image() => "; name a program of the image",
            Errno::ENOENT => "; name a program of this host, or bring one with the task",
            Errno::EACCES => "; it must be an executable file",
            _ => "",
        };
        format!("cannot start {:?}: {}{remedy}", self.name, worst.desc())
    }
}

/// Returns the candidate paths of a command, in search order.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let directories = path.split(':');
    directories
        .map(|directory| match directory {
            "" => format!("./{name}"),
            directory => format!("{directory}/{name}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_given_path_only() {
        assert_eq!(candidates("./run", "/bin"), ["./run"]);
        assert_eq!(candidates("ls", "/a:/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "./ls", "/b/ls"]);
    }
}
