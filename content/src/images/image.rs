//! An image on disk, and its configuration.

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::PullErrorKind;
use super::manifest::ImageConfiguration;

/// Maximum length of all strings in a configuration, in bytes. With the usual stack of 8 MiB, the
/// kernel accepts twice as much for a command line and its environment (execve(2)).
const TEXT_BYTES: usize = 1 << 20;

/// An image on disk, leased to one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedImage {
    /// Digest of the manifest for this host.
    pub digest: Digest,
    /// Directories of the unpacked layers, lowest first; 1 to 127, each once.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
}

/// The run configuration of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The start of every command line; may be empty.
    pub entrypoint: Vec<String>,
    /// The default rest of the command line; may be empty.
    pub cmd: Vec<String>,
    /// Names and values, each name once.
    pub env: Vec<(String, String)>,
    /// An absolute path inside.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` and the like, to be resolved in the image's accounts; empty if
    /// it names none.
    pub user: String,
    /// The stop signal, 1 to 64.
    pub stop_signal: Option<i32>,
}

impl ImageConfig {
    /// Reads and validates a configuration.
    pub(super) fn read(what: &str, document: &ImageConfiguration) -> Result<Self, PullErrorKind> {
        let Some(config) = &document.config else {
            return Ok(Self {
                working_dir: "/".to_owned(),
                ..Self::default()
            });
        };
        let malformed = |rule: String| PullErrorKind::Malformed {
            what: what.to_owned(),
            rule,
        };
        let mut env: Vec<(String, String)> = Vec::new();
        let mut names = HashSet::new();
        // The last entry of a name has its value.
        for entry in config.env.iter().flatten().rev() {
            let Some((name, value)) = entry.split_once('=').filter(|(name, _)| !name.is_empty())
            else {
                return Err(malformed(format!("{entry:?} in Env is not NAME=VALUE")));
            };
            if names.insert(name) {
                env.push((name.to_owned(), value.to_owned()));
            }
        }
        env.reverse();
        let stop_signal = match config.stop_signal.as_deref().unwrap_or_default() {
            "" => None,
            text => Some(
                signal(text)
                    .ok_or_else(|| malformed(format!("{text:?} in StopSignal is not a signal")))?,
            ),
        };
        let read = Self {
            entrypoint: config.entrypoint.clone().unwrap_or_default(),
            cmd: config.cmd.clone().unwrap_or_default(),
            env,
            working_dir: absolute(config.working_dir.as_deref().unwrap_or_default()),
            user: config.user.clone().unwrap_or_default(),
            stop_signal,
        };
        read.validate(what)?;
        Ok(read)
    }

    /// Checks that the kernel accepts its strings, and that their length is bounded.
    pub(super) fn validate(&self, what: &str) -> Result<(), PullErrorKind> {
        let malformed = |rule: String| PullErrorKind::Malformed {
            what: what.to_owned(),
            rule,
        };
        if self.texts().any(|text| text.contains('\0')) {
            return Err(malformed("a string in it has a NUL byte".to_owned()));
        }
        // Each is passed to the kernel with a byte that ends it.
        let bytes: usize = self.texts().map(|text| text.len() + 1).sum();
        if bytes > TEXT_BYTES {
            let rule = format!(
                "its command line, environment, directory and user have {bytes} bytes; at most {TEXT_BYTES}"
            );
            return Err(malformed(rule));
        }
        Ok(())
    }

    /// Returns all strings that are passed to the kernel.
    fn texts(&self) -> impl Iterator<Item = &String> {
        let env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let words = self.entrypoint.iter().chain(&self.cmd).chain(env);
        words.chain([&self.working_dir, &self.user])
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Parses `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // As libraries count them: they reserve two real-time signals.
    let offset = |rest: &str| match rest {
        "" => Some(0),
        digits => digits.parse::<i32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        34 + offset(rest).filter(|offset| (0..=30).contains(offset))?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        64 + offset(rest).filter(|offset| (-30..=0).contains(offset))?
    } else {
        Signal::from_str(&format!("SIG{name}")).ok()? as i32
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: Value) -> Result<ImageConfig, String> {
        let document = json!({"architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": []}});
        let document = serde_json::from_value(document).unwrap();
        ImageConfig::read("the configuration", &document).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_configuration_is_read() {
        let config = read(json!({
            "Entrypoint": ["/entry"], "Cmd": null, "User": "web:www", "WorkingDir": "srv",
            "Env": ["PATH=/bin", "A=1=2", "A=3", "EMPTY="],
            "StopSignal": "SIGQUIT", "Labels": null, "Volumes": null, "OnBuild": ["x"]
        }));
        let config = config.unwrap();
        assert_eq!(config.entrypoint, ["/entry"]);
        assert!(config.cmd.is_empty());
        let env: Vec<_> = config.env.iter().map(|(a, b)| format!("{a}={b}")).collect();
        assert_eq!(env, ["PATH=/bin", "A=3", "EMPTY="]);
        assert_eq!(config.working_dir, "/srv");
        assert_eq!(config.user, "web:www");
        assert_eq!(config.stop_signal, Some(3));
        assert_eq!(read(Value::Null).unwrap().working_dir, "/");
    }

    #[test]
    fn an_invalid_configuration_is_rejected() {
        for (config, wanted) in [
            (json!({"Env": ["=x"]}), "NAME=VALUE"),
            (json!({"Env": ["x"]}), "NAME=VALUE"),
            (json!({"StopSignal": "SIGNOTHING"}), "is not a signal"),
            (json!({"StopSignal": "65"}), "is not a signal"),
            (json!({"Cmd": ["a\0b"]}), "NUL byte"),
            (json!({"User": "\0"}), "NUL byte"),
            (json!({"Cmd": vec!["x"; TEXT_BYTES / 2]}), "at most 1048576"),
        ] {
            let error = read(config.clone()).unwrap_err();
            assert!(error.contains(wanted), "{config}: {error}");
        }
    }

    #[test]
    fn signals_have_names_numbers_and_offsets() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("SIGRTMAX-30", Some(34)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN-1", None),
            ("0", None),
            ("-9", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}
