//! The image, the fetched file, the secret and the executor that tasks of a run use. Tasks fail if
//! they read other contents.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use argosy_proto::v1;
use argosy_testbed::host_tools;
use argosy_testbed::run_directory::RunDirectory;
use sha2::{Digest as _, Sha256};

/// Makes an image of busybox, also in the virtual machine.
const BUSYBOX_IMAGE: &str = include_str!("../../vm/busybox-image");
/// The user of processes in the image. An image's root may not write to host paths.
pub(super) const IMAGE_USER: &str = "1000";
/// The first line of the file that is fetched, and of the file in the image.
pub(super) const CONTENT: &str = "a file that tasks compare";
/// Size of this file.
const CONTENT_BYTES: usize = 256 * 1024;
/// The name of the fetched file in the sandbox.
pub(super) const FETCHED: &str = "fetched";
/// The executor, of those that are released with Argosy.
pub(super) const EXECUTOR: &str = "argosy-shell-executor";
/// The name of the secret, and its content.
pub(super) const SECRET: &str = "word";
pub(super) const SECRET_CONTENT: &str = "open-sesame";

/// The inputs of a run, in their directory.
pub(super) struct TaskInputs(PathBuf);

impl TaskInputs {
    /// Returns those of the run in this directory.
    pub(super) fn of(run: &Path) -> Self {
        Self(run.join("inputs"))
    }

    /// Creates those of a run. `directory` may have the executor.
    ///
    /// # Errors
    /// If a file cannot be written, or /bin/busybox or tar is missing.
    pub(super) fn create(run: &RunDirectory, directory: &Path) -> Result<()> {
        let inputs = Self(run.inputs());
        let file = inputs.file();
        let failed = || format!("cannot prepare {}", inputs.0.display());
        fs::write(&file, content()).with_context(failed)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).with_context(failed)?;
        // A secret of the role `*`.
        let secrets = run.secrets().join("*");
        fs::create_dir_all(&secrets).with_context(failed)?;
        let secret = format!("{SECRET_CONTENT}\n");
        fs::write(secrets.join(SECRET), secret).with_context(failed)?;
        let paths = [inputs.layout(), file].map(PathBuf::into_os_string);
        let words = ["-s", "--"].map(OsString::from).into_iter().chain(paths);
        let words: Vec<OsString> = words.collect();
        host_tools::run_with_input("sh", &words, BUSYBOX_IMAGE).with_context(failed)?;
        let executor = directory.join(EXECUTOR);
        if executor.is_file() && host_tools::find("strip").is_some() {
            // Each agent fetches it for each executor: symbols are nine tenths of it.
            let words = ["-o".into(), inputs.0.join(EXECUTOR), executor];
            host_tools::run("strip", &words).with_context(failed)?;
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.0.join("file")
    }

    fn layout(&self) -> PathBuf {
        self.0.join("image")
    }

    /// Returns the name of the image. Its `/content/file` is the file.
    pub(super) fn image(&self) -> String {
        format!("oci:{}", self.layout().display())
    }

    /// Returns the program of the executor, to be fetched; `None` if this run has none.
    pub(super) fn executor(&self) -> Option<v1::Uri> {
        let program = self.0.join(EXECUTOR);
        program.is_file().then(|| v1::Uri {
            value: program.display().to_string(),
            executable: true,
            ..v1::Uri::default()
        })
    }

    /// Returns the file that is fetched into the sandbox.
    pub(super) fn fetched(&self) -> v1::Uri {
        let hash = Sha256::digest(content());
        v1::Uri {
            value: self.file().display().to_string(),
            output_file: FETCHED.to_owned(),
            sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            ..v1::Uri::default()
        }
    }
}

fn content() -> Vec<u8> {
    let mut content = format!("{CONTENT}\n").into_bytes();
    content.resize(CONTENT_BYTES, b'.');
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_are_complete() {
        if !Path::new("/bin/busybox").exists() {
            return argosy_testing::skip("there is no /bin/busybox to make an image of");
        }
        let base = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(base.path()).unwrap();
        TaskInputs::create(&run, base.path()).unwrap();
        let inputs = TaskInputs::of(run.path());
        let fetched = inputs.fetched();
        let bytes = fs::read(&fetched.value).unwrap();
        let hash = Sha256::digest(&bytes);
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((bytes.len(), digits), (CONTENT_BYTES, fetched.sha256));
        assert!(bytes.starts_with(format!("{CONTENT}\n").as_bytes()));
        let secret = fs::read_to_string(run.secrets().join("*").join(SECRET)).unwrap();
        assert_eq!(secret.trim_end(), SECRET_CONTENT);
        assert_eq!(inputs.executor(), None);
        let layout = inputs.image();
        let index = Path::new(layout.strip_prefix("oci:").unwrap()).join("index.json");
        assert!(fs::read_to_string(index).unwrap().contains("sha256:"));
    }
}
