//! Tests of containers with an image as root: what they see, where their changes go, and malicious
//! images.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use argosy_isolation::profile::{CONTAINER_IDS, FIRST_HOST_ID};
use argosy_isolation::unpack::{ArchiveFormat, HostOwner, UnpackJob, UnpackLimits, copy_layers};
use argosy_isolation::{
    CommandOutcome, Exit, GeneratedFile, Image, LAYERS_MAX, LaunchSpec, RootFs,
};

use crate::exec_confinement::{end, request, run};
use crate::fixture::{RootFixture, TIMEOUT, TestCase, skip, stderr, stdout};
use crate::profile::{give_sandbox, profiled};
use crate::unpacking::{UnpackedEntry, file_of, tarball};

pub(crate) const CASES: &[TestCase] = &[
    ("the_layers_of_an_image_are_stacked_in_order", layers_show),
    (
        "an_image_may_have_the_maximum_number_of_layers",
        many_layers,
    ),
    ("changes_of_a_container_are_visible_only_to_it", changes),
    ("users_are_resolved_by_the_accounts_of_the_image", users),
    ("containers_can_share_layers_concurrently", shared),
    ("layers_can_be_copied_into_one_directory", copied),
    ("files_missing_in_an_image_are_added", own_files),
    ("an_image_with_links_at_mount_points_is_rejected", hostile),
    (
        "a_root_file_system_that_cannot_be_created_is_reported_with_the_reason",
        impossible,
    ),
    ("no_file_of_the_host_is_reachable_from_an_image", escapes),
];

const BUSYBOX: &str = "/bin/busybox";
const TOOLS: [&str; 16] = [
    "sh", "cat", "ls", "id", "mkdir", "rm", "cut", "grep", "touch", "chmod", "mount", "readlink",
    "sleep", "mknod", "stat", "head",
];
const LIST: &str = "cd /; for file in gone motd deep/a deep/c home/web/file; do echo $file: $(cat $file 2>/dev/null); done; ls deep";
const LISTED: &str = "gone:\nmotd: top\ndeep/a:\ndeep/c: kept\nhome/web/file: hers\nc\n";

