//! Tests of host paths: mount points, owners and write access.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use argosy_isolation::profile::COMMAND_ID;
use argosy_isolation::{Capabilities, CommandOutcome, ContainerUser, HostPath, OwnerMapping};

use crate::exec_confinement::{end, refusal, request, run};
use crate::fixture::{RootFixture, TestCase, stderr, stdout};
use crate::profile::{give_sandbox, profiled};

pub(crate) const CASES: &[TestCase] = &[
    ("a_host_path_is_mounted_at_its_own_path", host_path),
    (
        "a_host_path_can_be_mounted_read_only_at_another_path",
        elsewhere,
    ),
    (
        "root_of_a_container_has_no_special_rights_on_a_host_path",
        unmapped_root,
    ),
    (
        "a_host_path_that_leads_through_a_link_is_not_mounted",
        turned,
    ),
    (
        "an_exec_command_has_no_other_user_where_users_are_those_of_the_host",
        exec_as_other_users,
    ),
];

/// Returns a host path at the same path inside, writable.
pub(crate) fn at_home(path: &Path) -> HostPath {
    HostPath {
        from: path.to_owned(),
        to: path.to_owned(),
        read_only: false,
        owners: OwnerMapping::Mapped,
    }
}

/// Creates a directory of this user, with a file that only that user may read.
fn private_directory(path: &Path, owner: u32) {
    fs::create_dir(path).unwrap();
    let file = path.join("file");
    fs::write(&file, "private\n").unwrap();
    fs::write(path.join("open"), "open\n").unwrap();
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(&file, mode).unwrap();
    for path in [path, &file] {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
}

fn elsewhere() {
    let mut world = RootFixture::new();
    let (conf, data) = (world.work().join("conf"), world.work().join("data"));
    private_directory(&conf, COMMAND_ID);
    private_directory(&data, COMMAND_ID);
    // A mount below it on the host is not part of it, whatever it permits.
    let below = conf.join("below");
    fs::create_dir(&below).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=777", "none"])
        .arg(&below)
        .status();
    assert!(mounted.unwrap().success());
    fs::write(below.join("hidden"), "x").unwrap();
    let mut spec = profiled(
        &mut world,
        "cat /conf/file; for path in /conf/file /conf/new /conf/below/new /conf/below/hidden; do \
            (echo no > $path) 2>/dev/null || echo kept; done; \
            chmod 777 /conf/file 2>/dev/null || echo kept; rm -f /conf/open 2>/dev/null || echo kept; \
            ls /conf/below | wc -l; cat /one; (echo no > /one) 2>/dev/null || echo kept; \
            echo changed > /deep/er/file; cat /deep/er/file; \
            grep -E ' /(conf|deep/er|one) ' /proc/self/mountinfo | grep -c -E 'shared:|master:'; \
            grep ' /conf ' /proc/self/mountinfo | grep -c ' ro,nosuid,nodev'",
    );
    let moved = |from: &Path, to: &str, read_only| HostPath {
        from: from.to_owned(),
        to: to.into(),
        read_only,
        owners: OwnerMapping::Mapped,
    };
    spec.profile.as_mut().unwrap().view.host_paths = vec![
        moved(&conf, "/conf", true),
        moved(&data, "/deep/er", false),
        moved(&conf.join("open"), "/one", true),
    ];
    let exit = world.run(&spec);
    let unmounted = Command::new("umount").arg(&below).status();
    assert!(unmounted.unwrap().success());
    let kept = "kept\n".repeat(6);
    let wanted = format!("private\n{kept}0\nopen\nkept\nchanged\n0\n1\n");
    assert_eq!(stdout(&spec), wanted, "{exit} {}", stderr(&spec));
    let changed = fs::read_to_string(data.join("file")).unwrap();
    assert_eq!(changed, "changed\n");
}

fn unmapped_root() {
    let mut world = RootFixture::new();
    let conf = world.work().join("conf");
    private_directory(&conf, 0);
    let root = ContainerUser {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };
    // Root of the container with all its privileges reads what all users may, and writes nothing.
    let line = "id -u; cat /conf/open; cat /conf/file 2>/dev/null || echo hidden; \
        (echo no > /conf/open) 2>/dev/null || echo kept; (echo no > /conf/new) 2>/dev/null || echo kept; \
        chown 1:1 /conf/open 2>/dev/null || echo kept; stat -c %u /conf/open";
    let mut spec = profiled(&mut world, line);
    spec.user = Some(root);
    give_sandbox(&spec);
    let profile = spec.profile.as_mut().unwrap();
    let all = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID"];
    profile.isolation_layers.capabilities = Capabilities::named(all).unwrap();
    let path = HostPath {
        from: conf.clone(),
        to: "/conf".into(),
        read_only: true,
        owners: OwnerMapping::Unmapped,
    };
    profile.view.host_paths = vec![path.clone()];
    let exit = world.run(&spec);
    let wanted = "0\nopen\nhidden\nkept\nkept\nkept\n65534\n";
    assert_eq!(stdout(&spec), wanted, "{exit} {}", stderr(&spec));
    for (read_only, owners) in [
        (true, OwnerMapping::Mapped),
        (false, OwnerMapping::Unmapped),
    ] {
        spec.profile.as_mut().unwrap().view.host_paths = vec![HostPath {
            read_only,
            owners,
            ..path.clone()
        }];
        assert!(spec.check().is_err(), "{owners:?}");
    }
}

fn turned() {
    let mut world = RootFixture::new();
    let (real, link) = (world.work().join("real"), world.work().join("link"));
    private_directory(&real, COMMAND_ID);
    // Checked as a directory, and a link by the time of the mount.
    symlink(&real, &link).unwrap();
    for from in [link.clone(), link.join("file")] {
        let mut spec = profiled(&mut world, "true");
        spec.profile.as_mut().unwrap().view.host_paths = vec![HostPath {
            to: "/conf".into(),
            ..at_home(&from)
        }];
        let exit = world.run(&spec);
        assert_eq!(exit.outcome, CommandOutcome::NotStarted, "{exit}");
        assert!(exit.reason.contains("without following a link"), "{exit}");
    }
}

fn host_path() {
    let mut world = RootFixture::new();
    let shared = world.work().join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(COMMAND_ID), Some(COMMAND_ID)).unwrap();
    let mut spec = profiled(
        &mut world,
        &format!(
            "echo kept > {}/file; ls {}/..",
            shared.display(),
            shared.display()
        ),
    );
    spec.profile.as_mut().unwrap().view.host_paths = vec![at_home(&shared)];
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "{}",
        stderr(&spec)
    );
    assert_eq!(stdout(&spec), "shared\n", "and nothing else");
    let file = shared.join("file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept\n");
    assert_eq!(
        fs::metadata(&file).unwrap().uid(),
        COMMAND_ID,
        "the host's user nobody"
    );
}

