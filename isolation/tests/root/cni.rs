//! Tests of networks by CNI plugins: the test's own plugin, and Debian's where they are installed.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argosy_host::ContainerId;
use argosy_isolation::{CommandOutcome, Network};
use argosy_network::cni::{Cni, CniError, NetworkConfList};

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, skip, stderr, stdout};
use crate::host::{SERVE, call, on_a_host, quoted, run, web};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "cni_plugins_receive_the_input_of_the_specification",
        plugin_input,
    ),
    ("a_network_rejected_by_a_plugin_is_rolled_back", refused),
    (
        "plugins_that_were_added_are_deleted_with_their_result",
        refused_midway,
    ),
    ("a_hung_plugin_is_killed", hung_plugin),
    ("a_crash_leaves_no_networks_of_plugins", crash),
    (
        "plugins_receive_no_file_that_is_no_namespace",
        crash_before_bind,
    ),
    ("the_next_agent_waits_for_the_plugin_of_a_killed_one", waits),
    ("the_next_agent_kills_a_hung_plugin", ends),
    ("the_plugins_of_debian_connect_a_container", debians),
];

/// Records its input, and answers with an address; fails for what a file `refuse` names. Like the
/// upstream plugins, it fails for a file that is no namespace.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
read=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME netns=$CNI_NETNS" >> "$here/calls"
echo "$read" >> "$here/inputs"
now=$CNI_COMMAND
case $read in *prevResult*) now="$now after another" ;; esac
if [ "$(cat "$here/refuse" 2>/dev/null)" = "$now" ]; then
  echo '{"cniVersion":"1.1.0","code":11,"msg":"not now","details":"the pool is dry"}'
  exit 1
fi
if [ -n "$CNI_NETNS" ] && [ "$(stat -f -c %t "$CNI_NETNS")" != 6e736673 ]; then
  echo '{"cniVersion":"1.1.0","code":100,"msg":"unknown FS magic"}'
  exit 1
fi
[ -e "$here/hang" ] && exec sleep 1000
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.99.0.7/24"}],"news":{"x":1}}'
exit 0
"#;

const LIST: &str = r#"{"cniVersion": "1.1.0", "name": "blue", "plugins": [
    {"type": "first", "colour": "blue"},
    {"type": "first", "capabilities": {"portMappings": true}}
]}"#;

struct Plugins {
    directory: PathBuf,
    cni: Cni,
    list: NetworkConfList,
}

impl Plugins {
    fn new(world: &RootFixture) -> Self {
        let directory = world.work().join("plugins");
        fs::create_dir_all(&directory).unwrap();
        let plugin = directory.join("first");
        fs::write(&plugin, PLUGIN).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let list = directory.join("blue.conflist");
        fs::write(&list, LIST).unwrap();
        Self {
            cni: cni(world, &directory),
            list: NetworkConfList::read(&list).unwrap(),
            directory,
        }
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the verbs of all calls.
    fn verbs(&self) -> Vec<String> {
        let calls = self.calls();
        let verbs = calls.iter().filter_map(|call| call.split(' ').next());
        verbs.map(str::to_owned).collect()
    }
}

fn cni(world: &RootFixture, plugins: &Path) -> Cni {
    Cni {
        plugins: vec![plugins.to_owned()],
        records: world.work().join("cni/records"),
        namespaces: world.work().join("cni/namespaces"),
        timeout: TIMEOUT,
    }
}

/// Checks that no record and no bound namespace is left.
fn nothing_is_left(cni: &Cni) {
    for directory in [&cni.records, &cni.namespaces] {
        let left: Vec<_> = fs::read_dir(directory).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(cni.namespaces.to_str().unwrap()));
}

fn plugin_input() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let plugins = Plugins::new(&world);
        let id = ContainerId::new("c-1").unwrap();
        let added = plugins.cni.add(&id, &plugins.list, &[web(8080)]).unwrap();
        assert_eq!(
            added.addresses,
            ["10.99.0.7".parse::<std::net::IpAddr>().unwrap()]
        );
        let record = fs::metadata(plugins.cni.records.join("c-1.json")).unwrap();
        assert_eq!(record.permissions().mode() & 0o077, 0, "it is root's alone");
        drop(added);
        plugins.cni.delete(&id).unwrap();
        plugins.cni.delete(&id).unwrap();
        assert_eq!(plugins.verbs(), ["ADD", "ADD", "DEL", "DEL"]);
        let place = plugins.cni.namespaces.join("c-1");
        for call in plugins.calls() {
            let words: Vec<_> = call.split(' ').collect();
            assert!(
                words[1].starts_with("argosy-") && words[1].ends_with("-c-1"),
                "{call}"
            );
            assert_eq!(words[2], "eth0");
            assert_eq!(words[3], format!("netns={}", place.display()));
        }
        let inputs = fs::read_to_string(plugins.directory.join("inputs")).unwrap();
        let inputs: Vec<_> = inputs.lines().collect();
        assert!(inputs[0].contains(r#""colour":"blue""#) && !inputs[0].contains("prevResult"));
        assert!(
            inputs[1].contains(r#""news":{"x":1}"#),
            "the result before: {}",
            inputs[1]
        );
        assert!(inputs[1].contains(r#""hostPort":8080"#), "{}", inputs[1]);
        assert!(inputs[2].contains("prevResult"), "{}", inputs[2]);
        nothing_is_left(&plugins.cni);
    });
}

fn refused() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let plugins = Plugins::new(&world);
        let id = ContainerId::new("c-1").unwrap();
        fs::write(plugins.directory.join("refuse"), "ADD").unwrap();
        let error = plugins.cni.add(&id, &plugins.list, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the CNI plugin \"first\" failed at ADD of c-1: not now: the pool is dry (code 11)"
        );
        assert_eq!(plugins.verbs(), ["ADD", "DEL", "DEL"]);
        nothing_is_left(&plugins.cni);
        fs::remove_file(plugins.directory.join("first")).unwrap();
        let error = plugins.cni.add(&id, &plugins.list, &[]).unwrap_err();
        assert!(matches!(error, CniError::Missing { .. }), "{error}");
        nothing_is_left(&plugins.cni);
    });
}

