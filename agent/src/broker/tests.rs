//! Requests of a compromised agent that its broker refuses.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use argosy_host::ContainerId;
use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::service::PacketSocket;
use argosy_isolation::{
    Capabilities, CgroupTree, HostPath, Image, Isolation, IsolationProfile, LaunchSpec, MountSpec,
    Network, OwnerMapping, Program, RootFs, SecretFile, Volume, VolumeSource, cgroup,
};
use argosy_testing::skip;

use super::guard::{self, RequestPolicy};
use super::*;
use crate::broker_client::link;
use crate::broker_client::request::*;
use crate::config::Config;
use crate::core::ContainerName;
use crate::paths::Paths;
use crate::runner::{HelperCommands, LauncherCommand};
use crate::sandbox::HostPathUser;
use argosy_content::service::ServiceCommand;
use argosy_isolation::ContainerUser;
use argosy_isolation::division::HostUser;
use argosy_isolation::unpack::{ArchiveFormat, UnpackLimits};

const FIRST: u32 = 0x0010_0000;

fn config(directory: &std::path::Path) -> Config {
    let mut config = Config::new(
        directory.to_owned(),
        vec!["127.0.0.1:5050".to_owned()],
        "127.0.0.1:5051".to_owned(),
    );
    config.host_paths = vec!["/usr/share".into()];
    config.secret_dir = Some("/etc/argosy-secrets".into());
    config.devices = [("one".to_owned(), vec!["/dev/fuse".into()])].into();
    config.allow_missing_controllers = true;
    config
}

fn name() -> ContainerName {
    "1-2-3".parse().unwrap()
}

/// Returns a launch that an agent may request.
fn usual(paths: &Paths) -> LaunchSpec {
    let key = crate::core::task_key("framework-1", "web").unwrap();
    let id = ContainerId::new("1-2-3").unwrap();
    let sandbox = paths.sandbox(&key, name());
    let program = Program::Shell("true".to_owned());
    let mut spec = LaunchSpec::new(id, &paths.container(name()), &sandbox, program);
    spec.output_record = paths.output_record(&key, name());
    spec.network = Network::None;
    spec.profile = Some(IsolationProfile {
        first_host_id: FIRST,
        view: MountSpec {
            root: RootFs::Host,
            host_paths: vec![seen("/usr/share/doc"), seen(paths.executor(name()))],
            volumes: vec![secret("/etc/argosy-secrets", "web/db")],
            shm_bytes: 1 << 20,
            tmp_bytes: 1 << 20,
        },
        isolation_layers: IsolationLayers::ALL,
    });
    spec.devices = vec!["/dev/fuse".into()];
    spec
}

fn seen(path: impl Into<std::path::PathBuf>) -> HostPath {
    let path = path.into();
    HostPath {
        from: path.clone(),
        to: path,
        read_only: false,
        owners: OwnerMapping::Mapped,
    }
}

fn secret(directory: &str, name: &str) -> Volume {
    Volume {
        path: "/run/secret".into(),
        read_only: true,
        source: VolumeSource::Secret(SecretFile {
            directory: directory.into(),
            name: name.into(),
        }),
    }
}

