//! `argosy exec` on a real cluster: a user in a task, through any master.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec, RunSettings};
use argosy_testbed::terminal::through;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{DevCluster, NO_CERTIFICATES, argosy, executable, split, wait_for};
use crate::executors::leader_other_than;
use crate::terminal::{TestTerminal, resize};

/// Starts a cluster with a running task of this name.
fn with_task(number: u32, size: &str, name: &str) -> DevCluster {
    let cluster = DevCluster::start(number, size, &[]);
    let line = "echo up > up; exec sleep 1000";
    let words = ["run", "--detach", "--name", name, "--", "sh", "-c", line];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the task to run", || {
        cluster.run(&["ps"]).1.contains("running")
    });
    cluster
}

fn is_alive(line: &str) -> bool {
    let wanted = line.replace(' ', "\0") + "\0";
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|found| found == wanted.as_bytes())
}

#[test]
fn exec_behaves_like_a_local_command() {
    let cluster = with_task(7, "1x1", "web");
    let (code, stdout, stderr) = cluster.run(&[
        "exec",
        "-e",
        "A=b",
        "-w",
        "/usr",
        "web",
        "--",
        "sh",
        "-c",
        "cat; echo $A $PWD; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (7, "b /usr\n", "err\n")
    );
    let (code, stdout, stderr) =
        cluster.run(&["exec", "--user", "daemon", "web", "--", "id", "-un"]);
    assert_eq!((code, stdout.as_str()), (0, "daemon\n"), "{stderr}");
    let (code, stdout, stderr) =
        cluster.run(&["exec", "web", "--", "sh", "-c", "cat up; kill -9 $$"]);
    assert_eq!((code, stdout.as_str()), (137, "up\n"), "{stderr}");
    check_binary_streams(&cluster);
    check_exec_errors(&cluster);
}

fn check_binary_streams(cluster: &DevCluster) {
    let mut cat = cluster.argosy(&["exec", "-i", "web", "--", "cat"]);
    let mut cat = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        // Its end is the end of the command.
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        stdout.read_to_end(&mut received).unwrap();
    });
    assert_eq!(cat.wait().unwrap().code(), Some(0));
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
}

