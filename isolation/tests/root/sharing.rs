//! Tests of sharing: a network for a group of containers only, a directory, and the users of its
//! files.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use argosy_isolation::profile::{CONTAINER_IDS, FIRST_HOST_ID};
use argosy_isolation::{CommandOutcome, LaunchSpec, Network};
use argosy_network::create_isolated;

use crate::fixture::{RootFixture, TIMEOUT, TestCase, stderr, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "containers_that_share_a_directory_see_each_others_files_but_not_processes",
        directory,
    ),
    (
        "a_shared_directory_is_accessible_only_to_containers_with_its_users",
        other_users,
    ),
    (
        "containers_that_share_an_isolated_network_communicate",
        network,
    ),
];

/// Creates a directory as an agent does: closed to the host, open to the containers that mount it.
fn shared(world: &RootFixture) -> std::path::PathBuf {
    let above = world.work().join("closed");
    std::fs::create_dir(&above).unwrap();
    let directory = above.join("shared");
    std::fs::create_dir(&directory).unwrap();
    for (path, mode) in [(&above, 0o700), (&directory, 0o777)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    directory
}

fn sharing(world: &mut RootFixture, directory: &Path, line: &str) -> LaunchSpec {
    let mut spec = profiled(world, line);
    spec.shared_directory = Some(directory.to_owned());
    spec
}

fn passes(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let exit = world.run(spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(spec));
    stdout(spec)
}

fn directory() {
    let mut world = RootFixture::new();
    let directory = shared(&world);
    let line = "umask 077; echo mine > /group/file; until [ -e /group/read ]; do sleep 0.02; done";
    let writer = sharing(&mut world, &directory, line);
    let (mut container, _) = world.start(&writer);
    let line = "until [ -s /group/file ]; do sleep 0.02; done; cat /group/file; set -- /proc/[0-9]*; echo $#; echo > /group/read";
    let reader = sharing(&mut world, &directory, line);
    // The shell alone: its init is hidden, and the other container's processes are in another
    // namespace.
    assert_eq!(passes(&mut world, &reader), "mine\n1\n");
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Exited(0)
    );
    let owner = std::fs::metadata(directory.join("file")).unwrap().uid();
    assert!((FIRST_HOST_ID..FIRST_HOST_ID + CONTAINER_IDS).contains(&owner));
}

fn other_users() {
    let mut world = RootFixture::new();
    let directory = shared(&world);
    let line = "umask 077; echo secret > /group/file";
    let writer = sharing(&mut world, &directory, line);
    passes(&mut world, &writer);
    let mut other = sharing(&mut world, &directory, "cat /group/file || echo refused");
    let profile = other.profile.as_mut().unwrap();
    profile.first_host_id = FIRST_HOST_ID + CONTAINER_IDS;
    crate::profile::give_sandbox(&other);
    assert_eq!(passes(&mut world, &other), "refused\n");
    let none = profiled(&mut world, "ls -d /group 2>/dev/null || echo none");
    assert_eq!(passes(&mut world, &none), "none\n");
}

fn network() {
    let mut world = RootFixture::new();
    let namespace = create_isolated().unwrap();
    let directory = shared(&world);
    let launch = |world: &mut RootFixture, line: &str| {
        let mut spec = sharing(world, &directory, line);
        spec.network = Network::Joined;
        let launcher = world.launcher.as_mut().unwrap();
        let container = launcher.launch_joined(&spec, namespace.as_fd()).unwrap();
        (spec, container)
    };
    let serve = r#"exec perl -MIO::Socket::INET -e '
        my $door = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 80) or die $!;
        my $caller = $door->accept; print $caller "hello\n"; close $caller;'"#;
    let (served, mut server) = launch(&mut world, serve);
    let ask = "until bash -c 'exec 3<>/dev/tcp/127.0.0.1/80 && cat <&3' 2>/dev/null; do sleep 0.02; done; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '";
    let (asked, mut caller) = launch(&mut world, ask);
    let exit = caller.wait(TIMEOUT).unwrap();
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{}",
        stderr(&asked)
    );
    let (heard, devices) = stdout(&asked).split_once('\n').map_or_else(
        || panic!("it heard nothing"),
        |(heard, devices)| (heard.to_owned(), devices.to_owned()),
    );
    assert_eq!(heard, "hello");
    assert!(!devices.contains("eth"), "{devices}");
    let exit = server.wait(TIMEOUT).unwrap();
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{}",
        stderr(&served)
    );
}
