//! The root of a container, as its launch requests it.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SpecError;

/// The maximum number of layers of an image, the same as in other runtimes. Their names must fit
/// into one mount option of 255 bytes: one byte each, plus separators, just fits.
pub const LAYERS_MAX: usize = 128;

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// The host's programs, read-only.
    #[default]
    Host,
    /// An image's layers, and the container's changes to them.
    Image(Image),
    /// A host directory that no other container has, written in place. A file of the image's user n
    /// belongs to the host's user n there, so keep it where no host user has access. For images
    /// whose layers were copied into one ([`crate::unpack::copy_layers`]).
    #[serde(rename = "folder")]
    Directory(PathBuf),
}

/// An image for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The layers as [`crate::unpack`] creates them, lowest first; at least one, at most
    /// [`LAYERS_MAX`].
    pub layers: Vec<PathBuf>,
    /// The directory of the container's changes: new, for this container only; its owner becomes
    /// the container's root.
    pub upper: PathBuf,
    /// A new directory next to `upper`, for the kernel's work files.
    pub work: PathBuf,
}

impl RootFs {
    /// Rejects what the kernel would reject later.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let image = match self {
            Self::Host => return Ok(()),
            Self::Directory(directory) => return check_plain("root", directory),
            Self::Image(image) => image,
        };
        if !(1..=LAYERS_MAX).contains(&image.layers.len()) {
            let remedy = "give 1 to 128 layers, or copy them into one directory";
            return Err(SpecError::new(
                "layers",
                &image.layers.len().to_string(),
                remedy,
            ));
        }
        image
            .layers
            .iter()
            .try_for_each(|layer| check_plain("layers", layer))?;
        check_plain("upper", &image.upper)?;
        check_plain("work", &image.work)?;
        let are_siblings = image.upper.parent() == image.work.parent() && image.upper != image.work;
        for (field, path) in [("upper", &image.upper), ("work", &image.work)] {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
            if !are_siblings || name.len() > 100 || !name.iter().all(plain) {
                let remedy = "give two directories with one parent, with names of at most 100 letters, digits, '.', '_' or '-'";
                return Err(SpecError::new(field, &path.to_string_lossy(), remedy));
            }
        }
        Ok(())
    }
}

fn check_plain(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let plain = absolute && parts.all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.parent().is_none() || path.as_os_str().as_encoded_bytes().contains(&0) {
        let remedy = "give an absolute path without '..' or NUL";
        return Err(SpecError::new(field, &path.to_string_lossy(), remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(layers: usize) -> Image {
        Image {
            layers: (0..layers)
                .map(|number| format!("/store/{number}").into())
                .collect(),
            upper: "/c/upper".into(),
            work: "/c/work".into(),
        }
    }

    #[test]
    fn an_invalid_root_is_rejected() {
        let check = |change: fn(&mut Image)| {
            let mut image = image(2);
            change(&mut image);
            RootFs::Image(image).check().map_err(|error| error.field)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|image| image.layers.clear()), Err("layers"));
        assert_eq!(
            check(|image| image.layers = super::tests::image(129).layers),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.layers[0] = "relative".into()),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.layers[0] = "/a/../b".into()),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.work = "/elsewhere/work".into()),
            Err("upper")
        );
        assert_eq!(
            check(|image| image.work = image.upper.clone()),
            Err("upper")
        );
        assert_eq!(check(|image| image.work = "/c/a,b".into()), Err("work"));
        assert!(RootFs::Directory("/".into()).check().is_err());
        assert!(RootFs::Directory("/c/root".into()).check().is_ok());
    }
}