fn refused_midway() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let plugins = Plugins::new(&world);
        let id = ContainerId::new("c-1").unwrap();
        fs::write(plugins.directory.join("refuse"), "ADD after another").unwrap();
        plugins.cni.add(&id, &plugins.list, &[]).unwrap_err();
        assert_eq!(plugins.verbs(), ["ADD", "ADD", "DEL", "DEL"]);
        let inputs = fs::read_to_string(plugins.directory.join("inputs")).unwrap();
        for input in inputs.lines().skip(2) {
            assert!(input.contains(r#""news":{"x":1}"#), "{input}");
        }
        nothing_is_left(&plugins.cni);
    });
}

fn hung_plugin() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let mut plugins = Plugins::new(&world);
        plugins.cni.timeout = Duration::from_millis(200);
        let id = ContainerId::new("c-1").unwrap();
        fs::write(plugins.directory.join("hang"), "").unwrap();
        let error = plugins
            .cni
            .add(&id, &plugins.list, &[])
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("it did not end within 200ms"), "{error}");
        fs::remove_file(plugins.directory.join("hang")).unwrap();
        plugins.cni.timeout = TIMEOUT;
        plugins.cni.sweep(&BTreeSet::new()).unwrap();
        nothing_is_left(&plugins.cni);
    });
}

fn crash() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let plugins = Plugins::new(&world);
        let [kept, lost] = ["kept", "lost"].map(|name| ContainerId::new(name).unwrap());
        for id in [&kept, &lost] {
            plugins.cni.add(id, &plugins.list, &[]).unwrap();
        }
        // The operator has removed the list; the network is deleted by its recorded copy.
        fs::remove_file(plugins.directory.join("blue.conflist")).unwrap();
        // The host was rebooted as well: its namespaces no longer exist.
        let place = plugins.cni.namespaces.join("lost");
        nix::mount::umount(&place).unwrap();
        fs::remove_file(&place).unwrap();
        plugins.cni.sweep(&BTreeSet::from([kept.clone()])).unwrap();
        let last = plugins.calls().pop().unwrap();
        assert!(
            last.starts_with("DEL") && last.ends_with("netns="),
            "{last}"
        );
        assert!(plugins.cni.namespaces.join("kept").exists());
        plugins.cni.sweep(&BTreeSet::new()).unwrap();
        nothing_is_left(&plugins.cni);
    });
}

fn crash_before_bind() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let plugins = Plugins::new(&world);
        let id = ContainerId::new("c-1").unwrap();
        plugins.cni.add(&id, &plugins.list, &[]).unwrap();
        nix::mount::umount(&plugins.cni.namespaces.join("c-1")).unwrap();
        plugins.cni.sweep(&BTreeSet::new()).unwrap();
        let last = plugins.calls().pop().unwrap();
        assert!(
            last.starts_with("DEL") && last.ends_with("netns="),
            "{last}"
        );
        nothing_is_left(&plugins.cni);
    });
}

