//! Detection of the capability that a failed command lacks, from its last output.
//!
//! Programs report EPERM with the text of the C library or their own; there is no other trace of
//! it. A line counts only if it names both the operation and the refusal, so that other failures
//! never match.

use crate::spec::capabilities::Capabilities;

/// The number of bytes searched at the end of the output.
pub(super) const TAIL_BYTES: usize = 4096;

/// The text of EPERM in libraries.
const REFUSAL: &str = "operation not permitted";

/// Words of operations, and the capability that permits them.
const OPERATIONS: [(&str, &[&str]); 3] = [
    ("CHOWN", &["chown", "changing ownership", "change owner"]),
    (
        "SETUID",
        &["setuid", "setreuid", "setresuid", "failed switching to"],
    ),
    (
        "SETGID",
        &["setgid", "setregid", "setresgid", "setgroups", "initgroups"],
    ),
];

/// Whether the text reports that one of these operations was refused, for a command with these
/// capabilities.
pub(super) fn reports_denial(text: &[u8], kept: Capabilities) -> bool {
    let text = String::from_utf8_lossy(text).to_lowercase();
    let mut refusals = text.lines().filter(|line| line.contains(REFUSAL));
    refusals.any(|line| {
        let mut lacking = OPERATIONS.iter().filter(|(name, _)| !kept.has(name));
        lacking.any(|(_, words)| words.iter().any(|word| line.contains(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_known_programs_are_recognized() {
        for line in [
            "nginx: [emerg] chown(\"/var/cache/nginx/client_temp\", 101) failed (1: Operation not permitted)",
            "2026/01/01 00:00:00 [emerg] 30#30: setgid(101) failed (1: Operation not permitted)",
            "2026/01/01 00:00:00 [emerg] 30#30: initgroups(nginx, 101) failed (1: Operation not permitted)",
            "chown: changing ownership of '/var/lib/postgresql/data': Operation not permitted",
            "error: failed switching to \"redis\": operation not permitted",
            "setpriv: setresuid failed: Operation not permitted",
            "su-exec: setgroups(0): Operation not permitted",
        ] {
            let text = format!("starting\n{line}\n");
            assert!(
                reports_denial(text.as_bytes(), Capabilities::NONE),
                "{line}"
            );
            assert!(
                !reports_denial(text.as_bytes(), Capabilities::all()),
                "{line}"
            );
        }
        let line = b"chown: changing ownership of 'data': Operation not permitted";
        let user = Capabilities::named(["SETUID", "SETGID"]).unwrap();
        assert!(reports_denial(line, user));
        let owner = Capabilities::named(["CHOWN"]).unwrap();
        assert!(!reports_denial(line, owner));
    }

    #[test]
    fn other_failures_are_not_reported_as_denials() {
        for text in [
            "",
            "bind() to 0.0.0.0:80 failed (1: Operation not permitted)",
            "mount: /mnt: Operation not permitted",
            "chown: cannot access 'data': No such file or directory",
            "chown: changing ownership of 'data': Read-only file system",
            "calling chown\nptrace: Operation not permitted",
        ] {
            assert!(
                !reports_denial(text.as_bytes(), Capabilities::NONE),
                "{text}"
            );
        }
        assert!(!reports_denial(&[0xff; TAIL_BYTES], Capabilities::NONE));
    }
}
