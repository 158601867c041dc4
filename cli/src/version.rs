//! `argosy version`: release, protocol, features and platform.

use crate::args::Version;
use crate::exit::VerbResult;
use crate::output;

/// Optional features that are compiled in.
const FEATURES: &[&str] = &["rocksdb"];

pub(crate) fn show(arguments: &Version) -> VerbResult {
    let mut text = format!("argosy {}\n", env!("CARGO_PKG_VERSION"));
    if arguments.verbose {
        let build = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        text.push_str(&output::plain(&[
            (
                "protocol",
                format!("argosy.v1, {}", argosy_proto::versions::VersionRange::OWN),
            ),
            ("features", FEATURES.join(", ")),
            ("build", build.to_owned()),
            (
                "platform",
                format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            ),
        ]));
    }
    output::print(&text)
}
