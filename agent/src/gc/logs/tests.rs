//! Tests of the bounds of kept output, of reductions and of marks.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const MIB: u64 = 1 << 20;

fn path(number: u64) -> PathBuf {
    format!("/s/f/t/1-{number}-1").into()
}

/// The present time of the boot clock: a thousand hours.
const NOW: BootTime = BootTime(3_600_000_000);

/// Returns logs of these ages in hours and sizes.
fn kept(all: &[(u64, u64)]) -> KeptLogs {
    let marks = all.iter().map(|(hours, bytes)| KeptLog {
        since: Some(BootTime(NOW.0 - hours * 3_600_000)),
        written: SystemTime::UNIX_EPOCH,
        bytes: *bytes,
    });
    kept_with(marks.collect())
}

fn kept_with(all: Vec<KeptLog>) -> KeptLogs {
    let mut kept = KeptLogs::default();
    let present = (1..).zip(&all).map(|(number, _)| {
        let name = format!("1-{number}-1").parse().unwrap();
        (name, path(number))
    });
    let mut marks = all.iter().copied();
    assert!(kept.split(present.collect(), |_| marks.next()).is_empty());
    kept
}

fn marked_bytes(sandbox: &Path) -> u64 {
    read_mark(sandbox, "").unwrap().bytes
}

fn retention(hours: u32, bytes: u64) -> LogRetention {
    LogRetention {
        age: HOUR * hours,
        bytes,
    }
}

#[test]
fn logs_leave_by_age_and_then_the_oldest_by_size() {
    let logs = kept(&[(5, 10), (1, 10), (3, 10), (2, 10)]);
    let leaving = |retention| {
        let mut leaving = logs.select(NOW, retention);
        leaving.sort();
        leaving
    };
    assert!(leaving(retention(6, 40)).is_empty());
    assert_eq!(leaving(retention(5, 40)), [path(1)]);
    assert_eq!(leaving(retention(6, 39)), [path(1)]);
    assert_eq!(leaving(retention(6, 25)), [path(1), path(3)]);
    assert_eq!(leaving(retention(6, 0)).len(), 4);
    assert_eq!(logs.oldest(), Some(path(1)));
}

#[test]
fn logs_of_earlier_boots_have_the_age_of_the_present_one_and_are_the_oldest() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let log = |since, written| KeptLog {
        since,
        written,
        bytes: 10,
    };
    // The third was written after the clock had been set back.
    let logs = kept_with(vec![
        log(None, at(2_000)),
        log(None, at(1_000)),
        log(Some(BootTime(0)), at(1)),
    ]);
    let leaving = |hours, bytes| {
        let mut leaving = logs.select(BootTime(5 * 3_600_000), retention(hours, bytes));
        leaving.sort();
        leaving
    };
    assert!(leaving(6, 30).is_empty());
    assert_eq!(leaving(5, 30).len(), 3);
    assert_eq!(leaving(6, 20), [path(2)]);
    assert_eq!(leaving(6, 10), [path(1), path(2)]);
    assert_eq!(logs.oldest(), Some(path(2)));
}

#[test]
fn a_jump_of_the_wall_clock_removes_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(directory.path());
    let sandbox = paths.sandboxes().join("framework-1/web/1-1-1");
    fs::create_dir_all(&sandbox).unwrap();
    fs::write(sandbox.join("stdout"), "text").unwrap();
    reduce(&paths, vec![sandbox.clone()], MIB);
    // For this file, the time is ten years later now, in both boots.
    let mark = fs::File::options()
        .write(true)
        .open(sandbox.with_extension(MARK));
    let past = SystemTime::now() - HOUR * (24 * 365 * 10);
    mark.unwrap().set_modified(past).unwrap();
    for boot in [boot_id().unwrap(), "another boot".to_owned()] {
        let name: ContainerName = "1-1-1".parse().unwrap();
        let mut logs = KeptLogs::default();
        let others = logs.split(vec![(name, sandbox.clone())], |path| read_mark(path, &boot));
        assert!(others.is_empty());
        let is_same = logs.0[&sandbox].since.is_some();
        let now = match is_same {
            true => BootTime::now(),
            false => BootTime(1_000),
        };
        assert!(logs.select(now, retention(1, MIB)).is_empty());
        assert_eq!(is_same, boot != "another boot");
    }
}

#[test]
fn output_above_the_bound_for_all_displaces_no_other() {
    let logs = kept(&[(1, u64::MAX), (2, 41), (3, 20), (4, 20)]);
    let mut leaving = logs.select(NOW, retention(9, 40));
    leaving.sort();
    assert_eq!(leaving, [path(1), path(2)]);
}

