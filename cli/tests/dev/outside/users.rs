//! Attacks by another user of the host: by the APIs of agent and master, by files, by processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Attempt, against_a_cluster, api, attack, attempt, start_victim, words};
use crate::cluster::{DevCluster, wait_for};

const ATTACKER: &str = "another user";

/// The kernel's message for missing permission.
const DENIED: &str = "Permission denied";

/// Runs a line of a shell as this user.
fn shell(user: u32, line: &str) -> Attempt {
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "bash",
        "-c",
        line,
    ]);
    // Messages are compared.
    attempt(command.env("LC_ALL", "C").current_dir("/"))
}

/// Returns the status of the answer to this user if it is below 400, as that of an upgrade to this
/// protocol is.
fn get(user: u32, url: &str, protocol: Option<&str>) -> Attempt {
    let headers = protocol.map_or_else(String::new, |protocol| {
        format!(
            "-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
             -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' -H 'Sec-WebSocket-Protocol: {protocol}'"
        )
    });
    // An upgraded connection stays open after its status.
    let line = format!(
        "curl -s --noproxy '*' --http1.1 --max-time 2 {headers} -o /dev/null -w '%{{http_code}}' '{url}'; true"
    );
    let status = shell(user, &line)?;
    match status.parse::<u16>() {
        Ok(100..400) => Ok(status),
        _ => Err(status),
    }
}

fn by_the_apis(cluster: &DevCluster, task: &Value, agent: &str) {
    let id = format!("{}/victim", task["frameworkId"].as_str().unwrap());
    let through_master = format!("{}/v1/agents/{agent}", api(cluster, "master"));
    let direct = format!("{}/v1", api(cluster, "agent"));
    let output = format!("path=tasks/{id}/stdout");
    let (exec, attach) = (Some("argosy.v1.exec"), Some("argosy.v1.attach"));
    for (name, url, protocol) in [
        (
            "read output of a task",
            format!("files/read?{output}"),
            None,
        ),
        (
            "download output of a task",
            format!("files/download?{output}"),
            None,
        ),
        (
            "list a sandbox",
            format!("files/browse?path=tasks/{id}"),
            None,
        ),
        (
            "run a command in a task",
            format!("exec?task={id}&argument=true"),
            exec,
        ),
        ("attach to a task", format!("attach?task={id}"), attach),
    ] {
        for (server, base) in [("an agent", &direct), ("a master", &through_master)] {
            let url = format!("http://{base}/{url}");
            let (attacked, control) = (get(65_534, &url, protocol), get(0, &url, protocol));
            attack(
                ATTACKER,
                &format!("{name} by {server}"),
                "403",
                attacked,
                control,
            );
        }
    }
}

