//! Tests of disk limits: separate file systems and project quotas, when full and under attack; and
//! creators of them that die at each step.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use argosy_host::crash_points;
use argosy_isolation::disk::{DiskUsage, FileSystem, project};
use argosy_isolation::{CommandOutcome, Image, LaunchSpec, RootFs};

use crate::audit::{AuditScope, LeakAudit};
use crate::fixture::{RootFixture, TestCase, eventually, skip, stderr, stdout};
use crate::images::{imaged, usual};
use crate::profile::{give_sandbox, profiled};
use QuotaFileSystem::{Ext4, Xfs};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_full_file_system_rejects_writes_but_accepts_the_last_output",
        full_file_system,
    ),
    ("no_write_escapes_a_file_system", hostile_file_system),
    (
        "image_changes_count_in_the_file_system_of_the_sandbox",
        image_on_a_file_system,
    ),
    (
        "removing_a_file_system_in_use_frees_its_space",
        removed_in_use,
    ),
    ("writes_above_a_quota_are_rejected", || {
        full_quota(Ext4);
    }),
    ("no_write_escapes_a_quota", || hostile_quota(Ext4)),
    ("writes_above_a_quota_are_rejected_on_xfs", || {
        full_quota(Xfs);
    }),
    ("no_write_escapes_a_quota_on_xfs", || hostile_quota(Xfs)),
    (
        "image_changes_count_in_the_quota_of_the_sandbox",
        image_in_a_quota,
    ),
    ("a_project_id_is_free_when_all_its_files_are_gone", projects),
    (
        "a_file_system_without_quotas_is_rejected_with_a_message",
        no_quotas,
    ),
    (
        "the_creator_of_a_file_system_may_crash_at_any_step",
        dying_makers,
    ),
    ("the_creator_of_a_quota_may_crash_at_any_step", dying_quotas),
];

/// The verb with which this program creates a disk and removes it.
pub(crate) const MAKER: &str = "maker";

pub(crate) const OF_FILE_SYSTEMS: &[&str] = &[
    "disk.file-made",
    "disk.formatted",
    "disk.attached",
    "disk.mounted",
    "disk.shown",
    "disk.shut-down",
    "disk.hidden",
    "disk.unmounted",
    "disk.file-removed",
];
pub(crate) const OF_QUOTAS: &[&str] = &["quota.joined", "quota.limited", "quota.lifted"];

const MIB: u64 = 1024 * 1024;
pub(crate) const LIMIT: u64 = 16 * MIB;

/// Fills its directory and reports how that ends, then continues normally.
const FILL: &str = "cat /dev/zero > fill; rm fill; echo ended; echo x > again && exit 7";

/// Attempts to exceed the disk limit. Each line ends with an error, or reports that it succeeded.
const ATTACKS: &str = r#"exec python3 -I - << 'END'
import errno, fcntl, os, struct

def attempt(name, action):
    try:
        said = action()
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(name, said, flush=True)

def filled(file):
    written = 0
    try:
        while True:
            written += os.write(file, bytes(65536))
    except OSError as error:
        return written >> 20, errno.errorcode[error.errno]

GET, SET, SET_FLAGS, GET_FLAGS = 0x801c581f, 0x401c5820, 0x40086602, 0x80086601

def leave(path, project, flags):
    file = os.open(path, os.O_RDONLY)
    found = bytearray(28)
    fcntl.ioctl(file, GET, found)
    was = list(struct.unpack("<5I8s", found))
    was[3] = project(was[3])
    was[0] = flags(was[0])
    fcntl.ioctl(file, SET, struct.pack("<5I8s", *was))
    now = bytearray(28)
    fcntl.ioctl(file, GET, now)
    return "stays" if now == found else "LEFT"

def unflag(path):
    file = os.open(path, os.O_RDONLY)
    flags = bytearray(8)
    fcntl.ioctl(file, GET_FLAGS, flags)
    before = struct.unpack("<Q", flags)[0]
    fcntl.ioctl(file, SET_FLAGS, struct.pack("<Q", before & ~0x20000000))
    fcntl.ioctl(file, GET_FLAGS, flags)
    return "stays" if struct.unpack("<Q", flags)[0] == before else "LEFT"

