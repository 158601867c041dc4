//! Scripts that the shell of a task runs for a copy. Paths are arguments and begin with `./`, so
//! that no name can be an option or a part of a script.

/// Prints what is at the path `$1`.
pub(super) const PROBE: &str = r#"if [ -d "$1" ]; then echo directory
elif [ -e "$1" ] || [ -L "$1" ]; then echo other
else echo absent; fi"#;

/// Creates directories: pairs of a mode and a path.
pub(super) const CREATE: &str = r#"while [ $# -gt 1 ]; do
[ -d "$2" ] || mkdir -m "$1" "$2" || exit 1
shift 2; done"#;

/// Writes the input to the new file `$1`.
pub(super) const WRITE: &str = r#"[ -d "${1%/*}" ] || { echo "there is no directory ${1%/*}" >&2; exit 1; }
umask 077; cat > "$1" || exit 1"#;

/// Gives the file `$1`, which must have `$3` bytes, the mode `$4` and the name `$2`.
pub(super) const COMMIT: &str = r#"size=$(($(wc -c < "$1"))) || exit 1
[ "$size" -eq "$3" ] || { echo "$size of $3 bytes have arrived" >&2; exit 1; }
[ ! -d "$2" ] || { echo "$2 is a directory" >&2; exit 1; }
chmod "$4" "$1" && mv -f "$1" "$2""#;

/// Removes files.
pub(super) const REMOVE: &str = r#"rm -f "$@""#;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs a script in a directory. Returns its exit code and outputs.
    fn run(directory: &Path, script: &str, args: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new("sh")
            .args(["-c", script, "argosy-cp"])
            .args(args)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A script that fails early does not read it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    #[test]
    fn a_file_is_renamed_when_all_of_it_has_arrived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let both = format!("{WRITE}\n{COMMIT}");
        let args = ["./draft", "./it's $HOME", "5", "640"];
        fs::write(path.join("it's $HOME"), "former").unwrap();
        let (code, _, stderr) = run(path, &both, &args, "hell");
        assert_eq!((code, stderr.trim()), (1, "4 of 5 bytes have arrived"));
        assert_eq!(fs::read(path.join("it's $HOME")).unwrap(), b"former");
        let (code, _, stderr) = run(path, &both, &args, "hello");
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(fs::read(path.join("it's $HOME")).unwrap(), b"hello");
        let mode = fs::metadata(path.join("it's $HOME")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(!path.join("draft").exists());
        fs::create_dir(path.join("own")).unwrap();
        let (code, _, stderr) = run(path, &both, &["./draft", "./own", "1", "600"], "x");
        assert_eq!((code, stderr.trim()), (1, "./own is a directory"));
        assert_eq!(run(path, REMOVE, &["./draft", "./absent"], "").0, 0);
        assert!(!path.join("draft").exists());
        let (code, _, stderr) = run(path, &both, &["./no/draft", "./no/a", "0", "600"], "");
        assert_eq!((code, stderr.trim()), (1, "there is no directory ./no"));
    }

    #[test]
    fn directories_are_created_unless_they_exist() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("a")).unwrap();
        let args = ["755", "./a", "750", "./a/-b", "700", "./a/-b/c"];
        assert_eq!(run(path, CREATE, &args, "").0, 0);
        let mode = fs::metadata(path.join("a/-b")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750);
        fs::write(path.join("file"), "").unwrap();
        symlink("nowhere", path.join("link")).unwrap();
        for (name, expected) in [
            ("./a/-b/c", "directory"),
            ("./file", "other"),
            ("./link", "other"),
            ("./none", "absent"),
        ] {
            assert_eq!(run(path, PROBE, &[name], "").1.trim(), expected, "{name}");
        }
        assert_ne!(run(path, CREATE, &["755", "./file/a"], "").0, 0);
    }
}
