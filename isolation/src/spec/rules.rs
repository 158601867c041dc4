//! Validation of launch requests: errors name field, value and remedy.

use std::path::{Component, Path};

use super::mounts::{HostPath, MountSpec, OwnerMapping, SANDBOX, SHARED, check_volumes};
use super::profile::{CONTAINER_IDS, END_HOST_ID, FIRST_HOST_ID};
use super::{
    Isolation, LaunchSpec, Namespaces, Network, Program, RootFs, STRING_LIMIT_BYTES,
    STRINGS_LIMIT_BYTES, SpecError, UserSpec, resource,
};

/// The entries of every container's `/dev`, and the name that is used while others are created.
const USUAL_DEVICES: [&str; 15] = [
    "null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx",
    "pts", "mqueue", "shm", ".own",
];
/// The maximum length of a host name on Linux, in bytes.
const HOSTNAME_LIMIT_BYTES: usize = 64;
/// The minimum size of an output file: no piece that is moved at a time fills more than two.
const OUTPUT_FILE_MINIMUM_BYTES: u64 = 64 * 1024;
/// The minimum rate limit of output, in bytes per second: the few lines of a command that fails
/// immediately must get through.
const OUTPUT_PACE_MINIMUM_BYTES: u64 = 4 * 1024;
/// The maximum number of files per stream: each of them is renamed at each rotation.
const OUTPUT_FILES_LIMIT: u32 = 100;