os.mkdir("inner")
open("file", "w").close()
for path in (".", "inner", "file"):
    attempt("no-project " + path, lambda: leave(path, lambda _: 0, lambda flags: flags))
    attempt("next-project " + path, lambda: leave(path, lambda project: project + 1, lambda flags: flags))
for path in (".", "inner"):
    attempt("no-inheritance " + path, lambda: leave(path, lambda project: project, lambda flags: flags & ~0x200))
    attempt("no-flag " + path, lambda: unflag(path))
attempt("link-out", lambda: os.link("file", "/group/file"))
attempt("rename-out", lambda: os.rename("file", "/group/file"))
attempt("hole", lambda: os.truncate("file", 1 << 34))
held = os.open("held", os.O_RDWR | os.O_CREAT)
os.unlink("held")
deleted = filled(held)

def another():
    try:
        again = os.open("second", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        return 0, errno.errorcode[error.errno]
    os.unlink("second")
    had = filled(again)
    os.close(again)
    return had

had = another()
os.close(held)
print("deleted", *deleted, flush=True)
print("second", *had, flush=True)

def names():
    made = 0
    try:
        while made < 100000:
            os.close(os.open("inner/%d" % made, os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError as error:
        return made, errno.errorcode[error.errno]
    return made, "NONE"

print("names", *names(), flush=True)
END"#;

pub(crate) fn audit(world: &RootFixture) -> LeakAudit {
    let launcher = world.launcher.as_ref().unwrap().pid();
    eventually("the launcher has the name that it keeps", || {
        let name = fs::read_to_string(format!("/proc/{launcher}/comm"));
        name.is_ok_and(|name| name == "argosy-launcher\n")
    });
    LeakAudit::begin(AuditScope {
        directories: vec![world.work().to_owned()],
        ..AuditScope::default()
    })
}

/// Returns a launch whose sandbox is a separate file system.
fn on_a_file_system(world: &mut RootFixture, line: &str) -> (LaunchSpec, FileSystem) {
    let spec = profiled(world, line);
    if let Err(why) = FileSystem::supported() {
        skip(format!("this kernel has no loop devices: {why}"));
    }
    let system = FileSystem::at(&world.work().join("disks").join(spec.id.as_str()));
    system.make(LIMIT, &spec.sandbox).unwrap();
    give_sandbox(&spec);
    (spec, system)
}

fn output_of(spec: &LaunchSpec) -> String {
    stdout(spec) + &stderr(spec)
}

fn full_file_system() {
    let mut world = RootFixture::new();
    let audit = audit(&world);
    let line = format!(
        "echo begun; {}",
        FILL.replace("rm fill", "sleep 1; rm fill")
    );
    let (spec, system) = on_a_file_system(&mut world, &line);
    let empty = system.usage().unwrap();
    assert!(
        empty.limit_bytes > LIMIT * 9 / 10 && empty.limit_bytes <= LIMIT,
        "{empty:?}"
    );
    assert!(
        empty.used_bytes < LIMIT / 10 && empty.files_limit >= 1_024,
        "{empty:?}"
    );
    let mut container = world.launch(&spec);
    let mut most = 0;
    eventually("it is full, but for what is kept for others", || {
        most = most.max(system.usage().unwrap().used_bytes);
        most > empty.limit_bytes * 9 / 10
    });
    let exit = container.wait(crate::fixture::TIMEOUT).unwrap();
    let output = output_of(&spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(7), "{output}");
    for words in ["begun\n", "No space left on device", "ended\n"] {
        assert!(output.contains(words), "{words:?} in {output:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = spec.sandbox.to_str().unwrap();
    let line = mounts.lines().find(|line| line.contains(at)).unwrap();
    assert!(
        line.contains("nosuid,nodev") && line.contains("discard"),
        "{line}"
    );
    system.remove(&spec.sandbox).unwrap();
    assert!(fs::read_dir(&spec.sandbox).unwrap().next().is_none());
    audit.expect_nothing_left("after a file system that was full");
}

/// Returns the result of each line of [`ATTACKS`], by its name.
fn attack_results(spec: &LaunchSpec) -> impl Fn(&str) -> String {
    let (output, errors) = (stdout(spec), stderr(spec));
    move |name| {
        let found = output.lines().find_map(|line| line.strip_prefix(name));
        let found = found.unwrap_or_else(|| panic!("{name} is not in {output}{errors}"));
        found.trim().to_owned()
    }
}

fn numbers(text: &str) -> (u64, &str) {
    let (number, word) = text.split_once(' ').unwrap();
    (number.parse().unwrap(), word)
}

/// Checks that the attempts did not exceed the limit.
fn expect_limit(spec: &LaunchSpec, refusals: [&str; 2], files: u64) {
    let [full, many] = refusals;
    let came_to = attack_results(spec);
    for project in ["no-project", "next-project", "no-inheritance", "no-flag"] {
        for path in [" .", " inner", " file"] {
            if project.contains("-project") || path != " file" {
                let outcome = came_to(&format!("{project}{path}"));
                assert!(
                    ["EINVAL", "EPERM", "ENOTTY", "EOPNOTSUPP", "stays"]
                        .contains(&outcome.as_str()),
                    "{project}{path}: {outcome}"
                );
            }
        }
    }
    assert_eq!(came_to("link-out"), "EXDEV");
    assert_eq!(came_to("rename-out"), "EXDEV");
    assert_eq!(came_to("hole"), "None");
    let (deleted, second) = (came_to("deleted"), came_to("second"));
    let ((deleted, why), (second, again)) = (numbers(&deleted), numbers(&second));
    assert_eq!((why, again), (full, full));
    assert!(
        (10..=16).contains(&deleted) && second <= 1,
        "{deleted} {second}"
    );
    let names = came_to("names");
    let (names, why) = numbers(&names);
    assert!(why == many || why == full, "{why}");
    assert!(names <= files, "{names} of {files}");
}

/// Adds a host directory that is shared with other containers and writable.
fn with_group(world: &RootFixture, spec: &mut LaunchSpec, below: &Path) {
    let directory = below.join(format!("group-{}", spec.id.as_str()));
    fs::create_dir(&directory).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&directory, all).unwrap();
    assert!(directory.starts_with(world.work()));
    spec.shared_directory = Some(directory);
}

fn hostile_file_system() {
    let mut world = RootFixture::new();
    let audit = audit(&world);
    let (mut spec, system) = on_a_file_system(&mut world, ATTACKS);
    let work = world.work().to_owned();
    with_group(&world, &mut spec, &work);
    let limit = system.usage().unwrap();
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "{}",
        output_of(&spec)
    );
    expect_limit(&spec, ["ENOSPC", "ENOSPC"], limit.files_limit);
    system.remove(&spec.sandbox).unwrap();
    audit.expect_nothing_left("after the worst in a file system");
}

/// Returns the same launch with an image, whose changes are in `changes`.
fn changed(world: &mut RootFixture, changes: &Path, spec: LaunchSpec) -> LaunchSpec {
    let Some(mut profile) = spec.profile.clone() else {
        panic!("images are of the profile");
    };
    let RootFs::Image(image) = profile.view.root else {
        panic!("it has an image");
    };
    let [upper, work] = ["upper", "work"].map(|name| changes.join(name));
    for directory in [&upper, &work] {
        fs::create_dir(directory).unwrap();
    }
    assert!(changes.starts_with(world.work()));
    profile.view.root = RootFs::Image(Image {
        upper,
        work,
        ..image
    });
    LaunchSpec {
        profile: Some(profile),
        ..spec
    }
}

const FILL_ROOT: &str = "cat /dev/zero > /fill; rm /fill; echo ended; exit 7";

fn image_on_a_file_system() {
    let mut world = RootFixture::new();
    let audit = audit(&world);
    let layers = usual(&mut world);
    let spec = imaged(&mut world, &layers, FILL_ROOT);
    let system = FileSystem::at(&world.work().join("disk"));
    if FileSystem::supported().is_err() {
        skip("this kernel has no loop devices".to_owned());
    }
    system.make(LIMIT, &spec.sandbox).unwrap();
    give_sandbox(&spec);
    fs::create_dir(system.changes()).unwrap();
    let spec = changed(&mut world, &system.changes(), spec);
    let exit = world.run(&spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(7),
        "{} {}",
        exit.reason,
        output_of(&spec)
    );
    assert!(
        stderr(&spec).contains("No space left on device"),
        "{}",
        output_of(&spec)
    );
    system.remove(&spec.sandbox).unwrap();
    audit.expect_nothing_left("after an image on a file system");
}

fn removed_in_use() {
    let mut world = RootFixture::new();
    let audit = audit(&world);
    let line = "head -c 4000000 /dev/zero > held; exec sleep 1000 < held";
    let (spec, system) = on_a_file_system(&mut world, line);
    let (container, _) = world.start(&spec);
    let held = spec.sandbox.join("held");
    eventually("it has a file open", || {
        fs::metadata(&held).is_ok_and(|data| data.len() == 4_000_000)
    });
    let open = fs::File::open(&held).unwrap();
    open.sync_all().unwrap();
    let file = fs::File::open(
        world
            .work()
            .join("disks")
            .join(spec.id.as_str())
            .join("file"),
    );
    let file = file.unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 > 4_000_000);
    system.remove(&spec.sandbox).unwrap();
    assert!(!system.is_mounted());
    // The file is still open, and uses no space of the host's disk any more.
    assert!(file.metadata().unwrap().blocks() * 512 < MIB / 4);
    let error = open.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EIO as i32));
    drop((open, file));
    container.kill(0).unwrap();
    drop(container);
    let group = spec.cgroup.as_deref();
    argosy_isolation::destroy(&spec.directory, group, crate::fixture::TIMEOUT).unwrap();
    audit.expect_nothing_left("after a file system that was removed in use");
}

