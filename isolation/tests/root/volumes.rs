//! Tests of volumes: each kind, its mount points, and that a secret is stored nowhere else.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use argosy_isolation::profile::{COMMAND_ID, FIRST_HOST_ID};
use argosy_isolation::{
    CommandOutcome, DeliveredSecret, Exit, LaunchDescriptors, LaunchSpec, SecretFile, Volume,
    VolumeSource,
};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, stderr, stdout};
use crate::images::{imaged, usual};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "each_kind_of_volume_is_mounted_at_its_requested_path",
        kinds,
    ),
    ("a_tmpfs_volume_has_its_size_and_is_not_executable", memory),
    ("a_read_only_volume_cannot_be_written", read_only),
    ("a_secret_is_exposed_only_in_its_file", secret),
    (
        "a_secret_that_comes_with_the_launch_is_only_in_its_container",
        delivered,
    ),
    ("a_missing_secret_is_reported_by_name", absent),
    ("volumes_can_be_mounted_at_paths_missing_in_an_image", image),
    ("links_do_not_redirect_volumes", links),
    ("a_volume_at_an_impossible_path_is_rejected", nowhere),
    (
        "the_launcher_keeps_no_secrets_of_earlier_containers",
        forgotten,
    ),
];

fn volume(path: &str, source: VolumeSource) -> Volume {
    Volume {
        path: path.into(),
        read_only: false,
        source,
    }
}

fn tmpfs(path: &str) -> Volume {
    volume(path, VolumeSource::Tmpfs { bytes: 1 << 20 })
}

fn directory(path: &str, below: &str) -> Volume {
    volume(path, VolumeSource::Sandbox(below.into()))
}

/// Returns a volume with this secret of an operator; `text` is the content of the operator's file.
fn secret_volume(world: &RootFixture, path: &str, text: &str) -> Volume {
    let secrets = world.work().join("secrets");
    let _ = fs::create_dir(&secrets);
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o700)).unwrap();
    let _ = fs::create_dir(secrets.join("web"));
    fs::write(secrets.join("web/db"), text).unwrap();
    let secret = SecretFile {
        directory: secrets,
        name: "web/db".into(),
    };
    volume(path, VolumeSource::Secret(secret))
}

fn with(mut spec: LaunchSpec, volumes: &[Volume]) -> LaunchSpec {
    let profile = spec.profile.as_mut().expect("it has one");
    profile.view.volumes = volumes.to_vec();
    spec
}

fn output(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let exit = world.run(spec);
    let (out, err) = (stdout(spec), stderr(spec));
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{exit} {out} {err}"
    );
    out
}

fn refusal(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let Exit {
        outcome, reason, ..
    } = world.run(spec);
    assert_eq!(
        outcome,
        CommandOutcome::NotStarted,
        "{reason}: {}",
        stdout(spec)
    );
    reason
}

fn kinds() {
    let mut world = RootFixture::new();
    let line = "cd /; echo one > data/f; cat sandbox/a/b/f; echo two > data/fast/g; cat data/fast/g; \
        echo t > tmp/t; stat -c '%a %u %g' run/secrets/db; cat run/secrets/db; \
        (echo no > run/secrets/db) 2>/dev/null || echo kept; rm -f run/secrets/db 2>/dev/null || echo stays; \
        grep -c ' /data/fast .*nosuid,nodev,noexec' proc/self/mountinfo; \
        grep -c ' /run/secrets/db ro,nosuid,nodev,noexec' proc/self/mountinfo; grep -c ' /tmp ' proc/self/mountinfo";
    // An inner one is named before the one that contains it.
    let volumes = [
        tmpfs("/data/fast"),
        directory("/data", "a/b"),
        tmpfs("/tmp"),
        secret_volume(&world, "/run/secrets/db", "s3cret\n"),
    ];
    let spec = with(profiled(&mut world, line), &volumes);
    let expected = "one\ntwo\n400 65534 65534\ns3cret\nkept\nstays\n1\n1\n2\n";
    assert_eq!(output(&mut world, &spec), expected);
    let owner = |path: &str| fs::metadata(spec.sandbox.join(path)).unwrap().uid();
    for path in ["a", "a/b", "a/b/f"] {
        assert_eq!(owner(path), FIRST_HOST_ID + COMMAND_ID, "{path}");
    }
    assert!(
        !spec.sandbox.join("a/b/fast/g").exists(),
        "it was in memory"
    );
}