impl LaunchSpec {
    /// Rejects what the kernel would reject later, with a message that names field, value and
    /// remedy.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(&self) -> Result<(), SpecError> {
        check_path("directory", &self.directory)?;
        check_path("sandbox", &self.sandbox)?;
        if let Some(path) = &self.working_dir
            && path.as_os_str().as_encoded_bytes().contains(&0)
        {
            let remedy = "remove the NUL byte";
            return Err(SpecError::new(
                "working_dir",
                &path.to_string_lossy(),
                remedy,
            ));
        }
        if let Some(cgroup) = &self.cgroup {
            check_path("cgroup", cgroup)?;
        }
        self.check_program()?;
        self.check_environment()?;
        self.check_confinement()?;
        for limit in &self.resource_limits {
            if resource(&limit.name).is_none() {
                let remedy = "use a name from setrlimit(2) in lower case, such as nofile";
                return Err(SpecError::new("resource_limits", &limit.name, remedy));
            }
            if limit.soft > limit.hard {
                let value = format!("{} {}:{}", limit.name, limit.soft, limit.hard);
                let remedy = "the soft limit may not exceed the hard one";
                return Err(SpecError::new("resource_limits", &value, remedy));
            }
        }
        if let Some(signal) = self.stop_signal.filter(|signal| !(1..=64).contains(signal)) {
            let remedy = "give a signal's number, 1 to 64";
            return Err(SpecError::new("stop_signal", &signal.to_string(), remedy));
        }
        self.check_output()
    }

    fn check_output(&self) -> Result<(), SpecError> {
        let output = self.output;
        let refuse =
            |field, value: u64, remedy| Err(SpecError::new(field, &value.to_string(), remedy));
        if output.file_bytes < OUTPUT_FILE_MINIMUM_BYTES {
            return refuse(
                "output.file_bytes",
                output.file_bytes,
                "give at least 65536",
            );
        }
        if !(1..=OUTPUT_FILES_LIMIT).contains(&output.files) {
            return refuse("output.files", output.files.into(), "give 1 to 100");
        }
        if output.bytes_per_second < OUTPUT_PACE_MINIMUM_BYTES {
            let pace = output.bytes_per_second;
            return refuse("output.bytes_per_second", pace, "give at least 4096");
        }
        check_path("output_record", &self.output_record)
    }

    fn check_program(&self) -> Result<(), SpecError> {
        match &self.program {
            Program::Shell(line) if line.trim().is_empty() => {
                let remedy = "give a command to run";
                Err(SpecError::new("command", line, remedy))
            }
            Program::Shell(line) => check_string("command", line),
            Program::Arguments(arguments) => {
                if arguments.first().is_none_or(String::is_empty) {
                    let value = format!("{arguments:?}");
                    let remedy = "its first element must name a program";
                    return Err(SpecError::new("argv", &value, remedy));
                }
                arguments
                    .iter()
                    .try_for_each(|argument| check_string("argv", argument))
            }
        }
    }

    fn check_profile(&self) -> Result<(), SpecError> {
        if let Some(directory) = &self.shared_directory {
            check_path("shared_directory", directory)?;
        }
        let Some(profile) = &self.profile else {
            return match &self.shared_directory {
                None => Ok(()),
                Some(directory) => {
                    let remedy = "only a container with a profile is shown one: leave it out";
                    let directory = directory.to_string_lossy();
                    Err(SpecError::new("shared_directory", &directory, remedy))
                }
            };
        };
        if self.isolation != Isolation::Full || self.namespaces != Namespaces::ALL {
            let remedy = "a profile needs full isolation and all namespaces";
            return Err(SpecError::new("profile", self.isolation.name(), remedy));
        }
        let first = profile.first_host_id;
        if first % CONTAINER_IDS != 0 || !(FIRST_HOST_ID..END_HOST_ID).contains(&first) {
            let remedy = "give a multiple of 65,536 from 524,288 to below 1,879,048,192";
            return Err(SpecError::new("first_host_id", &first.to_string(), remedy));
        }
        let users = self.user.iter();
        let numbers =
            users.flat_map(|user| [user.uid, user.gid].into_iter().chain(user.groups.clone()));
        if let Some(number) = numbers.into_iter().find(|number| *number >= CONTAINER_IDS) {
            let remedy = "a container has the users and groups 0 to 65,535";
            return Err(SpecError::new("user", &number.to_string(), remedy));
        }
        if profile.isolation_layers.allows_user_change() && profile.view.has_mapped_owners() {
            let value = profile.isolation_layers.capabilities.to_string();
            let remedy =
                "on host paths its users are the host's: let it see none, or keep it as it is";
            return Err(SpecError::new("capabilities", &value, remedy));
        }
        // A user that an image names is known only inside, where the same check follows.
        let is_root = self
            .user
            .as_ref()
            .is_none_or(crate::spec::ContainerUser::is_of_root);
        if is_root && self.image_user.is_none() && profile.view.has_mapped_owners() {
            let remedy = "on host paths its user is the host's: name one who is not root";
            return Err(SpecError::new("user", "0", remedy));
        }
        profile.view.root.check()?;
        check_view(&profile.view)
    }

    fn check_devices(&self) -> Result<(), SpecError> {
        for path in &self.devices {
            let value = path.to_string_lossy();
            check_path("devices", path)?;
            let plain = path
                .components()
                .skip(1)
                .all(|part| matches!(part, Component::Normal(_)));
            let place = path.strip_prefix("/dev").ok();
            let first = place.and_then(|place| place.components().next());
            let is_usual = first.is_none_or(|first| {
                USUAL_DEVICES
                    .iter()
                    .any(|usual| first.as_os_str() == *usual)
            });
            if !plain || is_usual {
                let remedy = "name a device below /dev by a path without '..', and none that every container has";
                return Err(SpecError::new("devices", &value, remedy));
            }
            if self.profile.is_none() {
                let remedy = "only a container with a profile has extra devices";
                return Err(SpecError::new("devices", &value, remedy));
            }
        }
        Ok(())
    }

    fn check_image_user(&self) -> Result<(), SpecError> {
        let Some(name) = &self.image_user else {
            return Ok(());
        };
        let has_image = self
            .profile
            .as_ref()
            .is_some_and(|profile| profile.view.root != RootFs::Host);
        if !has_image || self.user.is_some() {
            let remedy = "name a user of the image only where there is one, and no other user";
            return Err(SpecError::new("image_user", name, remedy));
        }
        if UserSpec::parse(name).is_none() {
            let remedy = "give USER or USER:GROUP, each a name or a number";
            return Err(SpecError::new("image_user", name, remedy));
        }
        Ok(())
    }

    fn check_network(&self) -> Result<(), SpecError> {
        let named = self.isolation.name();
        if self.network == Network::None && self.isolation == Isolation::Processes {
            let remedy = "plain processes are in the host's network: request another mode";
            return Err(SpecError::new("network", named, remedy));
        }
        if self.network == Network::Joined && self.isolation != Isolation::Full {
            let remedy = "only full isolation can join a network: request it, or no network";
            return Err(SpecError::new("network", named, remedy));
        }
        if let Some(file) = self.files.first().filter(|_| self.profile.is_none()) {
            let remedy = "only a container with a profile has generated files";
            let value = file.path.to_string_lossy();
            return Err(SpecError::new("files", &value, remedy));
        }
        self.files
            .iter()
            .try_for_each(|file| check_path("files", &file.path))
    }

    fn check_environment(&self) -> Result<(), SpecError> {
        let mut total: usize = match &self.program {
            Program::Shell(line) => line.len(),
            Program::Arguments(arguments) => {
                arguments.iter().map(|argument| argument.len() + 1).sum()
            }
        };
        total += self
            .environment
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum::<usize>();
        if total > STRINGS_LIMIT_BYTES {
            return Err(SpecError::new(
                "environment",
                &format!("{total} bytes with the arguments"),
                "keep it below 1 MiB (1,048,576 bytes) and bring larger data as a file",
            ));
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains('=') {
                let remedy = "a variable's name may not be empty or contain '='";
                return Err(SpecError::new("environment", name, remedy));
            }
            check_string("environment", name)?;
            check_string("environment", value)?;
            if name.len() + value.len() + 1 > STRING_LIMIT_BYTES {
                let remedy = "one variable may hold at most 128 KiB (131,071 bytes)";
                return Err(SpecError::new("environment", name, remedy));
            }
        }
        Ok(())
    }

    fn check_confinement(&self) -> Result<(), SpecError> {
        let named = self.isolation.name();
        if self.isolation == Isolation::Processes && self.namespaces != Namespaces::NONE {
            let remedy = "plain processes have no namespaces: request none, or another mode";
            return Err(SpecError::new("isolation", named, remedy));
        }
        if self.isolation == Isolation::Full && self.cgroup.is_none() {
            let remedy = "full isolation needs a cgroup: give one, or request another mode";
            return Err(SpecError::new("isolation", named, remedy));
        }
        if self.isolation != Isolation::Full && self.user.is_some() {
            let remedy = "only full isolation can change the user: leave it out";
            return Err(SpecError::new("user", named, remedy));
        }
        self.check_network()?;
        self.check_profile()?;
        self.check_devices()?;
        self.check_image_user()?;
        let Some(hostname) = &self.hostname else {
            return Ok(());
        };
        if hostname.is_empty() || hostname.len() > HOSTNAME_LIMIT_BYTES || hostname.contains('\0') {
            return Err(SpecError::new("hostname", hostname, "use 1 to 64 bytes"));
        }
        if !self.namespaces.uts {
            let remedy = "request a uts namespace as well, or leave it out";
            return Err(SpecError::new("hostname", hostname, remedy));
        }
        Ok(())
    }
}