/// File systems with project quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuotaFileSystem {
    Ext4,
    Xfs,
}

impl QuotaFileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Returns the error of a task at its limit: name and text.
    fn refusal(self) -> [&'static str; 2] {
        match self {
            Self::Ext4 => ["EDQUOT", "Disk quota exceeded"],
            // For xfs a project is like a file system.
            Self::Xfs => ["ENOSPC", "No space left on device"],
        }
    }

    fn format(self, file: &Path) -> bool {
        let (bytes, options) = match self {
            Self::Ext4 => (
                64 * MIB,
                "-q -F -O quota,project -E quotatype=prjquota".split(' '),
            ),
            // The minimum size of xfs.
            Self::Xfs => (320 * MIB, "-q -f".split(' ')),
        };
        fs::File::create(file).unwrap().set_len(bytes).unwrap();
        let mut maker = Command::new(format!("mkfs.{}", self.name()));
        let made = maker.args(options).arg(file).status();
        made.is_ok_and(|status| status.success())
    }
}

/// A file system with project quotas. Unmounted on drop.
struct MountedFileSystem(PathBuf);

impl MountedFileSystem {
    fn of(world: &RootFixture) -> Self {
        Self::on(QuotaFileSystem::Ext4, world)
    }

    fn on(kind: QuotaFileSystem, world: &RootFixture) -> Self {
        let (file, directory) = (world.work().join("quotas"), world.work().join("mounted"));
        fs::create_dir(&directory).unwrap();
        let name = kind.name();
        if !kind.format(&file) {
            skip(format!("needs the package with mkfs.{name}"));
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", name, "-o", "loop,prjquota"]);
        mount.arg(&file).arg(&directory).stderr(Stdio::null());
        if !mount.status().unwrap().success() {
            skip(format!(
                "this kernel has no format of quotas on {name} (CONFIG_QFMT_V2, CONFIG_XFS_QUOTA)"
            ));
        }
        project::supported(&directory).unwrap();
        Self(directory)
    }

    /// Returns a launch whose sandbox is a project.
    fn spec(&self, world: &mut RootFixture, line: &str) -> LaunchSpec {
        let mut spec = profiled(world, line);
        spec.sandbox = self.0.join(spec.id.as_str());
        fs::create_dir(&spec.sandbox).unwrap();
        self.take(&spec.sandbox);
        give_sandbox(&spec);
        spec
    }

    fn take(&self, directory: &Path) {
        project::assign(directory, LIMIT, &self.0.join("alone")).unwrap();
    }
}

impl Drop for MountedFileSystem {
    fn drop(&mut self) {
        let is_unmounted = || {
            let mut unmount = Command::new("umount");
            let unmount = unmount.arg(&self.0).stderr(Stdio::null());
            unmount.status().unwrap().success()
        };
        if std::thread::panicking() {
            is_unmounted();
        } else {
            // A supervisor reports the end while it still has the output files open, which are on
            // that file system.
            eventually("nothing on the file system is open", is_unmounted);
        }
    }
}

fn usage(directory: &Path) -> DiskUsage {
    project::usage(directory).unwrap()
}

fn full_quota(kind: QuotaFileSystem) {
    let mut world = RootFixture::new();
    let quotas = MountedFileSystem::on(kind, &world);
    // On xfs host root, which writes the last output, has no reserve either.
    let fill = "cat /dev/zero > fill 2> /tmp/said; rm fill || exit 9; cat /tmp/said >&2;";
    let line = FILL.replace("cat /dev/zero > fill; rm fill;", fill);
    assert!(line.starts_with(fill));
    let spec = quotas.spec(&mut world, &line);
    let mut container = world.launch(&spec);
    let exit = container.wait(crate::fixture::TIMEOUT).unwrap();
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(7),
        "{}",
        output_of(&spec)
    );
    let [_, words] = kind.refusal();
    assert!(output_of(&spec).contains(words), "{}", output_of(&spec));
    let has = usage(&spec.sandbox);
    assert_eq!((has.limit_bytes, has.files_limit), (LIMIT, LIMIT / 4_096));
    assert!(has.used_bytes < MIB && has.files == 4, "{has:?}");
    fs::write(spec.sandbox.join("more"), vec![1; 2 * MIB as usize]).unwrap();
    nix::unistd::sync();
    assert!(usage(&spec.sandbox).used_bytes >= 2 * MIB);
}

