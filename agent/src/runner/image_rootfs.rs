//! Containers whose root is an image: the pull before the start, and the effect of the image on the
//! launch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::{ContainerUser, Program, RootFs};
use argosy_proto::{convert, v1};
use argosy_state::ids::FrameworkId;
use argosy_state::task::{Cause, Code, Explanation, ImagePull};
use tokio::sync::watch;

use super::description::{failed, invalid};
use crate::core::{ContainerName, CreateError, Instance};
use argosy_content::fetcher::{FetchProgress, ItemKind};
use argosy_content::images::{
    CommandOverrides, ContainerCommand, ImageManager, ImageReference, LeasedImage, PendingPull,
    PullError, PullErrorKind, PullPolicy, combine,
};

/// The owner of a sandbox until init has looked up the image's user.
pub(super) const ROOT: ContainerUser = ContainerUser {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// The images of containers that are about to start.
pub(super) struct ContainerImages {
    /// `None` on a host whose containers use the host's own files.
    images: Option<Arc<ImageManager>>,
    /// Images that are pulled, for containers that are not started yet. A lock, since different
    /// threads pull and start.
    pulled: Mutex<BTreeMap<Instance, LeasedImage>>,
}

/// The launch of a task with an image.
pub(super) struct ImageLaunch {
    pub(super) root: RootFs,
    pub(super) program: Program,
    /// The variables of image and task; the agent's are added later.
    pub(super) environment: BTreeMap<String, String>,
    /// The user, to be looked up in the image.
    pub(super) user: String,
    pub(super) working_dir: PathBuf,
    /// The stop signal of the image, if the task names none.
    pub(super) stop_signal: Option<i32>,
}

/// Returns the image that a task names; empty if none.
pub(super) fn image_of(task: &v1::TaskSpec) -> &str {
    let container = task.container.as_ref();
    container.map_or("", |container| &container.image)
}

impl ContainerImages {
    pub(super) fn new(images: Option<Arc<ImageManager>>) -> Self {
        Self {
            images,
            pulled: Mutex::default(),
        }
    }

    /// Pulls a container's image if it is missing, and holds it. Does nothing for a task without
    /// one.
    pub(super) async fn pull(
        &self,
        task: &v1::TaskSpec,
        framework: FrameworkId,
        container: ContainerName,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), Explanation> {
        let name = image_of(task);
        if name.is_empty() {
            return Ok(());
        }
        let images = self.images.as_ref();
        let images = images.ok_or_else(|| Cause::new(Code::ImagesUnavailable, &[]))?;
        let reference: ImageReference = name.parse().map_err(|error| {
            let malformed = Explanation::of(Code::ImageMalformed, &[]);
            malformed.with_detail(crate::error::error_chain(&error))
        })?;
        meter.send_replace(FetchProgress::of(ItemKind::Image(name.to_owned())));
        let wanted = task
            .container
            .as_ref()
            .map_or(0, |container| container.pull);
        let wanted =
            convert::image_pull_from(wanted).map_err(|why| why.inside("container").to_string())?;
        let policy = match wanted {
            None => images.pull_policy(),
            Some(ImagePull::IfAbsent) => PullPolicy::IfAbsent,
            Some(ImagePull::Always) => PullPolicy::Always,
        };
        let obtaining = images.obtain(reference, policy, framework, container.to_string());
        let image = wait_for_image(obtaining, meter)
            .await
            .map_err(|error| error.explanation())?;
        self.pulled().insert(container.instance, image);
        Ok(())
    }

    /// Returns the launch of a container with an image; `root` creates its root from these layers.
    /// Blocks. A task without a command, whose image has none either, is invalid.
    pub(super) fn launch(
        &self,
        task: &v1::TaskSpec,
        container: ContainerName,
        root: impl FnOnce(Vec<PathBuf>) -> Result<RootFs, String>,
    ) -> Result<ImageLaunch, CreateError> {
        let image = self.pulled().remove(&container.instance);
        let image = image.ok_or_else(|| failed(Cause::new(Code::ImageNotBrought, &[])))?;
        let environment = task.environment.clone().into_iter().collect();
        let wish = CommandOverrides {
            shell: &task.shell,
            argv: &task.argv,
            environment: &environment,
            user: &task.user,
        };
        let ContainerCommand {
            argv,
            environment,
            user,
            working_dir,
        } = combine(&image.config, wish).map_err(|error| invalid(error.to_string()))?;
        Ok(ImageLaunch {
            root: root(image.layers).map_err(failed)?,
            program: Program::Arguments(argv),
            environment,
            user: user.unwrap_or_default(),
            working_dir: working_dir.into(),
            stop_signal: image.config.stop_signal,
        })
    }

    /// Forgets a container that will not be started: the image is released with the next garbage
    /// collection.
    pub(super) fn forget(&self, instance: Instance) {
        self.pulled().remove(&instance);
    }

    /// Releases the image of a container that is removed. Blocks.
    pub(super) fn release(&self, container: ContainerName) -> Result<(), String> {
        let images = self.images.as_ref();
        let released = images.map_or(Ok(()), |images| images.release(&container.to_string()));
        released.map_err(|fault: PullErrorKind| crate::error::error_chain(&fault))
    }

    fn pulled(&self) -> MutexGuard<'_, BTreeMap<Instance, LeasedImage>> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for an image, and reports the progress.
async fn wait_for_image(
    mut obtaining: PendingPull,
    meter: &watch::Sender<FetchProgress>,
) -> Result<LeasedImage, PullError> {
    loop {
        tokio::select! {
            biased;
            image = &mut obtaining.image => return image,
            Ok(()) = obtaining.progress.changed() => {
                let now = *obtaining.progress.borrow_and_update();
                meter.send_modify(|shown| {
                    (shown.done_bytes, shown.total_bytes) = (now.bytes_done, now.bytes_total);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_content::images::{Digest, ImageConfig};
    use argosy_state::task::Reason;

    use super::*;

    #[test]
    fn a_task_without_a_command_whose_image_has_none_is_invalid() {
        let images = ContainerImages::new(None);
        let container: ContainerName = "1-5-0".parse().unwrap();
        let image = LeasedImage {
            digest: Digest::of(b""),
            layers: Vec::new(),
            config: ImageConfig::default(),
        };
        images.pulled().insert(container.instance, image);
        let root = |_| panic!("no root is created for it");
        let launched = images.launch(&v1::TaskSpec::default(), container, root);
        let Err(refusal) = launched else {
            panic!("there is nothing to launch")
        };
        assert_eq!(refusal.reason, Reason::TaskInvalid);
        assert_eq!(
            refusal.why.to_string(),
            "shell, argv: the image has no command; give one of them"
        );
    }
}
