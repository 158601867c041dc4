//! Containers whose root is an image: what is brought before the start, and what it makes of the launch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::{Program, Root, User};
use argosy_proto::{convert, v1};
use argosy_state::task::{Cause, Code, Explanation, ImagePull};
use tokio::sync::watch;

use crate::core::{ContainerName, Instance};
use argosy_content::fetcher::{Progress, What};
use argosy_content::images::{
    Command, Fault, Image, ImageReference, Images, Obtaining, PullError, PullPolicy, Wish, combine,
};

/// Whose a sandbox is until init has looked the image's user up, and of whom such a user is.
pub(super) const ROOT: User = User {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// The images of containers that are about to start.
pub(super) struct Imaged {
    /// `None` on a host whose containers see the host's own files.
    images: Option<Arc<Images>>,
    /// Brought, and not started yet. A lock, since they are brought and started by different threads.
    brought: Mutex<BTreeMap<Instance, Image>>,
}

/// What a task with an image becomes.
pub(super) struct Launch {
    pub(super) root: Root,
    pub(super) program: Program,
    /// Of image and task; what the agent sets comes on top.
    pub(super) environment: BTreeMap<String, String>,
    /// To be looked up in the image.
    pub(super) user: String,
    pub(super) working_dir: PathBuf,
    /// That by which the image wants to be asked to end, if its task names none.
    pub(super) stop_signal: Option<i32>,
}

/// The image that a task names; empty if none.
pub(super) fn image_of(task: &v1::TaskSpec) -> &str {
    let container = task.container.as_ref();
    container.map_or("", |container| &container.image)
}

impl Imaged {
    pub(super) fn new(images: Option<Arc<Images>>) -> Self {
        Self {
            images,
            brought: Mutex::default(),
        }
    }

    /// Brings a container's image if it is not here, and holds it. Nothing is done for a task without one.
    pub(super) async fn bring(
        &self,
        task: &v1::TaskSpec,
        container: ContainerName,
        meter: &watch::Sender<Progress>,
    ) -> Result<(), Explanation> {
        let name = image_of(task);
        if name.is_empty() {
            return Ok(());
        }
        let images = self.images.as_ref();
        let images = images.ok_or_else(|| Cause::new(Code::ImagesUnavailable, &[]))?;
        let reference: ImageReference = name.parse().map_err(|error| {
            let malformed = Explanation::of(Code::ImageMalformed, &[]);
            malformed.saying(crate::error::sentence(&error))
        })?;
        meter.send_replace(Progress::of(What::Image(name.to_owned())));
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
        let obtaining = images.obtain(reference, policy, container.to_string());
        let image = obtained(obtaining, meter)
            .await
            .map_err(|error| error.explanation())?;
        self.brought().insert(container.instance, image);
        Ok(())
    }

    /// What the launch of a container with an image is; `root` makes its root of these layers. Blocks.
    pub(super) fn launch(
        &self,
        task: &v1::TaskSpec,
        container: ContainerName,
        root: impl FnOnce(Vec<PathBuf>) -> Result<Root, String>,
    ) -> Result<Launch, Explanation> {
        let image = self.brought().remove(&container.instance);
        let image = image.ok_or_else(|| Cause::new(Code::ImageNotBrought, &[]))?;
        let environment = task.environment.clone().into_iter().collect();
        let wish = Wish {
            shell: &task.shell,
            argv: &task.argv,
            environment: &environment,
            user: &task.user,
        };
        let Command {
            argv,
            environment,
            user,
            working_dir,
        } = combine(&image.config, wish).map_err(|error| error.to_string())?;
        Ok(Launch {
            root: root(image.layers)?,
            program: Program::Arguments(argv),
            environment,
            user: user.unwrap_or_default(),
            working_dir: working_dir.into(),
            stop_signal: image.config.stop_signal,
        })
    }

    /// It will not be started: its hold of the image ends with the next tidying.
    pub(super) fn forget(&self, instance: Instance) {
        self.brought().remove(&instance);
    }

    /// The container is gone: so goes its hold of the image. Blocks.
    pub(super) fn release(&self, container: ContainerName) -> Result<(), String> {
        let images = self.images.as_ref();
        let released = images.map_or(Ok(()), |images| images.release(&container.to_string()));
        released.map_err(|fault: Fault| crate::error::sentence(&fault))
    }

    fn brought(&self) -> MutexGuard<'_, BTreeMap<Instance, Image>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Awaits an image, and shows how far it is.
async fn obtained(
    mut obtaining: Obtaining,
    meter: &watch::Sender<Progress>,
) -> Result<Image, PullError> {
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