fn exec_as_other_users() {
    let mut world = RootFixture::new();
    let (private, own) = (world.work().join("private"), world.work().join("own"));
    private_directory(&private, 1_000);
    private_directory(&own, COMMAND_ID);
    let mut spec = profiled(&mut world, "exec sleep 1000");
    spec.profile.as_mut().unwrap().view.host_paths = vec![at_home(&private), at_home(&own)];
    let (container, _) = world.start(&spec);
    let user = |uid, gid, groups: &[u32]| ContainerUser {
        uid,
        gid,
        groups: groups.to_vec(),
    };
    let (other, line) = (1_000, format!("cat {}/file", private.display()));
    for user in [
        user(other, other, &[]),
        user(COMMAND_ID, other, &[]),
        user(COMMAND_ID, COMMAND_ID, &[other]),
    ] {
        let mut asked = request(&line);
        asked.user = Some(user);
        let reason = refusal(&container, &asked);
        assert!(reason.contains("users are those of the host"), "{reason}");
    }
    let mut named = request(&line);
    named.user_name = Some(format!("{other}:{other}"));
    let reason = refusal(&container, &named);
    assert!(reason.contains("users are those of the host"), "{reason}");
    // The command's own user, also with its main group listed twice.
    let mut asked = request(&format!("cat {}/file", own.display()));
    for user in [
        None,
        Some(user(COMMAND_ID, COMMAND_ID, &[])),
        Some(user(COMMAND_ID, COMMAND_ID, &[COMMAND_ID])),
    ] {
        asked.user = user;
        let (out, err, _) = run(&container, &asked, b"");
        assert_eq!(out, "private\n", "{err}");
    }
    end(container);
}