fn hostile_quota(kind: QuotaFileSystem) {
    let mut world = RootFixture::new();
    let quotas = MountedFileSystem::on(kind, &world);
    let mut spec = quotas.spec(&mut world, ATTACKS);
    with_group(&world, &mut spec, &quotas.0);
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "{}",
        output_of(&spec)
    );
    let [refusal, _] = kind.refusal();
    expect_limit(&spec, [refusal, refusal], LIMIT / 4_096);
    let neighbour = quotas.spec(&mut world, "head -c 1000000 /dev/zero > file");
    assert_eq!(
        world.run(&neighbour).outcome,
        CommandOutcome::Exited(0),
        "{}",
        output_of(&neighbour)
    );
    // Not even host root can link a file of another project into it.
    let linked = fs::hard_link(spec.sandbox.join("stdout"), neighbour.sandbox.join("x"));
    assert_eq!(
        linked.unwrap_err().kind(),
        std::io::ErrorKind::CrossesDevices
    );
}

fn image_in_a_quota() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let quotas = MountedFileSystem::of(&world);
    let mut spec = imaged(&mut world, &layers, FILL_ROOT);
    spec.sandbox = quotas.0.join("sandbox");
    let changes = quotas.0.join("changes");
    fs::create_dir(&spec.sandbox).unwrap();
    fs::create_dir(&changes).unwrap();
    quotas.take(&spec.sandbox);
    project::share(&spec.sandbox, &changes).unwrap();
    give_sandbox(&spec);
    let spec = changed(&mut world, &changes, spec);
    let exit = world.run(&spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(7),
        "{} {}",
        exit.reason,
        output_of(&spec)
    );
    assert!(
        stderr(&spec).contains("Disk quota exceeded"),
        "{}",
        output_of(&spec)
    );
    assert_eq!(usage(&spec.sandbox), usage(&changes));
}

