//! Conversion of the files that tasks fetch.

use argosy_state::task::Uri;

use super::InvalidMessage;
use crate::uri::RedactedUri;
use crate::v1;

/// Returns a file on the wire.
pub(super) fn uri(uri: &Uri) -> v1::Uri {
    v1::Uri {
        value: uri.value.clone(),
        executable: uri.executable,
        output_file: uri.output_file.clone(),
        extract: uri.extract,
        sha256: uri.sha256.clone(),
        cache: uri.cache,
    }
}

/// Reads a file.
pub(super) fn uri_from(wire: v1::Uri) -> Result<Uri, InvalidMessage> {
    let v1::Uri {
        value,
        executable,
        output_file,
        extract,
        sha256,
        cache,
    } = wire;
    let known = ["/", "file:///", "http://", "https://"]
        .iter()
        .any(|start| value.starts_with(start));
    if !known || value.contains('\0') {
        let shown = RedactedUri::of(&value);
        let text = format!("{shown:?} is not an absolute path, file:///…, http://… or https://…");
        return Err(InvalidMessage::new("uris", text));
    }
    if output_file.contains(['/', '\0']) || output_file == ".." || output_file == "." {
        let text = format!("{output_file:?} is not a plain file name");
        return Err(InvalidMessage::new("uris.output_file", text));
    }
    let digit = |letter: u8| letter.is_ascii_digit() || (b'a'..=b'f').contains(&letter);
    let is_digest = sha256.len() == 64 && sha256.bytes().all(digit);
    if !sha256.is_empty() && !is_digest {
        let text = format!("{sha256:?} is not 64 lower-case hexadecimal digits");
        return Err(InvalidMessage::new("uris.sha256", text));
    }
    if extract && executable {
        let text = "an archive that is extracted keeps its own modes: leave executable out";
        return Err(InvalidMessage::new("uris.executable", text));
    }
    Ok(Uri {
        value,
        executable,
        output_file,
        extract,
        sha256,
        cache,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> v1::Uri {
        v1::Uri {
            value: "/a.tar".to_owned(),
            output_file: "a".to_owned(),
            extract: true,
            sha256: "ab".repeat(32),
            cache: true,
            ..v1::Uri::default()
        }
    }

    #[test]
    fn a_file_of_a_task_round_trips() {
        let read = uri_from(plain()).unwrap();
        assert_eq!(uri(&read), plain());
    }

    #[test]
    fn an_invalid_uri_names_its_field() {
        let change = |change: fn(&mut v1::Uri)| {
            let mut wire = plain();
            change(&mut wire);
            uri_from(wire).unwrap_err().field
        };
        assert_eq!(change(|uri| uri.value = "ftp://x".into()), "uris");
        assert_eq!(
            change(|uri| uri.output_file = "../x".into()),
            "uris.output_file"
        );
        assert_eq!(change(|uri| uri.sha256 = "AB".repeat(32)), "uris.sha256");
        assert_eq!(change(|uri| uri.sha256 = "ab".into()), "uris.sha256");
        assert_eq!(change(|uri| uri.executable = true), "uris.executable");
    }
}
