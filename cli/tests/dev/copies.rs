//! `argosy cp` on a real cluster: from and to the sandboxes of tasks.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{DevCluster, split, wait_for};

/// Creates files with names, kinds and modes that a copy must not accept, and others.
const TREE: &str = r#"
mkdir -p "d/x y" d/e
echo result > result.txt; chmod 640 result.txt
echo a > d/a; echo b > "d/x y/b&c=%"; echo e > d/e/e; chmod 750 d/e
ln -s /etc d/link; mkfifo d/pipe
printf x > "$(printf 'd/esc\033[2J')"; printf x > "$(printf 'd/bad\377')"
echo up; exec sleep 1000"#;

fn with_task(number: u32) -> DevCluster {
    let cluster = DevCluster::start(number, "1x1", &[]);
    let words = ["run", "-d", "--name", "web", "--", "sh", "-c", TREE];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the files of the task", || {
        cluster.run(&["logs", "web"]).1 == "up\n"
    });
    cluster
}

/// Copies, and returns the exit code and the messages.
fn copy(cluster: &DevCluster, source: &str, destination: &str) -> (i32, String) {
    let (code, stdout, stderr) = cluster.run(&["cp", source, destination]);
    assert_eq!(stdout, "");
    (code, stderr)
}

/// Runs a line in the task, and returns what it prints.
fn in_task(cluster: &DevCluster, line: &str) -> String {
    cluster.run(&["exec", "web", "--", "sh", "-c", line]).1
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn files_and_directories_are_copied_from_a_task() {
    let cluster = with_task(70);
    let own = tempfile::tempdir().unwrap();
    let here = own.path().to_str().unwrap();
    assert_eq!(copy(&cluster, "web:result.txt", here), (0, String::new()));
    assert_eq!(text(&own.path().join("result.txt")), "result\n");
    let mode = fs::metadata(own.path().join("result.txt")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o640);
    let (code, stdout, _) = cluster.run(&["cp", "web:./d//a", "-"]);
    assert_eq!((code, stdout.as_str()), (0, "a\n"));

    let (code, messages) = copy(&cluster, "web:d", here);
    assert_eq!(code, 1, "{messages}");
    for expected in [
        "not copied: web:d/esc\\u{1b}[2J: its name has control characters",
        "not copied: web:d/bad\u{fffd}: its name is not UTF-8",
        "not copied: web:d/link: it is a link",
        "not copied: web:d/pipe: it is a special file",
        "4 entries were not copied",
    ] {
        assert!(messages.contains(expected), "{expected}: {messages}");
    }
    assert!(!messages.contains('\u{1b}'), "{messages:?}");
    let copied = own.path().join("d");
    assert_eq!(text(&copied.join("x y/b&c=%")), "b\n");
    assert_eq!(text(&copied.join("e/e")), "e\n");
    let mode = fs::metadata(copied.join("e")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o750);
    let names = fs::read_dir(&copied).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "e", "x y"]);

    nothing_is_written_through_links(&cluster);
    impossible_copies_are_refused(&cluster, here);
    assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
    let after = format!("{here}/after");
    assert_eq!(copy(&cluster, "web:result.txt", &after).0, 0);
    assert_eq!(text(Path::new(&after)), "result\n");
    let (code, messages) = copy(&cluster, &after, "web:late");
    assert_eq!(code, 4, "{messages}");
    assert!(messages.contains("is no longer running"), "{messages}");
}