fn image(layer: std::path::PathBuf, changes: std::path::PathBuf) -> RootFs {
    RootFs::Image(Image {
        layers: vec![layer],
        upper: changes.join("upper"),
        work: changes.join("work"),
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of what is refused")]
fn launches_outside_the_operators_settings_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let guard = RequestPolicy::new(&config(dir.path()), &paths, Isolation::Full, None);
    let check = |spec: &LaunchSpec, network: Option<&OwnedFd>| {
        guard.check(spec, network, |first| first == FIRST)
    };
    check(&usual(&paths), None).unwrap();
    let layer = paths
        .images()
        .join("layers")
        .join("a".repeat(64))
        .join("root");
    let own = paths.container(name()).join("changes");
    let view = |spec: &mut LaunchSpec, change: &dyn Fn(&mut MountSpec)| {
        change(&mut spec.profile.as_mut().unwrap().view);
    };
    let mut imaged = usual(&paths);
    view(&mut imaged, &|view| {
        view.root = image(layer.clone(), own.clone())
    });
    check(&imaged, None).unwrap();
    let mut nested = usual(&paths);
    view(&mut nested, &|view| {
        view.volumes = vec![secret("/etc/argosy-secrets", "eng/backend/db")]
    });
    check(&nested, None).unwrap();
    type SpecChange<'a> = (&'static str, Box<dyn Fn(&mut LaunchSpec) + 'a>);
    let changes: Vec<SpecChange<'_>> = vec![
        ("without a profile", Box::new(|spec| spec.profile = None)),
        (
            "with users of others",
            Box::new(|spec| {
                spec.profile.as_mut().unwrap().first_host_id = 0;
            }),
        ),
        (
            "in the host's network",
            Box::new(|spec| {
                spec.network = Network::Host {
                    ports: Some(Vec::new()),
                };
            }),
        ),
        (
            "in a network that does not come with it",
            Box::new(|spec| {
                spec.network = Network::Joined;
            }),
        ),
        (
            "with another directory for its supervisor",
            Box::new(|spec| {
                spec.directory = "/etc".into();
            }),
        ),
        (
            "with a path that leaves its directory",
            Box::new(|spec| {
                spec.directory = spec.directory.join("../../../etc");
            }),
        ),
        (
            "with output elsewhere",
            Box::new(|spec| spec.sandbox = "/etc/cron.d".into()),
        ),
        (
            "with output in another sandbox",
            Box::new(|spec| {
                spec.sandbox = spec.sandbox.with_file_name("1-2-4");
            }),
        ),
        (
            "with a path that leaves its sandbox",
            Box::new(|spec| {
                let away = spec.sandbox.join("../../../../x/web/1-2-3");
                spec.sandbox = away;
            }),
        ),
        (
            "with its output noted elsewhere",
            Box::new(|spec| {
                spec.output_record = "/etc/passwd".into();
            }),
        ),
        (
            "in another control group",
            Box::new(|spec| {
                spec.cgroup = Some("/sys/fs/cgroup".into());
            }),
        ),
        (
            "sharing the host's directories",
            Box::new(|spec| {
                spec.shared_directory = Some("/etc".into());
            }),
        ),
        (
            "with a path that is not open",
            Box::new(|spec| {
                view(spec, &|view| view.host_paths = vec![seen("/root")]);
            }),
        ),
        (
            "with a path that leaves an allowed one",
            Box::new(|spec| {
                view(spec, &|view| {
                    view.host_paths = vec![seen("/usr/share/../../root")]
                });
            }),
        ),
        (
            "with the place of another executor",
            Box::new(|spec| {
                let other = paths.executor("1-2-4".parse().unwrap());
                view(spec, &|view| view.host_paths = vec![seen(other.clone())]);
            }),
        ),
        (
            "with the host's root",
            Box::new(|spec| {
                view(spec, &|view| view.root = RootFs::Directory("/".into()));
            }),
        ),
        (
            "with a layer elsewhere",
            Box::new(|spec| {
                view(spec, &|view| view.root = image("/".into(), own.clone()));
            }),
        ),
        (
            "with changes elsewhere",
            Box::new(|spec| {
                view(spec, &|view| {
                    view.root = image(layer.clone(), "/etc".into())
                });
            }),
        ),
        (
            "with a secret from elsewhere",
            Box::new(|spec| {
                view(spec, &|view| {
                    view.volumes = vec![secret("/etc/ssl/private", "web/id")]
                });
            }),
        ),
        (
            "with a secret of no role",
            Box::new(|spec| {
                view(spec, &|view| {
                    view.volumes = vec![secret("/etc/argosy-secrets", "db")]
                });
            }),
        ),
        (
            "with a secret whose path leaves its directory",
            Box::new(|spec| {
                view(spec, &|view| {
                    view.volumes = vec![secret("/etc/argosy-secrets", "../shadow")]
                });
            }),
        ),
        (
            "with a device that is the host's",
            Box::new(|spec| {
                spec.devices = vec!["/dev/sda".into()];
            }),
        ),
        (
            "with capabilities",
            Box::new(|spec| {
                let named = Capabilities::named(["SETUID"]).unwrap();
                spec.profile.as_mut().unwrap().isolation_layers.capabilities = named;
            }),
        ),
        (
            "without Landlock",
            Box::new(|spec| {
                spec.profile.as_mut().unwrap().isolation_layers.landlock = false;
            }),
        ),
        (
            "without a filter",
            Box::new(|spec| {
                spec.profile.as_mut().unwrap().isolation_layers.system_calls = false;
            }),
        ),
    ];
    for (what, change) in changes {
        let mut spec = usual(&paths);
        change(&mut spec);
        check(&spec, None).expect_err(what);
    }
    let mut joined = usual(&paths);
    joined.network = Network::Joined;
    // The kernel refuses a namespace of another kind, since the expected kind is passed to it.
    for file in ["/proc/self/ns/net", "/etc/passwd"] {
        let file: OwnedFd = fs::File::open(file).unwrap().into();
        check(&joined, Some(&file)).unwrap_err();
    }
}

#[test]
fn paths_outside_sandboxes_are_rejected() {
    let paths = Paths::new(std::path::Path::new("/var/lib/argosy"));
    let sandbox = paths.sandboxes().join("framework-1/web/1-2-3");
    guard::is_removable(&paths, &sandbox).unwrap();
    guard::is_measurable(&paths, &sandbox).unwrap();
    guard::is_measurable(&paths, &paths.container(name()).join("changes")).unwrap();
    for path in [
        "/",
        "/etc",
        "/var/lib/argosy",
        "/var/lib/argosy/sandboxes",
        "/var/lib/argosy/sandboxes/framework-1/web",
        "/var/lib/argosy/sandboxes/framework-1/web/1-2-3/..",
        "/var/lib/argosy/sandboxes/../../../etc/1-2-3",
        "/var/lib/argosy/sandboxes/a/../1-2-3",
        "/var/lib/argosy/sandboxes/framework-1/web/1-2-3/etc",
        "/var/lib/argosy/containers/1-2-3",
        "/var/lib/argosy/images/layers/1-2-3",
    ] {
        guard::is_removable(&paths, path.as_ref()).unwrap_err();
        guard::is_measurable(&paths, path.as_ref()).unwrap_err();
    }
}

#[test]
fn invalid_messages_are_errors_and_do_not_block() {
    let (one, other) = PacketSocket::pair().unwrap();
    one.send(&"garbage", &[]).unwrap();
    link::receive::<BrokerRequest>(&other).unwrap_err();
    // An accompanying file must be a regular file, and short.
    let (reader, _writer) = std::io::pipe().unwrap();
    use std::os::fd::AsFd;
    one.send(&serde_json::json!("InFile"), &[reader.as_fd()])
        .unwrap();
    link::receive::<BrokerRequest>(&other).unwrap_err();
    one.send(&serde_json::json!("InFile"), &[]).unwrap();
    link::receive::<BrokerRequest>(&other).unwrap_err();
    let long = tempfile::tempfile().unwrap();
    long.set_len(link::MESSAGE_BYTES + 1).unwrap();
    one.send(&serde_json::json!("InFile"), &[long.as_fd()])
        .unwrap();
    link::receive::<BrokerRequest>(&other).unwrap_err();
    let long = vec![name(); 1 << 20];
    link::send(&one, &BrokerRequest::RetainUsers(long), &[]).unwrap_err();
    // A message longer than a packet arrives complete.
    let known = vec![name(); 50_000];
    link::send(&one, &BrokerRequest::RetainUsers(known.clone()), &[]).unwrap();
    match link::receive::<BrokerRequest>(&other).unwrap() {
        Some((BrokerRequest::RetainUsers(read), _)) => assert_eq!(read, known),
        other => panic!("{other:?}"),
    }
    drop(one);
    assert!(link::receive::<BrokerRequest>(&other).unwrap().is_none());
}

/// Returns the operations of an agent whose launcher and content service only wait.
fn opened(dir: &std::path::Path) -> PrivilegedOperations {
    let directory = dir.join("agent");
    prepare(&directory, HostUser::current()).unwrap();
    let commands = HelperCommands {
        launcher: LauncherCommand {
            program: "/bin/cat".into(),
            arguments: Vec::new(),
        },
        content: ServiceCommand {
            // Ends when its socket is closed.
            program: "/bin/cat".into(),
            arguments: Vec::new(),
        },
    };
    let mut config = config(&directory);
    // Not every host has it.
    config.devices.clear();
    let opened = PrivilegedOperations::open(&config, commands, HostUser::current());
    opened.unwrap().0
}

#[test]
fn release_kills_a_container_that_has_a_cgroup() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    let operations = opened(directory.path());
    let ask = |request: BrokerRequest| operations.perform(request, Vec::new());
    let release = |is_ended| {
        let name = name();
        ask(BrokerRequest::Release { name, is_ended }).unwrap();
    };
    let parent = cgroup::default_parent().unwrap().join("argosy");
    let tree = Paths::new(&directory.path().join("agent")).tree_name();
    let group =
        CgroupTree::at(&parent.join(tree.as_str())).group(&ContainerId::new("1-2-3").unwrap());
    group.create().unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    group.add(child.id() as i32).unwrap();
    release(true);
    assert!(!group.path().exists());
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    // Again, as an agent does that has not recorded it.
    release(true);
    release(false);
    ask(BrokerRequest::Shutdown).unwrap();
}