fn memory() {
    let mut world = RootFixture::new();
    let line = "head -c 900000 /dev/zero > /fast/small && echo fits; \
        head -c 2000000 /dev/zero > /fast/large 2>/dev/null || echo full; rm /fast/*; \
        cp /bin/true /fast/tool && chmod 755 /fast/tool && /fast/tool 2>/dev/null || echo inert";
    let spec = with(profiled(&mut world, line), &[tmpfs("/fast")]);
    assert_eq!(output(&mut world, &spec), "fits\nfull\ninert\n");
}

fn read_only() {
    let mut world = RootFixture::new();
    let line = "cat /conf/file; (echo x > /conf/file) 2>/dev/null || echo kept; echo y > /sandbox/conf/file; cat /conf/file";
    let mut conf = directory("/conf", "conf");
    conf.read_only = true;
    let spec = with(profiled(&mut world, line), &[conf]);
    let path = spec.sandbox.join("conf");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "fetched\n").unwrap();
    for path in [path.join("file"), path] {
        let user = Some(FIRST_HOST_ID + COMMAND_ID);
        std::os::unix::fs::chown(path, user, user).unwrap();
    }
    assert_eq!(output(&mut world, &spec), "fetched\nkept\ny\n");
}

/// Returns all files below a directory that contain this; links are not followed.
fn files_with(directory: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
            && bytes.windows(text.len()).any(|window| window == text)
        {
            found.push(entry.path());
        }
    }
    found
}

/// Whether a process has this anywhere in its memory.
fn remembers(pid: i32, text: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let ranges = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        rest.starts_with('r')
            .then_some((number(from)?, number(to)?))
    });
    ranges.into_iter().any(|(from, to)| {
        let mut bytes = vec![0; (to - from) as usize];
        // Pages of the kernel cannot be read.
        let read = memory.read_at(&mut bytes, from).unwrap_or(0);
        bytes[..read]
            .windows(text.len())
            .any(|window| window == text)
    })
}