fn nothing_is_written_through_links(cluster: &DevCluster) {
    let (own, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("kept"), "kept").unwrap();
    symlink(outside.path(), own.path().join("e")).unwrap();
    symlink(outside.path().join("kept"), own.path().join("a")).unwrap();
    let (code, messages) = copy(cluster, "web:d/.", own.path().to_str().unwrap());
    assert_eq!(code, 1, "{messages}");
    assert!(
        messages.contains("not copied: web:d/a: a link"),
        "{messages}"
    );
    assert!(messages.contains("not copied: web:d/e: "), "{messages}");
    assert_eq!(text(&own.path().join("x y/b&c=%")), "b\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(text(&outside.path().join("kept")), "kept");
}

fn impossible_copies_are_refused(cluster: &DevCluster, here: &str) {
    let here_too = format!("{here}/there");
    for (source, destination, code, expected) in [
        ("web:../x", here, 2, "inside its sandbox"),
        ("web:/etc/passwd", here, 2, "relative to its sandbox"),
        ("web:a", "web:b", 2, "both source and destination"),
        (here, here_too.as_str(), 2, "neither source nor destination"),
        ("web:d", "-", 2, "is a directory"),
        ("web:nothing", here, 3, "there is no web:nothing"),
        ("web:d/link", here, 1, "is a link"),
        ("web:d/link/passwd", here, 4, "is a link"),
        ("nothing-like-it:a", here, 3, "no task"),
        ("web:d/a", "/dev/null", 1, "a special file has this name"),
        ("web:d/a", "/nonexistent/a", 1, "No such file"),
        ("/nonexistent", "web:a", 1, "No such file"),
    ] {
        let (found, messages) = copy(cluster, source, destination);
        assert_eq!(found, code, "{source} {destination}: {messages}");
        assert!(messages.contains(expected), "{source}: {messages}");
    }
}

#[test]
fn files_and_directories_are_copied_to_a_task() {
    let cluster = with_task(71);
    let own = tempfile::tempdir().unwrap();
    let here = own.path().to_str().unwrap();
    let tree = own.path().join("tree");
    fs::create_dir_all(tree.join("-a/it's $HOME")).unwrap();
    let large: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("-a/it's $HOME/large"), &large).unwrap();
    fs::write(tree.join("run.sh"), "exit 7\n").unwrap();
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    for number in 0..20 {
        fs::write(tree.join(format!("file-{number}")), number.to_string()).unwrap();
    }
    let source = tree.to_str().unwrap();
    assert_eq!(copy(&cluster, source, "web:in"), (0, String::new()));
    let line = "./in/run.sh; echo $?; cat in/file-19; ls -A . in | grep argosy";
    assert_eq!(in_task(&cluster, line), "7\n19");
    // Into the directory, which exists now.
    assert_eq!(copy(&cluster, source, "web:in/").0, 0);
    assert_eq!(in_task(&cluster, "cat in/tree/file-3"), "3");
    let back = format!("{here}/back");
    assert_eq!(copy(&cluster, "web:in/tree", &back), (0, String::new()));
    let returned = fs::read(Path::new(&back).join("-a/it's $HOME/large")).unwrap();
    assert!(returned == large, "{} of {}", returned.len(), large.len());

    symlink("/etc/hostname", tree.join("link")).unwrap();
    let (code, messages) = copy(&cluster, &format!("{source}/."), "web:in");
    assert_eq!(code, 1, "{messages}");
    assert!(
        messages.contains("not copied: link: it is a link"),
        "{messages}"
    );
    let file = format!("{source}/run.sh");
    let (code, messages) = copy(&cluster, &file, "web:no/such/directory");
    assert_eq!(code, 1, "{messages}");
    assert!(
        messages.contains("there is no directory ./no/such"),
        "{messages}"
    );
    standard_input_is_copied(&cluster);
    an_incomplete_file_never_has_its_name(&cluster);
}

/// Starts a copy of what is written to its input.
fn start_copy(cluster: &DevCluster, path: &str) -> Child {
    let mut command = cluster.argosy(&["cp", "-", path]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn standard_input_is_copied(cluster: &DevCluster) {
    let mut child = start_copy(cluster, "web:typed");
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let (code, _, stderr) = split(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(in_task(cluster, "cat typed"), "typed\n");
}

fn an_incomplete_file_never_has_its_name(cluster: &DevCluster) {
    let drafts = || in_task(cluster, "ls -A | grep -c '^[.]argosy-cp-'");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = start_copy(cluster, "web:typed");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"half of ").unwrap();
        wait_for("the draft", || drafts() == "1\n");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status}");
        assert_eq!(in_task(cluster, "cat typed"), "typed\n", "{signal}");
        if signal == Signal::SIGTERM {
            assert_eq!(status.code(), Some(128 + 15));
            assert_eq!(drafts(), "0\n", "it is removed");
        }
    }
}
