//! Former releases of `releases.txt`, built from their commits, which tests run together with this
//! one.
//!
//! A release is unpacked and built once per target directory, with its own lock file. It takes
//! minutes the first time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources of a release, and its build directory.
#[derive(Debug, Clone)]
pub struct Release {
    pub version: String,
    /// The sources at its commit.
    pub tree: PathBuf,
    target: PathBuf,
}

/// The reason why a release cannot be obtained or built.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The repository does not have the commit: the sources are an archive, or a shallow clone.
    #[error("git history is not available: {0}")]
    NoHistory(String),
    /// Any other failure, which is a defect of the test or of the host.
    #[error("cannot build release {version}: {why}")]
    Failed {
        version: String,
        /// The cause.
        why: String,
    },
}

/// Returns the commit that a line of `releases.txt` gives for a version.
fn commit(releases: &str, version: &str) -> Option<String> {
    let mut lines = releases.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| match line.split_once(' ') {
        Some((name, commit)) if name == version => Some(commit.trim().to_owned()),
        Some(_) | None => None,
    })
}

impl Release {
    /// Unpacks the sources of a release. `root` is the repository, `temporary` the
    /// `CARGO_TARGET_TMPDIR` of the test.
    ///
    /// # Errors
    /// [`ReleaseError::NoHistory`] if git does not have the commit.
    pub fn unpacked(version: &str, root: &Path, temporary: &Path) -> Result<Self, ReleaseError> {
        let failed = |why: String| ReleaseError::Failed {
            version: version.to_owned(),
            why,
        };
        let read = |error: io::Error| failed(error.to_string());
        let releases = fs::read_to_string(root.join("releases.txt")).map_err(read)?;
        let commit = commit(&releases, version)
            .ok_or_else(|| failed("releases.txt has no such line".to_owned()))?;
        let target = temporary.parent().unwrap_or(temporary);
        let directory = target.join("releases").join(format!("{version}-{commit}"));
        let release = Self {
            version: version.to_owned(),
            tree: directory.join("tree"),
            target: directory.join("target"),
        };
        fs::create_dir_all(&directory).map_err(read)?;
        // Tests of several programs may run this concurrently.
        let lock = fs::File::create(directory.join("lock")).map_err(read)?;
        lock.lock().map_err(read)?;
        if release.tree.exists() {
            return Ok(release);
        }
        let archive = directory.join("tree.tar");
        let partial = directory.join("partial");
        let mut git = Command::new("git");
        git.arg("-C").arg(root).args(["archive", "--output"]);
        run(git.arg(&archive).arg(&commit)).map_err(ReleaseError::NoHistory)?;
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(read)?;
        }
        fs::create_dir(&partial).map_err(read)?;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(&partial);
        run(&mut tar).map_err(failed)?;
        fs::remove_file(&archive).map_err(read)?;
        fs::rename(&partial, &release.tree).map_err(read)?;
        Ok(release)
    }

    /// Returns an executable of the release, and builds it if necessary. `source` is its main file,
    /// for a program that a test adds to `package` of the release.
    ///
    /// # Errors
    /// [`ReleaseError::Failed`] with the last lines of the build.
    pub fn executable(
        &self,
        package: &str,
        name: &str,
        source: Option<(&Path, &str)>,
    ) -> Result<PathBuf, ReleaseError> {
        let failed = |why: String| ReleaseError::Failed {
            version: self.version.clone(),
            why,
        };
        let read = |error: io::Error| failed(error.to_string());
        if let Some((path, text)) = source {
            let path = self.tree.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&self.tree)).map_err(read)?;
            // An unchanged file is not rewritten, because cargo would build it again.
            if fs::read_to_string(&path).ok().as_deref() != Some(text) {
                fs::write(&path, text).map_err(read)?;
            }
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.tree)
            .args(["build", "--quiet", "--locked", "--package", package])
            .args(["--bin", name])
            .arg("--target-dir")
            .arg(&self.target);
        run(&mut cargo).map_err(failed)?;
        Ok(self.target.join("debug").join(name))
    }
}

/// Runs a program until it exits.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = text.lines().collect();
            Err(lines[lines.len().saturating_sub(20)..].join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_maps_to_the_commit_of_its_line() {
        let releases = "# VERSION COMMIT\n0.1.0 aaa\n0.1.01 bbb\n";
        assert_eq!(commit(releases, "0.1.0").as_deref(), Some("aaa"));
        assert_eq!(commit(releases, "0.2.0"), None);
        assert_eq!(commit(releases, "#"), None);
    }
}