fn check_view(view: &MountSpec) -> Result<(), SpecError> {
    for (at, host_path) in view.host_paths.iter().enumerate() {
        let HostPath {
            from,
            to,
            read_only,
            owners,
        } = host_path;
        let refuse = |remedy| {
            let value = to.to_string_lossy();
            Err(SpecError::new("host_paths", &value, remedy))
        };
        for path in [from, to] {
            check_path("host_paths", path)?;
            let mut parts = path.components().skip(1);
            let plain = parts.all(|part| matches!(part, Component::Normal(_)));
            if !plain || path.parent().is_none() {
                return refuse("name a path below the root without '..'");
            }
        }
        let mut own = ["/dev", "/proc", "/sys", SANDBOX, SHARED].iter();
        if own.any(|own| to.starts_with(own)) {
            return refuse("name a path that is not in /dev, /proc, /sys, /sandbox or /group");
        }
        if *owners == OwnerMapping::Unmapped && !read_only {
            return refuse("only a read-only host path can have owners outside the container");
        }
        if view.host_paths[..at].iter().any(|other| other.to == *to) {
            return refuse("give each host path a separate path");
        }
    }
    check_volumes(&view.volumes)
}

fn check_path(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let value = path.to_string_lossy();
    if !path.is_absolute() {
        return Err(SpecError::new(field, &value, "give an absolute path"));
    }
    if value.contains('\0') {
        return Err(SpecError::new(field, &value, "remove the NUL byte"));
    }
    Ok(())
}