#[test]
fn a_file_counts_once_with_the_larger_of_length_and_space() {
    let mut size = OutputSize::default();
    let file = |inode, length, blocks| FileSize {
        id: (1, inode),
        length,
        blocks,
    };
    size.add(file(1, 0, 8));
    assert!(!size.has_content, "space without content");
    // Space behind its end, a hole, and another link to it.
    size.add(file(2, 1, 100));
    size.add(file(3, 9_000, 0));
    size.add(file(3, 9_000, 0));
    assert_eq!(size.bytes, 8 * 512 + 100 * 512 + 9_000);
    assert!(size.has_content);
    (4..7).for_each(|inode| size.add(file(inode, 1 << 63, u64::MAX)));
    assert_eq!(size.bytes, u64::MAX);
}

#[test]
fn output_that_no_supervisor_writes_is_removed_and_links_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(directory.path());
    let task = paths.sandboxes().join("framework-1/web");
    let [honest, sparse, linked] = ["1-1-1", "1-2-1", "1-3-1"].map(|name| task.join(name));
    for sandbox in [&honest, &sparse, &linked] {
        fs::create_dir_all(sandbox).unwrap();
        fs::write(sandbox.join("stdout"), vec![b'x'; 100_000]).unwrap();
    }
    let hole = fs::File::create(sparse.join("stderr")).unwrap();
    hole.set_len(1 << 40).unwrap();
    for number in 1..MAX_ROTATIONS {
        let link = linked.join(format!("stdout.{number}"));
        fs::hard_link(linked.join("stdout"), link).unwrap();
    }
    let all = vec![honest.clone(), sparse.clone(), linked.clone()];
    reduce(&paths, all, MIB);
    assert!(!sparse.exists() && read_mark(&sparse, "").is_none());
    for sandbox in [&honest, &linked] {
        let bytes = marked_bytes(sandbox);
        assert!((100_000..=MIB).contains(&bytes), "{bytes}");
    }
}

#[test]
fn a_task_keeps_at_most_what_its_limits_and_the_retention_allow() {
    let mut config = Config::new("/a".into(), Vec::new(), "127.0.0.1:5051".to_owned());
    (config.log_file_bytes, config.log_files) = (MIB, 3);
    config.log_retention_bytes = 100 * MIB;
    assert_eq!(max_kept_bytes(&config), 12 * MIB);
    config.log_retention_bytes = 5 * MIB;
    assert_eq!(max_kept_bytes(&config), 5 * MIB);
    config.log_file_bytes = u64::MAX;
    assert_eq!(max_kept_bytes(&config), 5 * MIB);
}

#[test]
fn a_mark_is_readable_by_the_agent_whatever_the_umask() {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::{Mode, umask};

    let directory = tempfile::tempdir().unwrap();
    let sandbox = directory.path().join("1-1-1");
    let write = || -> io::Result<()> {
        // This thread no longer shares its umask with others.
        unshare(CloneFlags::CLONE_FS)?;
        umask(Mode::from_bits_truncate(0o077));
        write_mark(&sandbox, 7)
    };
    let written = std::thread::scope(|scope| scope.spawn(write).join().unwrap());
    match written {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return argosy_testing::skip("needs unshare(2)");
        }
        written => written.unwrap(),
    }
    let mark = fs::metadata(sandbox.with_extension(MARK)).unwrap();
    assert_eq!(mark.permissions().mode() & 0o777, 0o644);
    assert_eq!(marked_bytes(&sandbox), 7);
    assert!(!sandbox.with_extension(MARK_DRAFT).exists());
}

#[test]
fn a_sandbox_with_an_incomplete_mark_is_measured_again() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(directory.path());
    let sandbox = paths.sandboxes().join("framework-1/web/1-1-1");
    fs::create_dir_all(&sandbox).unwrap();
    fs::write(sandbox.join("stdout"), vec![b'x'; 100_000]).unwrap();
    for torn in [
        "",
        "10",
        "\n",
        "10\n",
        "10 boot\n",
        "x boot 5\n",
        "10 boot -1\n",
    ] {
        fs::write(sandbox.with_extension(MARK), torn).unwrap();
        let name: ContainerName = "1-1-1".parse().unwrap();
        let present = vec![(name, sandbox.clone())];
        let mut logs = KeptLogs::default();
        let read = |path: &Path| read_mark(path, "");
        assert_eq!(logs.split(present.clone(), read), present, "{torn:?}");
        reduce(&paths, vec![sandbox.clone()], MIB);
        assert!(logs.split(present, read).is_empty());
        assert!(marked_bytes(&sandbox) >= 100_000);
    }
    // A crash left the draft of a mark: it leaves with the sandbox.
    fs::write(sandbox.with_extension(MARK_DRAFT), "1").unwrap();
    super::super::remove(&paths, vec![sandbox]);
    assert!(!paths.sandboxes().join("framework-1").exists());
}