#[test]
fn a_late_request_to_end_a_content_service_does_not_end_its_successor() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    let operations = opened(directory.path());
    let ask = |request: BrokerRequest| operations.perform(request, Vec::new());
    let start = || match ask(BrokerRequest::StartContent).unwrap() {
        (BrokerReply::ContentStarted(process), socket) => (process, socket),
        other => panic!("{other:?}"),
    };
    let is_running = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let (first, socket) = start();
    drop(socket);
    let (second, socket) = start();
    assert!(!is_running(first.pid));
    let generation = first.generation;
    ask(BrokerRequest::EndContent { generation }).unwrap();
    assert!(is_running(second.pid));
    drop(socket);
    let generation = second.generation;
    ask(BrokerRequest::EndContent { generation }).unwrap();
    assert!(!is_running(second.pid));
    ask(BrokerRequest::Shutdown).unwrap();
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of what is refused")]
fn requests_that_would_give_an_agent_root_are_rejected() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let directory = tempfile::tempdir().unwrap();
    let operations = opened(directory.path());
    let ask = |request: BrokerRequest| operations.perform(request, Vec::new());
    let key = crate::core::task_key("framework-1", "web").unwrap();
    let at = TaskContainer::new(&key, name());
    let user = |uid: u32, gid: u32| ContainerUser {
        uid,
        gid,
        groups: Vec::new(),
    };
    let Ok((BrokerReply::Number(first), _)) = ask(BrokerRequest::AllocateUsers(name())) else {
        panic!("there are users");
    };
    let first = u32::try_from(first).unwrap();
    let sandbox = |owner: ContainerUser| {
        ask(BrokerRequest::MakeSandbox {
            at: at.clone(),
            owner: Some(owner),
        })
    };
    // Only users of its own containers are accepted as owners.
    for owner in [
        user(0, 0),
        user(first, 0),
        user(0, first),
        user(65_534, 65_534),
        user(first + 65_536, first),
        ContainerUser {
            groups: vec![0],
            ..user(first, first)
        },
    ] {
        sandbox(owner.clone()).unwrap_err();
        ask(BrokerRequest::ShareGroup {
            framework: "framework-1".to_owned(),
            group: "pod".to_owned(),
            name: name(),
            first: None,
            owner: Some(owner),
        })
        .unwrap_err();
    }
    sandbox(user(first + 5, first + 5)).unwrap();
    let begin = |user: ContainerUser| {
        let (at, holder) = (at.clone(), name());
        ask(BrokerRequest::Begin { at, holder, user })
    };
    begin(user(65_536, 0)).unwrap_err();
    begin(user(0, u32::MAX)).unwrap_err();
    begin(user(5, 5)).unwrap();
    let passwd = || OwnedFd::from(fs::File::open("/etc/passwd").unwrap());
    let etc = || OwnedFd::from(fs::File::open("/etc").unwrap());
    for target in [
        UnpackTarget::Files { uid: 0, gid: 0 },
        UnpackTarget::Files {
            uid: 1_000,
            gid: 1_000,
        },
        UnpackTarget::Layer {
            draft: "../../..".to_owned(),
        },
        UnpackTarget::Layer {
            draft: "a".repeat(64),
        },
    ] {
        let request = BrokerRequest::Unpack {
            format: ArchiveFormat::Tar,
            rules: UnpackLimits::archive(),
            target,
        };
        operations
            .perform(request, vec![passwd(), etc()])
            .unwrap_err();
    }
    for (framework, task) in [
        ("..", "web"),
        ("framework-1", ".."),
        ("framework-1", "a/b"),
        ("/", "x"),
    ] {
        let wrong = serde_json::json!({"framework": framework, "task": task, "name": "1-2-3"});
        let at: TaskContainer = serde_json::from_value(wrong).unwrap();
        ask(BrokerRequest::MakeSandbox { at, owner: None }).unwrap_err();
    }
    for name in ["../x", "1-2", "1-2-3/..", "supervisors", ""] {
        let request = serde_json::json!({ "Destroy": name });
        serde_json::from_value::<BrokerRequest>(request).unwrap_err();
    }
    ask(BrokerRequest::RemoveSandboxes(vec!["/etc".into()])).unwrap_err();
    ask(BrokerRequest::ReduceSandboxes(vec!["/etc".into()])).unwrap_err();
    ask(BrokerRequest::MakeRoot {
        at: at.clone(),
        holder: name(),
        layers: vec!["/".into()],
    })
    .unwrap_err();
    for (role, name) in [("..", "shadow"), ("web", "../shadow"), ("", "shadow")] {
        let (role, name) = (role.to_owned(), name.to_owned());
        ask(BrokerRequest::CheckSecret { role, name }).unwrap_err();
    }
    ask(BrokerRequest::Launch(Box::new(usual(&Paths::new(
        &directory.path().join("agent"),
    )))))
    .unwrap_err();
    // A link that a task has put into its sandbox does not redirect its agent.
    let made = directory
        .path()
        .join("agent/sandboxes/framework-1/web/1-2-3");
    symlink("/etc", made.join("doc")).unwrap();
    let paths = vec![HostPathRequest {
        host_path: "/usr/share/doc".to_owned(),
        container_path: "doc".to_owned(),
        read_only: false,
    }];
    let at = at.clone();
    let viewer = HostPathUser {
        is_confined: true,
        may_be_root: false,
    };
    ask(BrokerRequest::LinkHostPaths { at, paths, viewer }).unwrap_err();
    ask(BrokerRequest::ReleaseUsers(name())).unwrap();
    sandbox(user(first, first)).unwrap_err();
    ask(BrokerRequest::Shutdown).unwrap();
}

