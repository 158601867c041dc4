//! Tests of security options: what a command with one can do, and that it can do no more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::{Capabilities, CommandOutcome, ContainerUser, LaunchSpec, Launcher};

use crate::escapes::PYTHON;
use crate::fixture::{RootFixture, TestCase, skip, stderr, stdout};
use crate::images::{imaged, store};
use crate::profile::{give_sandbox, profiled};

pub(crate) const CASES: &[TestCase] = &[
    (
        "programs_that_change_users_and_owners_need_the_capabilities",
        changes_users,
    ),
    ("only_the_named_capabilities_are_kept", only_named),
    (
        "an_unprivileged_user_keeps_the_named_capabilities",
        kept_by_unprivileged,
    ),
    ("an_exec_session_has_the_same_capabilities", entered),
    (
        "set_user_id_programs_of_an_image_need_new_privileges",
        set_user_id,
    ),
    (
        "nested_user_namespaces_require_their_own_security_option",
        nested,
    ),
    (
        "without_the_seccomp_filter_all_other_layers_apply",
        unfiltered,
    ),
    (
        "a_container_that_may_change_users_gets_no_host_path",
        no_host_path,
    ),
    (
        "a_container_has_no_keys_of_the_user_that_started_the_agent",
        keyring,
    ),
];

pub(crate) const ROOT: ContainerUser = ContainerUser {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};
/// Prints the capability sets of a process, and `no_new_privs` and seccomp.
const SHOW: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'";

/// Returns a launch of this line as root of the container, with these layers.
pub(crate) fn with_layers(
    world: &mut RootFixture,
    isolation_layers: IsolationLayers,
    line: &str,
) -> LaunchSpec {
    let mut spec = profiled(world, line);
    spec.user = Some(ROOT);
    spec.profile.as_mut().unwrap().isolation_layers = isolation_layers;
    give_sandbox(&spec);
    spec
}

fn keeping(names: &[&str]) -> IsolationLayers {
    IsolationLayers {
        capabilities: Capabilities::named(names.iter().copied()).unwrap(),
        ..IsolationLayers::ALL
    }
}

fn output_of(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let exit = world.run(spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{} {}{}",
        exit.reason,
        stdout(spec),
        stderr(spec)
    );
    stdout(spec)
}

/// Acts as a server that is started as root: gives its files to a user, and switches to it.
const BECOME: &str = "touch mine; chown 33:34 mine 2>/dev/null && stat -c %u:%g mine || echo cannot give away; \
    setpriv --reuid 33 --regid 34 --clear-groups sh -c 'id -u; id -g; grep CapPrm /proc/self/status' 2>/dev/null || echo cannot become";

fn changes_users() {
    let mut world = RootFixture::new();
    let spec = with_layers(&mut world, IsolationLayers::ALL, BECOME);
    assert_eq!(
        output_of(&mut world, &spec),
        "cannot give away\ncannot become\n"
    );
    let kept = keeping(&["CHOWN", "SETUID", "SETGID"]);
    let spec = with_layers(&mut world, kept, BECOME);
    // A process that is no longer root has no capability left.
    assert_eq!(
        output_of(&mut world, &spec),
        "33:34\n33\n34\nCapPrm:\t0000000000000000\n"
    );
}

fn only_named() {
    let mut world = RootFixture::new();
    let spec = with_layers(&mut world, keeping(&["CHOWN", "KILL"]), SHOW);
    let (kept, none) = ("0000000000000021", "0000000000000000");
    let expected = format!(
        "CapInh:{none}\nCapPrm:{kept}\nCapEff:{kept}\nCapBnd:{kept}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2\n"
    );
    assert_eq!(output_of(&mut world, &spec), expected);
    let refused = "setpriv --reuid 33 true 2>/dev/null || echo no user; chroot / true 2>/dev/null || echo no root; \
        mount -t tmpfs none /tmp 2>/dev/null || echo no mount; hostname x 2>/dev/null || echo no name; \
        cat /etc/shadow >/dev/null 2>&1 || echo no file of the host";
    let spec = with_layers(&mut world, keeping(&["CHOWN", "DAC_OVERRIDE"]), refused);
    assert_eq!(
        output_of(&mut world, &spec),
        "no user\nno root\nno mount\nno name\nno file of the host\n"
    );
}

fn kept_by_unprivileged() {
    let mut world = RootFixture::new();
    let mut spec = profiled(
        &mut world,
        &format!("{SHOW}; touch mine; chown 33:34 mine && stat -c %u:%g mine"),
    );
    spec.profile.as_mut().unwrap().isolation_layers = keeping(&["CHOWN"]);
    let kept = "0000000000000001";
    let expected = format!(
        "CapInh:{kept}\nCapPrm:{kept}\nCapEff:{kept}\nCapBnd:{kept}\nCapAmb:{kept}\nNoNewPrivs:1\nSeccomp:2\n33:34\n"
    );
    assert_eq!(output_of(&mut world, &spec), expected);
}

fn entered() {
    let mut world = RootFixture::new();
    let spec = with_layers(
        &mut world,
        keeping(&["CHOWN", "SETUID", "SETGID"]),
        "exec sleep 1000",
    );
    let (container, _) = world.start(&spec);
    let line = "setpriv --reuid 33 --regid 34 --clear-groups id -u; grep CapEff /proc/self/status";
    let found = crate::exec_confinement::output(&container, line);
    assert_eq!(found, "33\nCapEff:\t00000000000000c1\n");
    crate::exec_confinement::end(container);
}

