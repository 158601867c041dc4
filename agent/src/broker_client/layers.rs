//! The directory of layers, as the image store reads and changes it.

use std::io;
use std::path::Path;

use argosy_content::images::LayerDirs;

use super::client::{BrokerClient, unexpected_reply};
use super::request::{BrokerReply, BrokerRequest, LayerChange};

/// A store whose changes a broker performs.
pub(crate) struct BrokerLayerDirs(pub(crate) BrokerClient);

impl BrokerLayerDirs {
    fn change(&self, change: LayerChange) -> io::Result<()> {
        self.0
            .done(BrokerRequest::Layer(change))
            .map_err(io::Error::other)
    }
}

impl LayerDirs for BrokerLayerDirs {
    fn make(&self, draft: &Path) -> io::Result<()> {
        let draft = file_name(draft)?;
        self.change(LayerChange::Create { draft })
    }

    fn describe(&self, draft: &Path, json: Vec<u8>) -> io::Result<()> {
        let draft = file_name(draft)?;
        self.change(LayerChange::Describe { draft, json })
    }

    fn metadata(&self, layer: &Path) -> io::Result<Option<Vec<u8>>> {
        let request = BrokerRequest::LayerMetadata(file_name(layer)?);
        match self.0.plain(request).map_err(io::Error::other)? {
            BrokerReply::LayerMetadata(json) => Ok(json),
            _ => Err(io::Error::other(unexpected_reply())),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (file_name(from)?, file_name(to)?);
        self.change(LayerChange::Rename { from, to })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = file_name(path)?;
        // It is no error if it does not exist.
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.change(LayerChange::Remove { name }),
        }
    }
}

fn file_name(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.ok_or(io::ErrorKind::InvalidInput)?.to_owned())
}