#[test]
fn the_number_of_logs_is_bounded() {
    let logs = kept(&vec![(1, 1); MAX_KEPT + 2]);
    assert_eq!(logs.select(NOW, retention(9, u64::MAX)).len(), 2);
}

#[test]
fn marks_are_read_once() {
    let mut logs = kept(&[(1, 1)]);
    let present = |numbers: &[u64]| {
        let all = numbers.iter().map(|number| {
            let name = format!("1-{number}-1").parse().unwrap();
            (name, path(*number))
        });
        all.collect::<Vec<_>>()
    };
    let mut read = Vec::new();
    let others = logs.split(present(&[1, 2]), |path| {
        read.push(path.to_owned());
        None
    });
    assert_eq!(read, [path(2)]);
    assert_eq!(others, present(&[2]));
    // One that is gone is forgotten.
    logs.split(Vec::new(), |_| None);
    assert!(logs.all().is_empty());
}

#[test]
fn only_output_of_the_supervisor_is_kept() {
    for name in ["stdout", "stderr", "stdout.1", "stderr.99"] {
        assert!(is_output(name), "{name}");
    }
    for name in [
        "stdout.0",
        "stdout.01",
        "stdout.100",
        "stdout.",
        "stdout.1.2",
        "Stdout",
        "core",
        "",
    ] {
        assert!(!is_output(name), "{name}");
    }
}

#[test]
fn a_reduced_sandbox_has_its_output_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(directory.path());
    let outside = directory.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    let task = paths.sandboxes().join("framework-1/web");
    let sandbox = task.join("1-1-1");
    fs::create_dir_all(sandbox.join("data/deep")).unwrap();
    fs::write(sandbox.join("stdout"), "new").unwrap();
    fs::write(sandbox.join("stdout.1"), "older").unwrap();
    fs::write(sandbox.join("data/deep/secret"), "x").unwrap();
    std::os::unix::fs::symlink(outside.join("file"), sandbox.join("stderr")).unwrap();
    fs::write(task.join("1-1-1.output"), "{}").unwrap();
    fs::write(task.join("1-1-1.times"), vec![0; 50_000]).unwrap();
    let silent = task.join("1-2-1");
    fs::create_dir_all(&silent).unwrap();
    fs::write(silent.join("stdout"), "").unwrap();
    fs::write(silent.join("core"), "x").unwrap();
    reduce(&paths, vec![sandbox.clone(), silent.clone()], MIB);
    let names = || {
        let entries = fs::read_dir(&sandbox).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    let expected: BTreeSet<String> = ["stdout", "stdout.1"].map(String::from).into();
    assert_eq!(names(), expected);
    assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), "new");
    assert!(outside.join("file").exists(), "a link is not followed");
    assert!(task.join("1-1-1.output").exists(), "it maps offsets");
    assert!(task.join("1-1-1.times").exists(), "it has the times");
    assert!(!silent.exists(), "it has written nothing");
    let bytes = marked_bytes(&sandbox);
    assert!((50_008..=MIB).contains(&bytes), "{bytes}");
    // A repeat changes nothing, and the removal leaves nothing.
    reduce(&paths, vec![sandbox.clone()], MIB);
    assert_eq!(names(), expected);
    super::super::remove(&paths, vec![sandbox]);
    assert!(!paths.sandboxes().join("framework-1").exists());
}

#[test]
fn kept_output_does_not_belong_to_the_user_of_its_task() {
    const TASK: Option<u32> = Some(1_879_200_001);
    if !nix::unistd::geteuid().is_root() {
        return argosy_testing::skip("needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(directory.path());
    let task = paths.sandboxes().join("framework-1/web");
    let sandbox = task.join("1-1-1");
    fs::create_dir_all(&sandbox).unwrap();
    // The agent's group may list the directories of tasks, as a broker creates them.
    lchown(&task, None, Some(1_234)).unwrap();
    for name in ["stdout", "stdout.1", "stdout.2", "stderr"] {
        fs::write(sandbox.join(name), "text").unwrap();
    }
    // It has added a file under the name of a rotated one, and opened its directory to all.
    lchown(sandbox.join("stdout.2"), TASK, TASK).unwrap();
    lchown(&sandbox, TASK, TASK).unwrap();
    fs::set_permissions(&sandbox, Permissions::from_mode(0o777)).unwrap();
    reduce(&paths, vec![sandbox.clone()], MIB);
    let kept = fs::metadata(&sandbox).unwrap();
    let owner = (kept.uid(), kept.gid(), kept.mode() & 0o7777);
    assert_eq!(owner, (0, 1_234, 0o750));
    assert!(!sandbox.join("stdout.2").exists());
    let entries = fs::read_dir(&sandbox).unwrap();
    let owners = entries.map(|entry| entry.unwrap().metadata().unwrap().uid());
    assert_eq!(owners.collect::<Vec<_>>(), [0, 0, 0]);
}