fn check_exec_errors(cluster: &DevCluster) {
    let long = "x".repeat(50_000);
    let words = ["exec", "web", "--", "sh", "-c", "echo ${#1}", "sh", &long];
    let (code, stdout, stderr) = cluster.run(&words);
    assert_eq!((code, stdout.as_str()), (0, "50000\n"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["exec", "web", "--", "echo", &long, &long]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("the limit is 60000"), "{stderr}");

    let (code, stdout, stderr) = cluster.run(&["exec", "web", "--", "no-such-command"]);
    assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
    assert!(stderr.starts_with("never started in "), "{stderr}");
    assert!(stderr.contains("\"no-such-command\""), "{stderr}");
    let (code, _, stderr) = cluster.run(&["exec", "-it", "web", "--", "true"]);
    assert_eq!(code, 2, "{stderr}");
    let (code, _, stderr) = cluster.run(&["exec", "nothing-like-it", "--", "true"]);
    assert_eq!(code, 3, "{stderr}");
    assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
    let (code, _, stderr) = cluster.run(&["exec", "web", "--", "true"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("is no longer running: killed"), "{stderr}");
}

#[test]
fn exec_forwards_signals_and_ends_with_its_client() {
    let cluster = with_task(8, "1x1", "web");
    let script = "trap 'echo told to end; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = cluster.argosy(&["exec", "web", "--", "sh", "-c", script]);
    let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ready\ntold to end\n");
    assert_eq!(running.wait().unwrap().code(), Some(3));

    let script = "sleep 7357 & echo up; exec sleep 7358";
    let mut running = cluster.argosy(&["exec", "web", "--", "sh", "-c", script]);
    let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    wait_for("both to run", || {
        is_alive("sleep 7357") && is_alive("sleep 7358")
    });
    running.kill().unwrap();
    running.wait().unwrap();
    wait_for("both to end with their client", || {
        !is_alive("sleep 7357") && !is_alive("sleep 7358")
    });
    assert_eq!(cluster.run(&["exec", "web", "--", "cat", "up"]).1, "up\n");

    let mut child = cluster.argosy(&["exec", "web", "--", "yes", "7361"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(141), "as by SIGPIPE");
    wait_for("it to end with its reader", || !is_alive("yes 7361"));
}

#[test]
fn exec_works_through_any_master_and_survives_failovers() {
    let cluster = with_task(45, "3x1", "web");
    let masters = cluster.record["masters"].as_str().unwrap().to_owned();
    for master in masters.split(',') {
        let words = ["exec", "web", "--masters", master, "--", "echo", master];
        let mut exec = cluster.argosy(&words);
        let output = exec.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{master}\n")
        );
    }
    let leader = leader_other_than(&cluster, None);
    let other = masters.split(',').find(|master| *master != leader).unwrap();
    let words = ["exec", "-i", "web", "--masters", other, "--", "cat"];
    let mut cat = cluster.argosy(&words);
    let mut cat = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    let mut stdout = BufReader::new(cat.stdout.take().unwrap());
    let mut echo = |word: &str| {
        stdin.write_all(word.as_bytes()).unwrap();
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        assert_eq!(text, word);
    };
    echo("before\n");
    let members = cluster.members().iter();
    let mut members = members.filter(|member| member["api"] == leader);
    let pid = members.next().unwrap()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    wait_for("another leader", || {
        let (code, page, _) = cluster.run(&["master", "list", "-o", "json"]);
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let masters = page["masters"].as_array().cloned().unwrap_or_default();
        let leads = |master: &serde_json::Value| {
            master["role"] == "leader" && master["apiAddress"] != leader
        };
        code == 0 && masters.iter().any(leads)
    });
    echo("after\n");
    drop(stdin);
    assert_eq!(cat.wait().unwrap().code(), Some(0));
    check_end_with_master(&cluster, other);
}

fn check_end_with_master(cluster: &DevCluster, other: &str) {
    let script = "echo up; exec sleep 7360";
    let words = ["exec", "web", "--masters", other, "--", "sh", "-c", script];
    let mut sleep = cluster.argosy(&words);
    let sleep = sleep.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sleep = sleep.spawn().unwrap();
    let mut output = BufReader::new(sleep.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    wait_for("the command to run", || is_alive("sleep 7360"));
    let mut members = cluster.members().iter();
    let member = members.find(|member| member["api"] == other).unwrap();
    let pid = member["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    let output = split(sleep.wait_with_output().unwrap());
    assert_eq!(output.0, 5, "{output:?}");
    assert!(output.2.contains("was lost"), "{output:?}");
    wait_for("its command to end", || !is_alive("sleep 7360"));
}

#[test]
fn a_terminal_is_forwarded_and_restored() {
    let cluster = with_task(10, "1x1", "web");
    let script = "stty size; echo $TERM; read word; echo got $word; until [ \"$(stty size)\" = '50 132' ]; \
                  do sleep 0.05; done; echo larger; trap 'echo interrupted; exit 9' INT; echo ready; \
                  while :; do sleep 0.05; done";
    let words = ["exec", "-it", "web", "--", "sh", "-c", script];
    let mut terminal = TestTerminal::start(&cluster, 40, 100, &words);
    terminal.wait_for_output("40 100\r\ndumb\r\n");
    assert_ne!(terminal.mode(), terminal.initial_mode, "raw");
    terminal.press("word\r");
    terminal.wait_for_output("got word\r\n");
    resize(&terminal.pty, 50, 132);
    terminal.wait_for_output("larger\r\nready\r\n");
    terminal.press("\x03");
    terminal.wait_for_output("interrupted\r\n");
    assert_eq!(terminal.end(), Some(9));
    assert_eq!(terminal.mode(), terminal.initial_mode);

    let words = [
        "exec",
        "-it",
        "web",
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 7359",
    ];
    let mut terminal = TestTerminal::start(&cluster, 40, 100, &words);
    terminal.wait_for_output("ready\r\n");
    let found = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("sleep 7359") && line.contains(" exec -it ") && !line.contains("setsid")
    });
    let client: i32 = found
        .unwrap()
        .file_name()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    kill(Pid::from_raw(client), Signal::SIGTERM).unwrap();
    assert_eq!(terminal.end(), Some(143));
    assert_eq!(
        terminal.mode(),
        terminal.initial_mode,
        "also when it is ended from outside"
    );
    wait_for("its command to end", || !is_alive("sleep 7359"));
}

/// A master and an agent on separate hosts, as far as networks can simulate hosts. Clients are on
/// the agent's.
struct RoutedCluster {
    networks: [Child; 2],
    directory: tempfile::TempDir,
    members: Vec<ManagedProcess>,
}

/// The network namespace of the master.
const MASTER: usize = 0;
const AGENT: usize = 1;

impl RoutedCluster {
    const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

    fn new() -> Self {
        let network = || {
            Command::new("unshare")
                .args(["--net", "sleep", "1000"])
                .spawn()
        };
        let reachable = Self {
            networks: [network().unwrap(), network().unwrap()],
            directory: tempfile::tempdir().unwrap(),
            members: Vec::new(),
        };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        for network in &reachable.networks {
            let other = format!("/proc/{}/ns/net", network.id());
            wait_for("a network of its own", || {
                std::fs::read_link(&other).is_ok_and(|other| other != own)
            });
        }
        let other = reachable.networks[AGENT].id();
        let wire = format!("link add wire type veth peer name wire netns {other}");
        reachable.ip(MASTER, &wire);
        for (place, address) in Self::ADDRESSES.iter().enumerate() {
            reachable.ip(place, "link set lo up");
            reachable.ip(place, "link set wire up");
            reachable.ip(place, &format!("address add {address}/24 dev wire"));
        }
        reachable
    }

    fn ip(&self, index: usize, words: &str) {
        let mut ip = Command::new("ip");
        ip.args(words.split(' '));
        let done = through(self.in_namespace(index), &ip).status().unwrap();
        assert!(done.success(), "ip {words}");
    }

    fn in_namespace(&self, index: usize) -> Command {
        let mut within = Command::new("nsenter");
        within.arg(self.network_flag(index));
        within
    }

    /// Returns the option of `nsenter` for this network namespace.
    fn network_flag(&self, index: usize) -> String {
        format!("--net=/proc/{}/ns/net", self.networks[index].id())
    }

    fn argosy(&self, index: usize, words: &[&str]) -> Command {
        let mut command = through(self.in_namespace(index), &argosy(words));
        command.env("ARGOSY_MASTERS", Self::ADDRESSES[MASTER]);
        // With an explicit timeout, commands wait for a master that is still starting.
        command.env("ARGOSY_TIMEOUT", "30s");
        command
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        split(self.argosy(AGENT, words).output().unwrap())
    }

    /// Starts a member that listens where others could reach it, and ends its predecessor.
    fn start(&mut self, index: usize, more: &[&str]) {
        if index < self.members.len() {
            let mut former = self.members.remove(index);
            // Its input is open until the process has exited: the end of its input would make an
            // agent end its tasks.
            former.send(Signal::SIGTERM).unwrap();
            wait_for("the former process to end", || {
                former.exit_status().is_some()
            });
        }
        let kind = ["master", "agent"][index];
        let directory = self.directory.path().join(kind).display().to_string();
        let mut arguments = vec![self.network_flag(index)];
        arguments.push(executable().display().to_string());
        let own = [
            kind,
            "start",
            "--insecure-plaintext",
            "--data-dir",
            &directory,
        ];
        arguments.extend(own.map(str::to_owned));
        arguments.extend(["--listen", Self::ADDRESSES[index]].map(str::to_owned));
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut member = ManagedProcess::new(ProcessSpec {
            name: kind.to_owned(),
            launch: LaunchMethod::WithInput,
            program: "nsenter".into(),
            arguments,
            log: self.directory.path().join(format!("{kind}.log")),
        });
        let set = NO_CERTIFICATES.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = RunSettings {
            environment: set.to_vec(),
        };
        member.start_with(&settings).unwrap();
        self.members.insert(index, member);
    }

    /// Waits until this is refused with these words.
    fn assert_refused(&self, words: &[&str], why: &str) {
        let mut output = String::new();
        let refused = || {
            let (code, _, stderr) = self.run(words);
            output = stderr;
            code == 4 && output.contains(why)
        };
        wait_for(&format!("{words:?} to be refused: {why}"), refused);
    }
}

impl Drop for RoutedCluster {
    fn drop(&mut self) {
        // The end of its input makes an agent end its tasks, so a failing test leaves none either.
        for member in self.members.drain(..).rev() {
            drop(member);
        }
        for network in &mut self.networks {
            let _ = network.kill();
            let _ = network.wait();
        }
    }
}

#[test]
fn other_hosts_cannot_exec_or_read_output_unless_the_operator_allows_it() {
    if !nix::unistd::geteuid().is_root() {
        return argosy_testing::skip("needs root");
    }
    let mut reachable = RoutedCluster::new();
    let master = ["--bootstrap", "--stop-with-stdin"];
    let resources = ["--resources", "cpus:1;mem:256"];
    let agent = [
        &["--masters", RoutedCluster::ADDRESSES[MASTER]][..],
        &resources,
        &["--allow-missing-controllers", "--stop-with-stdin", "end"],
    ];
    let agent = agent.concat();
    reachable.start(MASTER, &master);
    reachable.start(AGENT, &agent);
    // It waits for the master, and run does not: it fails at once if no master listens.
    let (code, _, stderr) = reachable.run(&["master", "list"]);
    assert_eq!(code, 0, "{stderr}");
    let line = "echo up; exec sleep 1000";
    let words = ["run", "--detach", "--name", "web", "--", "sh", "-c", line];
    let (code, _, stderr) = reachable.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the task to run", || {
        reachable.run(&["ps"]).1.contains("running")
    });
    let exec = ["exec", "web", "--", "echo", "inside"];
    let logs = ["logs", "web"];
    let closed = |what: &str, server: &str| {
        format!("{what} are closed on this {server} to callers that are not on this host")
    };
    let (commands, files) = ("exec and attach", "files of tasks");
    reachable.assert_refused(&exec, &closed(commands, "master"));
    reachable.assert_refused(&logs, &closed(files, "master"));
    let (_, stdout, stderr) = reachable.run(&["run", "--quiet", "--", "echo", "unseen"]);
    let why = format!("output is incomplete: {}", closed(files, "master"));
    assert!(
        stdout.is_empty() && stderr.contains(&why),
        "{stdout}{stderr}"
    );

    reachable.start(MASTER, &["--stop-with-stdin", "--allow-exec"]);
    reachable.assert_refused(&exec, &closed(commands, "agent"));
    reachable.assert_refused(&logs, &closed(files, "master"));
    reachable.start(
        MASTER,
        &["--stop-with-stdin", "--allow-exec", "--allow-files"],
    );
    reachable.assert_refused(&logs, &closed(files, "agent"));

    let allowed: Vec<_> = agent
        .into_iter()
        .chain(["--allow-exec", "--allow-files"])
        .collect();
    reachable.start(AGENT, &allowed);
    for (words, shown) in [(&exec[..], "inside\n"), (&logs, "up\n")] {
        wait_for("the output of the task", || {
            let (code, stdout, _) = reachable.run(words);
            (code, stdout.as_str()) == (0, shown)
        });
    }
}