/// Creates the directories of an image's layers, lowest first.
pub(crate) fn store(world: &mut RootFixture, layers: &[&[UnpackedEntry<'_>]]) -> Vec<PathBuf> {
    let Ok(busybox) = fs::read(BUSYBOX) else {
        skip("needs the package busybox-static".to_owned());
    };
    let links: Vec<String> = TOOLS.iter().map(|tool| format!("bin/{tool}")).collect();
    let mut base: Vec<UnpackedEntry<'_>> = vec![
        (b'5', "./", 0, &b""[..]),
        (b'5', "bin/", 0, &b""[..]),
        (b'0', "bin/busybox", 0, &busybox[..]),
    ];
    base.extend(
        links
            .iter()
            .map(|link| (b'2', link.as_str(), 0, &b"busybox"[..])),
    );
    let layers = [&base[..]].into_iter().chain(layers.iter().copied());
    let layers = layers.enumerate();
    layers
        .map(|(number, entries)| layer(world, &format!("layer-{number}"), entries))
        .collect()
}

/// Creates a layer's directory, as it is unpacked.
pub(crate) fn layer(world: &mut RootFixture, name: &str, entries: &[UnpackedEntry<'_>]) -> PathBuf {
    let directory = world.work().join(name);
    fs::create_dir(&directory).unwrap();
    let owner = HostOwner { uid: 0, gid: 0 };
    let job = UnpackJob {
        format: ArchiveFormat::Tar,
        rules: UnpackLimits::layer(),
        owner,
        group: None,
    };
    let (archive, target) = (file_of(&tarball(entries)), File::open(&directory).unwrap());
    let launcher = world.launcher.as_mut().unwrap();
    let mut unpacking = launcher
        .unpack(&job, archive.as_fd(), target.as_fd())
        .unwrap();
    unpacking.wait(TIMEOUT).unwrap();
    directory
}

/// Creates three layers that hide and change files.
pub(crate) fn usual(world: &mut RootFixture) -> Vec<PathBuf> {
    store(
        world,
        &[
            &[
                (b'0', "gone", 0, b"lower"),
                (b'0', "motd", 0, b"lower"),
                (b'5', "deep", 0, b""),
                (b'0', "deep/a", 0, b"lower"),
                (b'5', "etc", 0, b""),
                (
                    b'0',
                    "etc/passwd",
                    0,
                    b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
                ),
                (b'0', "etc/group", 0, b"web:x:1000:\ndocs:x:1001:web\n"),
                (b'5', "home", 0, b""),
                (b'5', "home/web", 1000, b""),
                (b'0', "home/web/file", 1000, b"hers"),
            ],
            &[
                (b'0', ".wh.gone", 0, b""),
                (b'5', "deep", 0, b""),
                (b'0', "deep/.wh..wh..opq", 0, b""),
                (b'0', "deep/c", 0, b"kept"),
                (b'0', "motd", 0, b"top"),
            ],
        ],
    )
}

/// Returns a launch with an image as its root.
pub(crate) fn imaged(world: &mut RootFixture, layers: &[PathBuf], line: &str) -> LaunchSpec {
    let mut spec = profiled(world, line);
    let (upper, work) = (spec.directory.join("upper"), spec.directory.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let image = Image {
        layers: layers.to_vec(),
        upper,
        work,
    };
    spec.profile.as_mut().unwrap().view.root = RootFs::Image(image);
    spec.user = None;
    spec.image_user = Some(String::new());
    give_sandbox(&spec);
    spec
}

fn output_of(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let exit = world.run(spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{} {}",
        exit.reason,
        stderr(spec)
    );
    stdout(spec)
}

/// Describes everything below a directory, with owner, kind, mode and content.
fn describe(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let body = if data.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        if data.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let what = format!(
            "{:o} {} {} {} {}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.mtime(),
            body.len()
        );
        let text = body[..body.len().min(100)].escape_ascii();
        found.insert(path, format!("{what} {text}"));
    }
    found
}

fn describe_all(directories: &[PathBuf]) -> Vec<BTreeMap<PathBuf, String>> {
    directories
        .iter()
        .map(|directory| describe(directory))
        .collect()
}

fn layers_show() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let spec = imaged(&mut world, &layers, LIST);
    assert_eq!(output_of(&mut world, &spec), LISTED);
    let spec = imaged(
        &mut world,
        &layers,
        "ls /; pwd; stat -c '%u %g' /home/web/file; id -u",
    );
    let expected =
        "bin\ndeep\ndev\netc\nhome\nmotd\nproc\nsandbox\nsys\ntmp\n/sandbox\n1000 1000\n0\n";
    assert_eq!(output_of(&mut world, &spec), expected);
}

fn many_layers() {
    let mut world = RootFixture::new();
    let base = usual(&mut world);
    for count in [100, 101, LAYERS_MAX] {
        let mut layers = base.clone();
        for number in layers.len()..count {
            // Each writes its name to a common file, and to a private one.
            let directory = world.work().join(format!("{count}-{number}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("top"), number.to_string()).unwrap();
            fs::write(directory.join(format!("own-{number}")), "").unwrap();
            layers.push(directory);
        }
        let line = "cat /top; echo; set -- /own-*; echo $#; cat /motd";
        let spec = imaged(&mut world, &layers, line);
        let expected = format!("{}\n{}\ntop", count - 1, count - base.len());
        assert_eq!(output_of(&mut world, &spec), expected);
    }
    let layers = vec![base[0].clone(); LAYERS_MAX + 1];
    let spec = imaged(&mut world, &layers, "true");
    let error = world.launcher.as_mut().unwrap().launch(&spec).unwrap_err();
    assert!(error.to_string().contains("1 to 128 layers"), "{error}");
}

fn changes() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let before = describe_all(&layers);
    let line = "cd /; echo new > new; echo changed > motd; rm etc/group; rm -r deep; mkdir deep gone; echo x > deep/d; ls deep";
    let spec = imaged(&mut world, &layers, line);
    assert_eq!(output_of(&mut world, &spec), "d\n");
    assert_eq!(describe_all(&layers), before, "layers are as they were");
    let upper = spec.directory.join("upper");
    assert_eq!(fs::read(upper.join("new")).unwrap(), b"new\n");
    assert_eq!(fs::read(upper.join("motd")).unwrap(), b"changed\n");
    let removed = fs::symlink_metadata(upper.join("etc/group")).unwrap();
    assert_eq!(
        (removed.mode() & libc::S_IFMT, removed.rdev()),
        (libc::S_IFCHR, 0)
    );
    let owner = fs::metadata(upper.join("new")).unwrap().uid();
    assert_eq!(owner, FIRST_HOST_ID, "no user of the host");
}

fn users() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let line = "id -u; id -g; id -G; cat /home/web/file; echo mine > /home/web/own && echo yes; echo x > mine && echo yes; (echo x > /etc/evil) 2>/dev/null || echo no";
    for (name, ids) in [
        ("web", "1000\n1000\n1000 1001"),
        ("1000", "1000\n1000\n1000 1001"),
        ("web:docs", "1000\n1001\n1001"),
    ] {
        let mut spec = imaged(&mut world, &layers, line);
        spec.image_user = Some(name.to_owned());
        assert_eq!(
            output_of(&mut world, &spec),
            format!("{ids}\nhersyes\nyes\nno\n"),
            "{name}"
        );
        let own = fs::metadata(spec.directory.join("upper/home/web/own")).unwrap();
        assert_eq!(own.uid(), FIRST_HOST_ID + 1000);
        assert_eq!(
            fs::metadata(spec.sandbox.join("mine")).unwrap().uid(),
            FIRST_HOST_ID + 1000
        );
    }
    let mut spec = imaged(&mut world, &layers, "exec sleep 1000");
    spec.image_user = Some("web".to_owned());
    let (container, _) = world.start(&spec);
    for (name, ids) in [(None, "1000 1001"), (Some("web:docs"), "1001")] {
        let mut asked = request("id -G");
        asked.user_name = name.map(str::to_owned);
        let (out, err, _) = run(&container, &asked, b"");
        assert_eq!(out, format!("{ids}\n"), "{err}");
    }
    end(container);
    let mut spec = imaged(&mut world, &layers, line);
    spec.image_user = Some("nobody".to_owned());
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted);
    assert!(
        exit.reason.contains("no user \"nobody\" in /etc/passwd"),
        "{}",
        exit.reason
    );
}

