//! Validation of URIs that no agent could fetch.

use crate::level::Level;
use crate::limits;
use crate::task::TaskSpec;

/// Validates the URIs of a description. An error has the name of the field, and a message.
pub(super) fn check(spec: &TaskSpec, level: Level) -> Result<(), (String, String)> {
    if level < Level::RELEASE_0_2 {
        return Ok(());
    }
    let most = limits::URI_BYTES;
    let uris = spec.uris.iter().enumerate();
    let mut long = uris.filter(|(_, uri)| uri.value.len() > most);
    match long.next() {
        None => Ok(()),
        Some((at, uri)) => {
            let text = format!("it takes {} bytes; at most {most}", uri.value.len());
            Err((format!("uris[{at}].value"), text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Uri;
    use crate::testing;

    #[test]
    fn length_of_a_uri_is_bounded() {
        let of_bytes = |bytes: usize| Uri {
            value: format!("/{}", "x".repeat(bytes - 1)),
            executable: false,
            output_file: String::new(),
            extract: false,
            sha256: String::new(),
            cache: false,
        };
        let spec = |bytes| TaskSpec {
            uris: vec![of_bytes(1), of_bytes(bytes)],
            ..testing::spec("t", "cpus:1")
        };
        let most = limits::URI_BYTES;
        assert_eq!(check(&spec(most), Level::NEWEST), Ok(()));
        let (field, text) = check(&spec(most + 1), Level::NEWEST).unwrap_err();
        assert_eq!(field, "uris[1].value");
        assert_eq!(text, "it takes 8193 bytes; at most 8192");
        assert_eq!(
            check(&spec(most + 1), Level::RELEASE_0_1),
            Ok(()),
            "as release 0.1.0"
        );
    }
}
