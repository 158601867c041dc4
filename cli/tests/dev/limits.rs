//! Limits of a running task: changed from outside, shown, rejected with a message.

use crate::cluster::DevCluster;

#[test]
fn limits_of_a_running_task_are_changed_and_shown() {
    let mut cluster = DevCluster::start(41, "1x1", &[]);
    let run = [
        "run", "--detach", "--name", "web", "--cpus", "0.1", "--mem", "32M",
    ];
    let limits = ["--pids-limit", "50", "--", "sleep", "1000"];
    let (code, _, errors) = cluster.run(&[&run[..], &limits].concat());
    assert_eq!(code, 0, "{errors}");
    // A change without a named limit can be enforced on every host.
    let (code, _, errors) = cluster.run(&["update", "web", "--pids-limit", "none"]);
    assert_eq!(code, 0, "{errors}");
    assert!(
        errors.contains("in force") && errors.contains("instead of pids 50"),
        "{errors}"
    );
    let (_, shown, _) = cluster.run(&["task", "show", "web"]);
    assert!(shown.contains("limits changed"), "{shown}");
    let history: Vec<_> = shown
        .lines()
        .skip_while(|line| !line.starts_with("history"))
        .collect();
    assert!(
        history[0].contains("staging") && history.last().unwrap().contains("running"),
        "{shown}"
    );
    // A host without the controller reports that, also by the exit code.
    let words = ["update", "web", "--mem-limit", "64M", "--cpu-limit", "0.5"];
    let (code, _, errors) = cluster.run(&words);
    match code {
        0 => assert!(errors.contains("cpus 0.5, memory 64 MiB"), "{errors}"),
        4 => assert!(errors.contains("cgroup"), "{errors}"),
        other => panic!("exit code {other}: {errors}"),
    }
    // The next change builds only on limits that are in force.
    let (_, shown, _) = cluster.run(&["task", "show", "web", "-o", "json"]);
    let keeps_all = code == 0;
    assert!(!keeps_all || shown.contains("\"cpuMillis\""), "{shown}");
    let task: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(task["history"][0]["state"], "TASK_STATE_STAGING", "{task}");
    assert_eq!(task["history"][0]["number"], 1, "{task}");
    let (code, _, errors) = cluster.run(&["update", "web", "--pids-limit", "none"]);
    assert_eq!(
        code, 0,
        "nothing of what was refused is asked for again: {errors}"
    );
    // What no agent could do is rejected, with the flag and a remedy.
    let (code, _, errors) = cluster.run(&["update", "web", "--mem-limit", "16M"]);
    assert_eq!(code, 2, "{errors}");
    assert!(
        errors.contains("--mem-limit 32MiB is the least"),
        "{errors}"
    );
    let (code, _, errors) = cluster.run(&["update", "web"]);
    assert_eq!(code, 2, "{errors}");
    let (code, _, errors) = cluster.run(&["task", "kill", "web"]);
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = cluster.run(&["update", "web", "--pids-limit", "9"]);
    assert_ne!(code, 0, "{errors}");
    assert_eq!(cluster.stop().0, 0);
}