#[test]
fn blocked_endpoints_stay_blocked() {
    let mut closed = BlockedEndpoints {
        ports: vec![5_050, 5_051],
        metadata: true,
    };
    closed.join(BlockedEndpoints {
        ports: vec![6_050],
        metadata: false,
    });
    assert_eq!(closed.ports, [5_050, 5_051, 6_050]);
    assert!(closed.metadata);
}

#[test]
fn a_reply_that_has_no_encoding_is_an_error_of_its_request() {
    let (ours, theirs) = PacketSocket::pair().unwrap();
    let from = std::path::PathBuf::from(OsStr::from_bytes(b"/srv/\xff"));
    let path = HostPath {
        to: "/conf".into(),
        from,
        read_only: false,
        owners: OwnerMapping::Mapped,
    };
    server::reply(
        &theirs,
        Ok((BrokerReply::HostPaths(vec![path]), Vec::new())),
    )
    .unwrap();
    server::reply(&theirs, Ok((BrokerReply::Number(2), Vec::new()))).unwrap();
    let next = || link::receive::<ReplyResult>(&ours).unwrap().unwrap().0;
    let why = next().unwrap_err();
    assert!(why.contains("cannot send its reply"), "{why}");
    assert!(matches!(next(), Ok(BrokerReply::Number(2))));
}