fn projects() {
    let world = RootFixture::new();
    let quotas = MountedFileSystem::of(&world);
    let directory = |name: &str| {
        let directory = quotas.0.join(name);
        fs::create_dir(&directory).unwrap();
        directory
    };
    let (one, other) = (directory("one"), directory("other"));
    assert_eq!(project::usage(&one), None);
    project::clear_limit(&one).unwrap();
    quotas.take(&one);
    quotas.take(&one);
    quotas.take(&other);
    fs::write(one.join("file"), vec![1; MIB as usize]).unwrap();
    nix::unistd::sync();
    assert!(usage(&one).used_bytes >= MIB && usage(&other).used_bytes < MIB);
    // Its limit is lifted before its files are removed: no limit remains for the next holder of the
    // id.
    project::clear_limit(&one).unwrap();
    assert_eq!(project::usage(&one), None);
    fs::remove_dir_all(&one).unwrap();
    quotas.take(&directory("three"));
    assert!(usage(&quotas.0.join("three")).used_bytes < MIB);
}

fn no_quotas() {
    let world = RootFixture::new();
    let Err(why) = project::supported(world.work()) else {
        skip("this kernel has no file system without quotas for temporary files".to_owned());
    };
    assert!(why.contains("prjquota") && why.contains("mount"), "{why}");
    assert_eq!(project::usage(world.work()), None);
    project::clear_limit(world.work()).unwrap();
    project::share(world.work(), &world.work().join("nowhere")).unwrap();
}

