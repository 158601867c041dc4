//! Root file systems of containers with images: an overlay mount over shared layers, or a copy if
//! the host does not support overlay mounts in containers.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use argosy_host::remove_tree::remove_dir_all;
use argosy_host::{ContainerId, crash_point};
use argosy_isolation::image::lacks_overlay;
use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::unpack::copy_layers;
use argosy_isolation::{
    CommandOutcome, Exit, Image, IsolationProfile, LaunchDescriptors, LaunchSpec, MountSpec,
    Program, RootFs, destroy,
};

use super::launcher_process::LauncherProcess;
use crate::config::ImageRoots;
use crate::error::error_chain;
use crate::paths::Paths;

/// Timeout of the container that probes for overlay support, and of its removal.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// The program of that container, which does not exist.
const NO_PROGRAM: &str = "/no-such-program";
/// The directories below that of the changes: the container's changes of its image, and the
/// kernel's work directory.
const UPPER: &str = "upper";
const WORK: &str = "work";
/// The directory used instead where layers are copied: the whole root.
const COPY: &str = "root";

/// The method by which roots are created here.
pub(crate) struct RootFsBuilder {
    mode: ImageRoots,
    /// The directory of the probe for overlay support.
    probe_dir: PathBuf,
    /// Whether layers are copied, once that is known. A lock: only one thread probes.
    copies: Mutex<Option<bool>>,
}

/// The location and the owner of a root.
pub(crate) struct RootFsLocation<'a> {
    /// The directory of the container's changes, which is removed with the container.
    pub(crate) changes: &'a Path,
    /// The container's user 0 on the host.
    pub(crate) first_host_id: u32,
    /// Its name and its cgroup, which a probe uses before it.
    pub(crate) id: ContainerId,
    pub(crate) cgroup: Option<PathBuf>,
    /// The launcher of the probe.
    pub(crate) launcher: &'a LauncherProcess,
    /// Called with the directory of the changes while that is empty.
    pub(crate) prepare: &'a dyn Fn(&Path) -> Result<(), String>,
    /// Returns false once the start is cancelled.
    pub(crate) is_active: &'a dyn Fn() -> bool,
}

impl RootFsBuilder {
    pub(crate) fn new(mode: ImageRoots, paths: &Paths) -> Self {
        Self {
            mode,
            probe_dir: paths.probe(),
            copies: Mutex::new(None),
        }
    }

    /// Creates the directories for a root of these layers. Blocks, for the duration of the copy
    /// where layers are copied.
    pub(crate) fn make(
        &self,
        layers: Vec<PathBuf>,
        place: &RootFsLocation<'_>,
    ) -> Result<RootFs, String> {
        // An interrupted launch may have left files.
        clear(place.changes)?;
        if self.copies(place)? {
            return copy(&layers, place);
        }
        // Other users can traverse it to its contents, and to nothing else.
        make(place.changes, 0o711)?;
        (place.prepare)(place.changes)?;
        overlay(layers, place.changes).map(RootFs::Image)
    }

    /// Whether layers are copied here. A failed probe is repeated with the next container.
    fn copies(&self, place: &RootFsLocation<'_>) -> Result<bool, String> {
        match self.mode {
            ImageRoots::Overlay => return Ok(false),
            ImageRoots::Copy => return Ok(true),
            ImageRoots::Detect => {}
        }
        let mut known = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copies) = *known {
            return Ok(copies);
        }
        let tried = probe(&self.probe_dir, place);
        let cleared = clear(&self.probe_dir);
        let found = tried
            .and_then(|exit| cleared.map(|()| exit))
            .and_then(unsupported_reason);
        let missing = found.map_err(|why| {
            format!("cannot determine whether this host supports overlays in containers: {why}")
        })?;
        if let Some(why) = &missing {
            tracing::warn!(
                why,
                "this host supports no overlays in containers; each container gets a copy of its image, \
                 which takes time, and counts as its disk"
            );
        }
        let copies = missing.is_some();
        *known = Some(copies);
        Ok(copies)
    }
}

/// Starts a container whose image is an empty directory: it never runs its program, which does not
/// exist. Its end shows whether an overlay was mounted.
fn probe(directory: &Path, place: &RootFsLocation<'_>) -> Result<Exit, String> {
    clear(directory)?;
    make(directory, 0o711)?;
    let [hand_off, sandbox, layer] =
        ["container", "sandbox", "layer"].map(|name| directory.join(name));
    make(&hand_off, 0o700)?;
    make(&sandbox, 0o755)?;
    make(&layer, 0o755)?;
    let program = Program::Arguments(vec![NO_PROGRAM.to_owned()]);
    let mut spec = LaunchSpec::new(place.id.clone(), &hand_off, &sandbox, program);
    spec.cgroup.clone_from(&place.cgroup);
    spec.profile = Some(IsolationProfile {
        first_host_id: place.first_host_id,
        view: MountSpec {
            root: RootFs::Image(overlay(vec![layer], directory)?),
            host_paths: Vec::new(),
            volumes: Vec::new(),
            tmp_bytes: 1 << 20,
            shm_bytes: 1 << 20,
        },
        isolation_layers: IsolationLayers::ALL,
    });
    let mut container = place
        .launcher
        .launch(&spec, LaunchDescriptors::default())
        .map_err(|error| error_chain(&error))?;
    let exit = container
        .wait(PROBE_TIMEOUT)
        .map_err(|error| error_chain(&error));
    let destroyed = destroy(&hand_off, place.cgroup.as_deref(), PROBE_TIMEOUT);
    destroyed.map_err(|error| error_chain(&error))?;
    exit
}

/// Returns the reason why overlays are unsupported, from the end of the probe; `None` if they are
/// supported.
fn unsupported_reason(exit: Exit) -> Result<Option<String>, String> {
    if lacks_overlay(&exit) {
        return Ok(Some(exit.reason));
    }
    // It got as far as its program, which it searches in its root.
    if exit.outcome == CommandOutcome::NotStarted && exit.reason.contains(NO_PROGRAM) {
        return Ok(None);
    }
    Err(format!("{:?}: {}", exit.outcome, exit.reason))
}

fn overlay(layers: Vec<PathBuf>, changes: &Path) -> Result<Image, String> {
    let [upper, work] = [UPPER, WORK].map(|name| changes.join(name));
    make(&upper, 0o755)?;
    make(&work, 0o755)?;
    Ok(Image {
        layers,
        upper,
        work,
    })
}

fn copy(layers: &[PathBuf], place: &RootFsLocation<'_>) -> Result<RootFs, String> {
    // A file of the image's user n belongs to the host's user n in there, and may be setuid.
    make(place.changes, 0o700)?;
    (place.prepare)(place.changes)?;
    let root = place.changes.join(COPY);
    make(&root, 0o755)?;
    let opened = File::open(&root);
    let opened = opened.map_err(|error| format!("cannot open {}: {error}", root.display()))?;
    crash_point!("launch.copy-begun");
    copy_layers(layers, opened.as_fd(), place.is_active).map_err(|error| {
        let why = error_chain(&error);
        format!(
            "{why}; the copy counts as the task's disk, so request more of it if the space is too small"
        )
    })?;
    crash_point!("launch.copied");
    Ok(RootFs::Directory(root))
}

fn make(path: &Path, mode: u32) -> Result<(), String> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|error| format!("cannot make {}: {error}", path.display()))
}

/// Removes the files of a container's root.
pub(crate) fn clear(directory: &Path) -> Result<(), String> {
    match remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", directory.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
