//! Garbage collection: the choice of images and layers to remove when the disk is full. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::images::digest::Digest;

#[derive(Debug, Default)]
pub(super) struct StoreContents<'a> {
    /// The disk usage of each layer, in bytes.
    pub(super) layers: BTreeMap<Digest, u64>,
    pub(super) images: Vec<StoredImage<'a>>,
    /// Layers of containers, and of pulls in progress.
    pub(super) in_use: BTreeSet<Digest>,
}

/// An image of the store.
#[derive(Debug)]
pub(super) struct StoredImage<'a> {
    pub(super) reference: &'a str,
    pub(super) last_used: SystemTime,
    pub(super) layers: &'a [Digest],
}

/// The images and layers to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Removals {
    pub(super) images: Vec<String>,
    pub(super) layers: Vec<Digest>,
}

/// Selects what to remove to free so many bytes: first layers without an image, then images, least
/// recently used first. An image is removed completely or not at all, and only with layers that no
/// other image has. Nothing in use is removed.
pub(super) fn select(mut contents: StoreContents<'_>, wanted_bytes: u64) -> Removals {
    let mut leaving = Removals::default();
    let mut freed = 0_u64;
    let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
    for image in &contents.images {
        // A layer counts once per image, however often the image names it.
        for layer in image.layers.iter().collect::<BTreeSet<_>>() {
            *users.entry(*layer).or_default() += 1;
        }
    }
    for (layer, bytes) in &contents.layers {
        if freed >= wanted_bytes {
            return leaving;
        }
        if !users.contains_key(layer) && !contents.in_use.contains(layer) {
            leaving.layers.push(*layer);
            freed = freed.saturating_add(*bytes);
        }
    }
    contents.images.sort_by_key(|image| image.last_used);
    for image in contents.images {
        if freed >= wanted_bytes {
            break;
        }
        if image
            .layers
            .iter()
            .any(|layer| contents.in_use.contains(layer))
        {
            continue;
        }
        leaving.images.push(image.reference.to_owned());
        for layer in image.layers.iter().collect::<BTreeSet<_>>() {
            let count = users.get_mut(layer).expect("every image was counted");
            *count -= 1;
            if *count > 0 {
                continue;
            }
            if let Some(bytes) = contents.layers.get(layer) {
                leaving.layers.push(*layer);
                freed = freed.saturating_add(*bytes);
            }
        }
    }
    leaving
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn layer(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn names(layers: &[Digest]) -> Vec<&'static str> {
        let known = ["a", "b", "c", "d", "x"];
        let name = |wanted| known.into_iter().find(|name| layer(name) == wanted);
        let mut names: Vec<_> = layers.iter().map(|wanted| name(*wanted).unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// Runs the selection for images `one` (a, b), `two` (b, c) and `three` (d), used in this
    /// order; x belongs to none. Ten bytes each.
    fn selected(held: &[&str], wanted_bytes: u64) -> (String, String) {
        let used = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (one, two, three) = (
            [layer("a"), layer("b")],
            [layer("b"), layer("c")],
            [layer("d")],
        );
        let entry = |reference, seconds, layers| StoredImage {
            reference,
            last_used: used(seconds),
            layers,
        };
        let all = ["a", "b", "c", "d", "x"].map(|name| (layer(name), 10));
        let census = StoreContents {
            layers: BTreeMap::from(all),
            images: vec![
                entry("three", 3, &three),
                entry("one", 1, &one),
                entry("two", 2, &two),
            ],
            in_use: held.iter().map(|name| layer(name)).collect(),
        };
        let leaving = select(census, wanted_bytes);
        (leaving.images.join(" "), names(&leaving.layers).join(" "))
    }

    #[test]
    fn the_least_recently_used_are_removed_as_needed() {
        for (held, wanted_bytes, images, layers) in [
            (&[][..], 0, "", ""),
            (&[], 1, "", "x"),
            (&[], 11, "one", "a x"),
            (&[], 21, "one two", "a b c x"),
            (&[], 50, "one two three", "a b c d x"),
            (&[], 1_000, "one two three", "a b c d x"),
            // Held by a container of `one`: `two` shares a layer with it, and stays as well.
            (&["a", "b"], 1_000, "three", "d x"),
            (&["d"], 1_000, "one two", "a b c x"),
            (&["x", "a", "b", "c", "d"], 1_000, "", ""),
        ] {
            let (found_images, found_layers) = selected(held, wanted_bytes);
            assert_eq!(found_images, images, "{held:?} {wanted_bytes}");
            assert_eq!(found_layers, layers, "{held:?} {wanted_bytes}");
        }
    }
}