/// Creates a disk and removes it, as a process that may die on the way:
/// `kind step witness directory sandbox`.
pub(crate) fn run_maker(arguments: &[String]) -> ExitCode {
    let [kind, step, witness, directory, sandbox] = arguments else {
        panic!("{arguments:?}");
    };
    let (directory, sandbox) = (Path::new(directory), Path::new(sandbox));
    crash_points::arm(step, 1, Path::new(witness)).unwrap();
    if kind == "quota" {
        project::assign(sandbox, LIMIT, &directory.join("alone")).unwrap();
        project::clear_limit(sandbox).unwrap();
    } else {
        let system = FileSystem::at(directory);
        system.make(LIMIT, sandbox).unwrap();
        system.remove(sandbox).unwrap();
    }
    ExitCode::SUCCESS
}

fn crash_at(kind: &str, step: &str, world: &RootFixture, directory: &Path, sandbox: &Path) {
    let witness = world.work().join(format!("witness-{step}"));
    let mut maker = Command::new("/proc/self/exe")
        .args([MAKER, kind, step])
        .args([&witness, directory, sandbox])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually(&format!("the maker dies at {step}"), || {
        maker.try_wait().unwrap().is_some()
    });
    let passes = crash_points::passes(&witness).unwrap_or(0);
    assert_eq!(passes, 1, "no process has passed {step}");
}

fn dying_makers() {
    if !crash_points::IS_ON {
        skip("this build has no crash points".to_owned());
    }
    if FileSystem::supported().is_err() {
        skip("this kernel has no loop devices".to_owned());
    }
    let world = RootFixture::new();
    for step in OF_FILE_SYSTEMS {
        let audit = audit(&world);
        let directory = world.work().join("disk");
        let sandbox = world.work().join("sandbox");
        fs::create_dir(&sandbox).unwrap();
        crash_at("file-system", step, &world, &directory, &sandbox);
        let system = FileSystem::at(&directory);
        system.remove(&sandbox).unwrap();
        assert!(!directory.exists(), "{step}");
        // Creating it again succeeds.
        system.make(LIMIT, &sandbox).unwrap();
        assert!(system.is_mounted() && system.usage().is_some());
        system.remove(&sandbox).unwrap();
        fs::remove_dir(&sandbox).unwrap();
        audit.expect_nothing_left(&format!("after a crash at {step}"));
    }
}

fn dying_quotas() {
    if !crash_points::IS_ON {
        skip("this build has no crash points".to_owned());
    }
    let world = RootFixture::new();
    let quotas = MountedFileSystem::of(&world);
    for step in OF_QUOTAS {
        let sandbox = quotas.0.join("sandbox");
        fs::create_dir(&sandbox).unwrap();
        crash_at("quota", step, &world, &quotas.0, &sandbox);
        // The next process detects its kind, and lifts its limit.
        quotas.take(&sandbox);
        assert_eq!(usage(&sandbox).limit_bytes, LIMIT, "{step}");
        project::clear_limit(&sandbox).unwrap();
        fs::remove_dir(&sandbox).unwrap();
    }
}