/// Returns a program of a few instructions that exits with its effective user id, of which a status
/// has the lowest 8 bits. Programs of the host would need its libraries.
fn whoami() -> Vec<u8> {
    let code: [u8; 16] = [
        0xb8, 107, 0, 0, 0, // mov eax, geteuid
        0x0f, 0x05, // syscall
        0x89, 0xc7, // mov edi, eax
        0xb8, 60, 0, 0, 0, // mov eax, exit
        0x0f, 0x05, // syscall
    ];
    let (base, head) = (0x40_0000_u64, 64 + 56_u64);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    // From elf(5): executable for x86-64, one segment that is loaded completely.
    put(&2_u16.to_le_bytes());
    put(&62_u16.to_le_bytes());
    put(&1_u32.to_le_bytes());
    for word in [base + head, 64, 0] {
        put(&word.to_le_bytes());
    }
    put(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    put(&1_u32.to_le_bytes());
    put(&5_u32.to_le_bytes());
    let size = head + code.len() as u64;
    for word in [0, base, base, size, size, 0x1000] {
        put(&word.to_le_bytes());
    }
    put(&code);
    file
}

fn set_user_id() {
    if std::env::consts::ARCH != "x86_64" {
        skip("the program is one of x86-64".to_owned());
    }
    let mut world = RootFixture::new();
    let program = whoami();
    let layers = store(&mut world, &[&[(b'0', "who", 0, &program[..])]]);
    let place = layers[1].join("who");
    fs::set_permissions(place, fs::Permissions::from_mode(0o4755)).unwrap();
    for (privileges, user) in [(true, 1_000 % 256), (false, 0)] {
        let mut spec = imaged(
            &mut world,
            &layers,
            "/who; echo $?; grep NoNewPrivs /proc/self/status",
        );
        spec.image_user = Some("1000:1000".to_owned());
        spec.profile.as_mut().unwrap().isolation_layers.privileges = privileges;
        assert_eq!(
            output_of(&mut world, &spec),
            format!("{user}\nNoNewPrivs:\t{}\n", u8::from(privileges))
        );
    }
}

fn nested() {
    let mut world = RootFixture::new();
    let line = "unshare -r sh -c 'grep CapEff /proc/self/status; mount -t tmpfs none /tmp 2>/dev/null || echo no mount' 2>&1 | head -2";
    let mut ended = |isolation_layers| {
        let mut spec = profiled(&mut world, line);
        spec.profile.as_mut().unwrap().isolation_layers = isolation_layers;
        output_of(&mut world, &spec)
    };
    let refused = ended(IsolationLayers::ALL);
    assert!(refused.contains("Operation not permitted"), "{refused}");
    let unfiltered = IsolationLayers {
        system_calls: false,
        ..IsolationLayers::ALL
    };
    // The setting of its user namespace refuses what the filter would have.
    let refused = ended(unfiltered);
    assert!(refused.contains("No space left"), "{refused}");
    let made = ended(IsolationLayers {
        user_namespaces: false,
        ..IsolationLayers::ALL
    });
    assert!(made.starts_with("CapEff:\t000001ffffffffff"), "{made}");
    assert!(made.ends_with("no mount\n"), "{made}");
}

fn unfiltered() {
    let mut world = RootFixture::new();
    let isolation_layers = IsolationLayers {
        system_calls: false,
        ..IsolationLayers::ALL
    };
    let none = "0000000000000000";
    let spec = with_layers(&mut world, isolation_layers, SHOW);
    let expected = format!(
        "CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:0\n"
    );
    assert_eq!(output_of(&mut world, &spec), expected);
}

/// Prints the number of its session keyring, whose keys its processes possess. 250 is keyctl on
/// x86-64.
const KEYRING: &str =
    "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, ctypes.c_int(-3), 0), flush=True)";
/// Joins a new keyring before it executes its arguments.
const JOINED: &str = "import ctypes, os, sys; ctypes.CDLL(None).syscall(250, 1, b'starter'); os.execv(sys.argv[1], sys.argv[1:])";

fn keyring() {
    if !Path::new(PYTHON).exists() || std::env::consts::ARCH != "x86_64" {
        skip("needs the package python3".to_owned());
    }
    let begin = || {
        let mut command = Command::new(PYTHON);
        command.args(["-I", "-S", "-c", JOINED]);
        command
    };
    let mut world = RootFixture::new();
    let mut command = begin();
    command
        .arg(std::env::current_exe().unwrap())
        .arg("launcher");
    world.launcher = Some(Launcher::spawn(&command, Some(&world.tree)).unwrap());
    let unfiltered = IsolationLayers {
        system_calls: false,
        ..IsolationLayers::ALL
    };
    let line = format!("exec {PYTHON} -I -S -c '{KEYRING}'");
    let spec = with_layers(&mut world, unfiltered, &line);
    let inside: i64 = output_of(&mut world, &spec).trim().parse().unwrap();
    assert!(inside > 0, "it has one: {inside}");
    let keys = fs::read_to_string("/proc/keys").unwrap();
    let starters = format!("{inside:08x}");
    let described = keys.lines().find(|line| line.starts_with(&starters));
    assert!(
        !described.is_some_and(|line| line.contains("starter")),
        "{described:?}"
    );
}

fn no_host_path() {
    let mut world = RootFixture::new();
    let new_privileges = IsolationLayers {
        privileges: false,
        ..IsolationLayers::ALL
    };
    for isolation_layers in [keeping(&["CHOWN"]), new_privileges] {
        let mut spec = profiled(&mut world, "true");
        let profile = spec.profile.as_mut().unwrap();
        profile.isolation_layers = isolation_layers;
        profile.view.host_paths = vec![crate::host_paths::at_home("/srv".as_ref())];
        let refused = spec.check().unwrap_err().to_string();
        assert!(
            refused.contains("on host paths its users are the host's"),
            "{refused}"
        );
    }
}