/// Opens all directories up to the agent's own, so that its own modes are tested.
fn open_parents(directory: &Path) {
    for parent in directory
        .ancestors()
        .skip(1)
        .filter(|parent| parent.starts_with("/tmp") && *parent != Path::new("/tmp"))
    {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Returns the newest file of this name below a directory.
fn find(directory: &Path, name: &str) -> String {
    let mut command = Command::new("find");
    let found = attempt(
        command
            .arg(directory)
            .args(["-name", name, "-print", "-quit"]),
    )
    .unwrap();
    assert!(
        !found.is_empty(),
        "there is no {name} below {}",
        directory.display()
    );
    found.trim().to_owned()
}

fn by_files(directory: &Path) {
    let stdout = find(directory, "stdout");
    let sandbox = stdout.strip_suffix("/stdout").unwrap();
    let journal = find(directory, "journal*");
    let container = find(directory, "handle.json");
    let agent = directory.display();
    let ids = "/run/argosy/ids";
    let cases = [
        ("read output of a task", format!("cat {stdout}")),
        (
            "write to the output of a task",
            format!("echo forged >> {stdout}"),
        ),
        ("list a sandbox", format!("ls {sandbox}")),
        (
            "put a file into a sandbox",
            format!("touch {sandbox}/planted && rm {sandbox}/planted"),
        ),
        (
            "read the agent's journal",
            format!("find {journal} -type f -exec head -c 16 {{}} +"),
        ),
        (
            "write to the agent's journal",
            format!(
                "find {journal} -type f -exec bash -c 'exec 3>> $0' {{}} \\;; test -w {journal} || {{ echo Permission denied >&2; exit 1; }}"
            ),
        ),
        ("read who runs a container", format!("cat {container}")),
        (
            "forge the end of a container",
            format!("d=$(dirname {container}); touch $d/forged && rm $d/forged"),
        ),
        (
            "put a file into the agent's directory",
            format!("touch {agent}/planted && rm {agent}/planted"),
        ),
        (
            "take a range of users",
            format!("touch {ids}/planted && rm {ids}/planted"),
        ),
    ];
    for (technique, line) in cases {
        attack(
            ATTACKER,
            technique,
            DENIED,
            shell(65_534, &line),
            shell(0, &line),
        );
    }
}

fn by_processes(victim: u64, agent: u64) {
    let not_permitted = "Operation not permitted";
    let cases = [
        (
            "read the environment of a task",
            format!("tr '\\0' '\\n' < /proc/{victim}/environ"),
            DENIED,
        ),
        (
            "read the memory of a task",
            format!("exec 3< /proc/{victim}/mem"),
            DENIED,
        ),
        (
            "enter the root of a task",
            format!("ls /proc/{victim}/root/"),
            DENIED,
        ),
        (
            "open the descriptors of a task",
            format!("ls /proc/{victim}/fd/"),
            DENIED,
        ),
        (
            "enter the namespaces of a task",
            format!("nsenter --target {victim} --mount --pid true"),
            DENIED,
        ),
        ("signal a task", format!("kill -0 {victim}"), not_permitted),
        ("signal an agent", format!("kill -0 {agent}"), not_permitted),
        (
            "read the environment of an agent",
            format!("tr '\\0' '\\n' < /proc/{agent}/environ"),
            DENIED,
        ),
        (
            "open the descriptors of an agent",
            format!("ls /proc/{agent}/fd/"),
            DENIED,
        ),
        (
            "put a process into the control group of a task",
            format!(
                "group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{victim}/cgroup); test -d $group || group=$(find /sys/fs/cgroup -name cgroup.procs -exec grep -lx {victim} {{}} + | head -1 | xargs dirname); sleep 0 & echo $! > $group/cgroup.procs || {{ wait; exit 1; }}"
            ),
            DENIED,
        ),
    ];
    for (technique, line, because) in cases {
        attack(
            ATTACKER,
            technique,
            because,
            shell(65_534, &line),
            shell(0, &line),
        );
    }
}

#[test]
fn other_users_of_the_host_cannot_access_tasks() {
    // With TLS, these users do not even reach the APIs: see `closed`.
    against_a_cluster(41, words(&["--insecure-plaintext"]), |cluster| {
        let line = "echo secret; exec sleep 1000";
        start_victim(cluster, &["--interactive", "--", "sh", "-c", line]);
        let (_, listed, _) = cluster.run(&["task", "show", "victim", "-o", "json"]);
        let task: Value = serde_json::from_str(&listed).unwrap();
        wait_for("its output", || {
            cluster.run(&["logs", "victim"]).1 == "secret\n"
        });
        let mut members = cluster.members().iter();
        let agent = members.find(|member| member["kind"] == "agent").unwrap();
        let directory = PathBuf::from(agent["directory"].as_str().unwrap());
        open_parents(&directory);
        by_the_apis(cluster, &task, task["agentId"].as_str().unwrap());
        by_files(&directory);
        let handle = fs::read_to_string(find(&directory, "handle.json")).unwrap();
        let handle: Value = serde_json::from_str(&handle).unwrap();
        let init = handle["held"]["init"]["pid"].as_u64().unwrap();
        by_processes(init, agent["pid"].as_u64().unwrap());
    });
}