fn forgotten() {
    let mut world = RootFixture::new();
    let canary = format!(
        "canary-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    );
    let mut spec = profiled(&mut world, "true");
    // After the part that the next, smaller request overwrites.
    for (name, value) in [("FILL", "x".repeat(20_000)), ("TOKEN", canary.clone())] {
        spec.environment.push((name.to_owned(), value));
    }
    world.run(&spec);
    let spec = profiled(&mut world, "exec sleep 600");
    let (container, handle) = world.start(&spec);
    let launcher = world.launcher.as_ref().unwrap().pid() as i32;
    for pid in [launcher, handle.supervisor.pid, handle.init.pid] {
        assert!(!remembers(pid, canary.as_bytes()), "process {pid}");
    }
    crate::exec_confinement::end(container);
}

fn secret() {
    let mut world = RootFixture::new();
    let canary = format!(
        "canary-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    );
    let line = "env; cat /proc/self/environ; read -r first < /key; echo ${#first}; exec sleep 600";
    let volumes = [secret_volume(&world, "/key", &canary)];
    let spec = with(profiled(&mut world, line), &volumes);
    let (mut container, handle) = world.start(&spec);
    let length = canary.len().to_string();
    eventually("it has read its secret", || {
        stdout(&spec).ends_with(&format!("{length}\n"))
    });
    let operators = world.work().join("secrets/web/db");
    let only = std::slice::from_ref(&operators);
    assert_eq!(files_with(world.work(), canary.as_bytes()), only);
    let launcher = world.launcher.as_ref().unwrap().pid() as i32;
    for pid in [launcher, handle.supervisor.pid, handle.init.pid] {
        assert!(!remembers(pid, canary.as_bytes()), "process {pid}");
    }
    assert!(
        remembers(std::process::id() as i32, canary.as_bytes()),
        "it can be found at all"
    );
    container.kill(0).unwrap();
    container.wait(crate::fixture::TIMEOUT).unwrap();
    assert_eq!(files_with(world.work(), canary.as_bytes()), only);
}

fn delivered() {
    let mut world = RootFixture::new();
    let canary = format!(
        "canary-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    );
    let mut file = fs::File::from(memfd_create("secrets", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(format!("other{canary}").as_bytes()).unwrap();
    let secret = |offset, bytes| VolumeSource::Delivered(DeliveredSecret { offset, bytes });
    let volumes = [
        volume("/key", secret(5, canary.len() as u64)),
        volume("/other", secret(0, 5)),
    ];
    let line =
        "read -r first < /key; echo ${#first}; cat /other; stat -c ' %a' /key; exec sleep 600";
    let spec = with(profiled(&mut world, line), &volumes);
    let launcher = world.launcher.as_mut().unwrap();
    // The description and the file must come together.
    assert!(launcher.launch(&spec).is_err());
    let descriptors = LaunchDescriptors {
        namespace: None,
        secrets: Some(file.as_fd()),
    };
    let mut container = launcher.launch_with(&spec, descriptors).unwrap();
    let handle = container.wait_started(TIMEOUT).unwrap().unwrap();
    let expected = format!("{}\nother 400\n", canary.len());
    eventually("it has read its secrets", || stdout(&spec) == expected);
    assert_eq!(file.metadata().unwrap().len(), 0, "it was emptied");
    let nowhere: [PathBuf; 0] = [];
    assert_eq!(files_with(world.work(), canary.as_bytes()), nowhere);
    let launcher = world.launcher.as_ref().unwrap().pid() as i32;
    for pid in [launcher, handle.supervisor.pid, handle.init.pid] {
        assert!(!remembers(pid, canary.as_bytes()), "process {pid}");
    }
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
    // A part that the file does not have.
    let spec = with(
        profiled(&mut world, "true"),
        &[volume("/key", secret(0, 1))],
    );
    let launcher = world.launcher.as_mut().unwrap();
    let mut container = launcher.launch_with(&spec, descriptors).unwrap();
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(exit.outcome, CommandOutcome::NotStarted, "{}", exit.reason);
}

fn absent() {
    let mut world = RootFixture::new();
    let there = secret_volume(&world, "/key", "x");
    let VolumeSource::Secret(secret) = &there.source else {
        unreachable!("it is a secret");
    };
    let none = SecretFile {
        name: "web/none".into(),
        ..secret.clone()
    };
    let spec = profiled(&mut world, "true");
    let spec = with(spec, &[volume("/key", VolumeSource::Secret(none))]);
    let reason = refusal(&mut world, &spec);
    assert!(reason.contains("no secret \"web/none\""), "{reason}");
}

fn image() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let line = "cd /; id -u; echo one > new/deep/f; cat sandbox/d/f; echo two > home/web/g; cat home/web/g; \
        stat -c '%a %u' run/key; cat run/key; cat deep/c";
    let volumes = [
        directory("/new/deep", "d"),
        tmpfs("/home/web"),
        secret_volume(&world, "/run/key", "s3cret\n"),
    ];
    let mut spec = with(imaged(&mut world, &layers, line), &volumes);
    spec.user = None;
    spec.image_user = Some("web".to_owned());
    std::os::unix::fs::chown(&spec.sandbox, Some(FIRST_HOST_ID), Some(FIRST_HOST_ID)).unwrap();
    let expected = "1000\none\ntwo\n400 1000\ns3cret\nkept";
    assert_eq!(output(&mut world, &spec), expected);
    let upper = spec.directory.join("upper");
    assert!(upper.join("new/deep").is_dir(), "made where its changes go");
    assert_eq!(
        fs::read(upper.join("run/key")).unwrap(),
        b"",
        "a place, and nothing in it"
    );
}

fn links() {
    let mut world = RootFixture::new();
    let layers = usual(&mut world);
    let trap = crate::images::layer(
        &mut world,
        "trap",
        &[(b'2', "srv", 0, b"/sandbox"), (b'2', "key", 0, b"/motd")],
    );
    let layers = [layers, vec![trap]].concat();
    for trapped in [
        tmpfs("/srv"),
        tmpfs("/srv/x"),
        secret_volume(&world, "/key", "x"),
    ] {
        let spec = with(imaged(&mut world, &layers, "true"), &[trapped]);
        let reason = refusal(&mut world, &spec);
        assert!(reason.contains("another entry in its place"), "{reason}");
    }
    for target in ["/etc", "..", "file"] {
        let spec = with(profiled(&mut world, "true"), &[directory("/data", "a/b")]);
        fs::create_dir(spec.sandbox.join("a")).unwrap();
        symlink(target, spec.sandbox.join("a/b")).unwrap();
        let reason = refusal(&mut world, &spec);
        assert!(reason.contains("directory a/b of the sandbox"), "{reason}");
        assert!(reason.contains("a link is in its place"), "{reason}");
    }
}

fn nowhere() {
    let mut world = RootFixture::new();
    let spec = with(
        profiled(&mut world, "true"),
        &[tmpfs("/usr/nowhere/at/all")],
    );
    let reason = refusal(&mut world, &spec);
    assert!(
        reason.contains("the volume at /usr/nowhere/at/all"),
        "{reason}"
    );
    assert!(reason.contains("choose a path outside"), "{reason}");
    // A file that the host has can be covered.
    let line = "echo x > /opt/f && cat /opt/f";
    let spec = with(profiled(&mut world, line), &[tmpfs("/opt")]);
    assert_eq!(output(&mut world, &spec), "x\n");
}