fn shared() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let before = describe_all(&layers);
    let line = "echo $NAME > /motd; echo ready; while [ ! -e go ]; do sleep 0.01; done; cat /motd /deep/c; stat -c %u /home/web/file";
    let mut running = Vec::new();
    for number in 0..2 {
        let mut spec = imaged(&mut world, &layers, line);
        spec.environment = vec![("NAME".into(), number.to_string())];
        spec.profile.as_mut().unwrap().first_host_id += number * CONTAINER_IDS;
        give_sandbox(&spec);
        let (container, _) = world.start(&spec);
        running.push((container, spec));
    }
    for (_, spec) in &running {
        crate::fixture::eventually("it has written", || stdout(spec) == "ready\n");
        fs::write(spec.sandbox.join("go"), "").unwrap();
    }
    for (number, (mut container, spec)) in running.into_iter().enumerate() {
        let exit = container.wait(TIMEOUT).unwrap();
        assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
        assert_eq!(stdout(&spec), format!("ready\n{number}\nkept1000\n"));
    }
    assert_eq!(describe_all(&layers), before);
}

fn copied() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let directory = world.work().join("copy");
    fs::create_dir(&directory).unwrap();
    let opened = File::open(&directory).unwrap();
    let error = copy_layers(&layers, opened.as_fd(), &|| false).unwrap_err();
    assert_eq!(error.source.to_string(), "it was cancelled");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    copy_layers(&layers, File::open(&directory).unwrap().as_fd(), &|| true).unwrap();
    assert_eq!(
        fs::metadata(directory.join("home/web/file")).unwrap().uid(),
        1000
    );
    assert!(!directory.join("gone").exists() && !directory.join("deep/a").exists());
    let before = describe_all(&layers);
    let mut spec = imaged(
        &mut world,
        &layers,
        &format!("{LIST}; echo x > /new; id -u"),
    );
    spec.profile.as_mut().unwrap().view.root = RootFs::Directory(directory.clone());
    spec.image_user = Some("web".to_owned());
    let exit = world.run(&spec);
    assert_eq!(
        stdout(&spec),
        format!("{LISTED}1000\n"),
        "{} {}",
        exit.reason,
        stderr(&spec)
    );
    assert!(!directory.join("new").exists(), "the root is its root's");
    assert_eq!(describe_all(&layers), before);
}

fn refused(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let Exit {
        outcome, reason, ..
    } = world.run(spec);
    assert_eq!(
        outcome,
        CommandOutcome::NotStarted,
        "{reason} {}",
        stdout(spec)
    );
    reason
}

/// Returns generated files at these paths, each with its path as text.
fn own(paths: &[&str]) -> Vec<GeneratedFile> {
    let files = paths.iter().map(|path| GeneratedFile {
        path: path.into(),
        text: format!("own {path}\n"),
    });
    files.collect()
}

fn own_files() {
    let mut world = RootFixture::new();
    let mut layers = usual(&mut world);
    let before = describe_all(&layers);
    let paths = ["/etc/hosts", "/etc/group", "/run/names/web"];
    let line = format!(
        "cat {}; for file in {}; do (echo x > $file) 2>/dev/null || echo refused; done; ls /tmp",
        paths.join(" "),
        paths.join(" ")
    );
    let mut spec = imaged(&mut world, &layers, &line);
    spec.files = own(&paths);
    let shown: String = paths.iter().map(|path| format!("own {path}\n")).collect();
    assert_eq!(
        output_of(&mut world, &spec),
        format!("{shown}refused\nrefused\nrefused\n")
    );
    assert_eq!(describe_all(&layers), before, "layers are as they were");
    let upper = spec.directory.join("upper");
    assert_eq!(fs::read(upper.join("etc/hosts")).unwrap(), b"");
    assert!(!upper.join("etc/group").exists(), "it is covered only");

    // A link to a directory of the host, which is not followed out of the image.
    let outside = world.work().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap().as_bytes().to_owned();
    let link = [(b'2', "names", 0, &target[..])];
    layers.push(layer(&mut world, "link", &link));
    let mut spec = imaged(&mut world, &layers, "true");
    spec.files = own(&["/names/web"]);
    let reason = refused(&mut world, &spec);
    assert!(reason.contains("another entry in its place"), "{reason}");
    assert!(!outside.join("web").exists());
}