fn check_string(field: &'static str, value: &str) -> Result<(), SpecError> {
    if value.contains('\0') {
        return Err(SpecError::new(field, value, "remove the NUL byte"));
    }
    if value.len() > STRING_LIMIT_BYTES {
        let remedy = "one string may hold at most 128 KiB (131,071 bytes): bring it as a file";
        return Err(SpecError::new(field, value, remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use argosy_host::ContainerId;

    use super::*;
    use crate::spec::ResourceLimit;

    fn spec(program: Program) -> LaunchSpec {
        let id = ContainerId::new("c-1").unwrap();
        let mut spec = LaunchSpec::new(id, Path::new("/d"), Path::new("/s"), program);
        spec.cgroup = Some("/sys/fs/cgroup/argosy/a/c-1".into());
        spec
    }

    fn refusal(change: impl FnOnce(&mut LaunchSpec)) -> String {
        let mut spec = spec(Program::Shell("true".into()));
        spec.check().expect("the unchanged request is valid");
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn every_error_names_field_value_and_remedy() {
        let empty = refusal(|spec| spec.program = Program::Arguments(vec![]));
        assert_eq!(
            empty,
            "argv \"[]\" is not valid: its first element must name a program"
        );
        let relative = refusal(|spec| spec.sandbox = "tmp/x".into());
        assert_eq!(
            relative,
            "sandbox \"tmp/x\" is not valid: give an absolute path"
        );
        let nul = refusal(|spec| spec.program = Program::Shell("a\0b".into()));
        assert_eq!(nul, "command \"a\\0b\" is not valid: remove the NUL byte");
        let name = refusal(|spec| spec.environment = vec![("A=B".into(), String::new())]);
        assert!(
            name.starts_with("environment \"A=B\" is not valid"),
            "{name}"
        );
        let limit = refusal(|spec| {
            spec.resource_limits = vec![ResourceLimit {
                name: "nofiles".into(),
                soft: 1,
                hard: 1,
            }];
        });
        assert!(limit.starts_with("resource_limits \"nofiles\""), "{limit}");
        let small = refusal(|spec| spec.output.file_bytes = 65_535);
        assert_eq!(
            small,
            "output.file_bytes \"65535\" is not valid: give at least 65536"
        );
        let none = refusal(|spec| spec.output.files = 0);
        assert!(none.starts_with("output.files \"0\""), "{none}");
        let slow = refusal(|spec| spec.output.bytes_per_second = 1);
        assert!(slow.contains("give at least 4096"), "{slow}");
        let record = refusal(|spec| spec.output_record = "output".into());
        assert!(record.starts_with("output_record \"output\""), "{record}");
        let group = refusal(|spec| spec.cgroup = None);
        assert!(group.contains("full isolation needs a cgroup"), "{group}");
    }

    #[test]
    fn a_network_unsupported_by_the_mode_is_rejected() {
        let plain = refusal(|spec| {
            spec.isolation = Isolation::Processes;
            spec.namespaces = Namespaces::NONE;
            spec.network = Network::None;
        });
        assert!(plain.contains("are in the host's network"), "{plain}");
        let joined = refusal(|spec| {
            spec.isolation = Isolation::UserNamespaces;
            spec.network = Network::Joined;
        });
        assert!(joined.contains("only full isolation can join"), "{joined}");
        let files = refusal(|spec| {
            spec.files = vec![crate::spec::GeneratedFile {
                path: "/etc/hosts".into(),
                text: String::new(),
            }];
        });
        assert!(files.starts_with("files \"/etc/hosts\""), "{files}");
    }

    #[test]
    fn an_oversized_environment_is_rejected() {
        let one = refusal(|spec| spec.environment = vec![("A".into(), "x".repeat(200_000))]);
        assert!(one.contains("at most 128 KiB"), "{one}");
        let many = refusal(|spec| {
            spec.environment = (0..1000)
                .map(|number| (format!("V{number}"), "x".repeat(10 * 1024)))
                .collect();
        });
        assert!(many.contains("below 1 MiB"), "{many}");
        assert!(many.len() < 300, "the value is cut");
    }
}