/// The verb with which this program runs as an agent that is killed during a plugin's ADD.
pub(crate) const VERB: &str = "plug";
/// Reports its start and end; ADD takes as long as a file `wait` exists.
const SLOW: &str = r#"#!/bin/sh
here=$(dirname "$0")
cat > /dev/null
echo "$CNI_COMMAND begins" >> "$here/calls"
[ "$CNI_COMMAND" != ADD ] || while [ -e "$here/wait" ]; do sleep 0.02; done
echo "$CNI_COMMAND ends" >> "$here/calls"
"#;
const SLOW_LIST: &str = r#"{"cniVersion": "1.0.0", "name": "slow", "plugins": [{"type": "slow"}]}"#;

/// The agent's side: a separate process.
pub(crate) fn main(arguments: &[String]) {
    let directory = Path::new(&arguments[0]);
    let list = NetworkConfList::read(&directory.join("slow.conflist")).unwrap();
    let id = ContainerId::new("c-1").unwrap();
    // Only a plugin that was killed in its stead ends this.
    drop(slow(directory, TIMEOUT).add(&id, &list, &[]));
}

fn slow(directory: &Path, timeout: Duration) -> Cni {
    Cni {
        plugins: vec![directory.to_owned()],
        records: directory.join("records"),
        namespaces: directory.join("namespaces"),
        timeout,
    }
}

/// Kills an agent during its plugin's ADD, which continues.
fn killed_amid(directory: &Path) {
    fs::write(directory.join("slow"), SLOW).unwrap();
    fs::set_permissions(directory.join("slow"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("slow.conflist"), SLOW_LIST).unwrap();
    fs::write(directory.join("wait"), "").unwrap();
    let mut command = Command::new("/proc/self/exe");
    let mut agent = command.arg(VERB).arg(directory).spawn().unwrap();
    eventually("the plugin begins", || calls(directory) == ["ADD begins"]);
    agent.kill().unwrap();
    agent.wait().unwrap();
}

fn calls(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn waits() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    killed_amid(directory);
    let cni = slow(directory, TIMEOUT);
    let id = ContainerId::new("c-1").unwrap();
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| cni.delete(&id));
        let opened = || {
            let own = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut files = own.filter_map(|fd| fs::read_link(fd.path()).ok());
            files.any(|file| file == cni.records.join("c-1.turn"))
        };
        eventually("the next agent asks for its turn", || {
            opened() || calls(directory).len() > 1
        });
        fs::remove_file(directory.join("wait")).unwrap();
        deleting.join().unwrap().unwrap();
    });
    let all = ["ADD begins", "ADD ends", "DEL begins", "DEL ends"];
    assert_eq!(calls(directory), all);
    nothing_is_left(&cni);
}

fn ends() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    killed_amid(directory);
    let cni = slow(directory, Duration::from_secs(5));
    cni.delete(&ContainerId::new("c-1").unwrap()).unwrap();
    assert_eq!(calls(directory), ["ADD begins", "DEL begins", "DEL ends"]);
    nothing_is_left(&cni);
}

fn debians() {
    let installed = Path::new("/usr/lib/cni");
    if !installed.join("ptp").exists() {
        skip("needs the package containernetworking-plugins".to_owned());
    }
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let cni = cni(&world, installed);
        let leases = world.work().join("leases");
        let list = world.work().join("debian.conflist");
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "debian", "plugins": [
                {{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local", "dataDir": "{}",
                  "ranges": [[{{"subnet": "10.98.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}
            ]}}"#,
            leases.display()
        );
        fs::write(&list, text).unwrap();
        let list = NetworkConfList::read(&list).unwrap();
        let line = format!("exec {} 80 plugged", quoted(SERVE));
        let mut spec = profiled(&mut world, &line);
        spec.network = Network::Joined;
        let added = cni.add(&spec.id, &list, &[]).unwrap();
        let address = added.addresses[0].to_string();
        let launcher = world.launcher.as_mut().unwrap();
        let mut container = launcher
            .launch_joined(&spec, added.namespace.as_fd())
            .unwrap();
        drop(added);
        container.wait_started(TIMEOUT).unwrap().unwrap();
        eventually("the container serves", || {
            call(&address, 80).starts_with("plugged")
        });
        container.kill(0).unwrap();
        let exit = container.wait(TIMEOUT).unwrap();
        assert_eq!(
            exit.outcome,
            CommandOutcome::Signaled(9),
            "{} {}",
            stdout(&spec),
            stderr(&spec)
        );
        cni.sweep(&BTreeSet::new()).unwrap();
        nothing_is_left(&cni);
        eventually("no device is left", || {
            !run("ip", &["-o", "link"]).contains("veth")
        });
        let left = fs::read_dir(leases.join("debian")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert!(
            !left
                .iter()
                .any(|name| name.to_string_lossy().starts_with("10.98.")),
            "{left:?}"
        );
    });
}