fn hostile() {
    let mut world = RootFixture::new();
    let outside = world.work().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "kept").unwrap();
    let target = outside.to_str().unwrap().as_bytes().to_owned();
    let base = store(&mut world, &[]);
    let before = describe(&outside);
    for place in ["proc", "dev", "sys", "tmp", "sandbox"] {
        for (kind, body) in [
            (b'2', &target[..]),
            (b'2', &b"/etc"[..]),
            (b'2', &b"."[..]),
            (b'0', &b"file"[..]),
        ] {
            let entries = [(b'5', "etc", 0, &b""[..]), (kind, place, 0, body)];
            let bad = layer(&mut world, "bad", &entries);
            let layers = [base.clone(), vec![bad.clone()]].concat();
            let spec = imaged(&mut world, &layers, "true");
            let reason = refused(&mut world, &spec);
            assert!(
                reason.contains(&format!("cannot create the directory {place}")),
                "{reason}"
            );
            assert!(reason.contains("another entry in its place"), "{reason}");
            assert_eq!(describe(&outside), before, "{place}");
            assert!(!bad.join("etc/cpu").exists());
            fs::remove_dir_all(&bad).unwrap();
        }
    }
    let accounts = layer(
        &mut world,
        "accounts",
        &[
            (b'5', "etc", 0, b""),
            (b'2', "etc/passwd", 0, b"/proc/1/environ"),
        ],
    );
    let mut spec = imaged(&mut world, &[base, vec![accounts]].concat(), "true");
    spec.image_user = Some("web".to_owned());
    let reason = refused(&mut world, &spec);
    assert!(
        reason.contains("no user \"web\"") || reason.contains("cannot read /etc/passwd"),
        "{reason}"
    );
}

fn impossible() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let spec = imaged(
        &mut world,
        &[layers.clone(), vec!["/sys/kernel".into()]].concat(),
        "true",
    );
    let reason = refused(&mut world, &spec);
    assert!(
        reason.contains("must support mounts with mapped owners"),
        "{reason}"
    );
    let spec = imaged(
        &mut world,
        &[layers.clone(), vec!["/no/such".into()]].concat(),
        "true",
    );
    let reason = refused(&mut world, &spec);
    assert!(reason.contains("clone the mount of /no/such"), "{reason}");
    let spec = imaged(&mut world, &layers, "true");
    fs::remove_dir(spec.directory.join("upper")).unwrap();
    fs::write(spec.directory.join("upper"), "a file").unwrap();
    let reason = refused(&mut world, &spec);
    assert!(
        reason.contains("else copy the layers into one directory"),
        "{reason}"
    );
}

fn escapes() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let line = "try() { name=$1; shift; if \"$@\" >/dev/null 2>&1; then echo open: $name; fi; }
        try device mknod /disk b 8 0
        try mount mount -t tmpfs none /home
        try remount mount -o remount,suid /
        try settings sh -c 'echo 1 > /proc/sys/kernel/sysrq'
        try init cat /proc/1/environ
        try root ls /proc/1/root/
        try kernel grep -q . /proc/kcore
        try groups sh -c 'echo 1 > /sys/fs/cgroup/cgroup.procs'
        try system touch /sys/mine
        try layers ls /0 /own
        try up ls /../usr
        try host ls /../var
        grep Cap /proc/self/status | cut -f2
        cut -d' ' -f5,6 /proc/self/mountinfo";
    let spec = imaged(&mut world, &layers, line);
    let output = output_of(&mut world, &spec);
    assert!(!output.contains("open: "), "{output}");
    let capabilities: Vec<_> = output.lines().take(5).collect();
    assert_eq!(capabilities, ["0000000000000000"; 5]);
    let mounts: Vec<_> = output.lines().skip(5).collect();
    let roots = mounts.iter().filter(|mount| mount.starts_with("/ "));
    assert_eq!(roots.count(), 1, "no other root lies over it: {output}");
    for mount in mounts {
        assert!(mount.contains("nosuid"), "{mount}");
        // Masked files are covered by the null device.
        let of_devices = mount.starts_with("/dev") || mount.starts_with("/proc/");
        assert!(mount.contains("nodev") || of_devices, "{mount}");
    }
}
