//! Words of Docker, kubectl and Nomad, and the commands that do the same here.

/// Words where a command is expected.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["kill", "stop", "rm", "delete", "remove"],
        "argosy task kill ends a task, argosy group kill a group, argosy framework teardown a framework",
    ),
    (
        &["node", "nodes", "agents", "clients"],
        "argosy agent list lists the agents",
    ),
    (
        &[
            "servers", "server", "members", "masters", "peers", "operator",
        ],
        "argosy master list lists the masters",
    ),
    (
        &[
            "get",
            "list",
            "ls",
            "pod",
            "pods",
            "tasks",
            "containers",
            "container",
            "alloc",
            "allocs",
        ],
        "argosy task list lists the tasks; agent list, framework list and group list list the others",
    ),
    (
        &["job", "jobs", "frameworks", "service", "services"],
        "argosy framework list lists the frameworks, and argosy run runs a command",
    ),
    (
        &["groups", "stack", "compose"],
        "argosy group list lists the groups, and argosy group run runs a file",
    ),
    (&["offers"], "argosy offer list lists the open offers"),
    (
        &["failover", "failovers", "elections", "leader"],
        "argosy master failovers lists the changes of leader, and argosy master list the masters",
    ),
    (
        &["secrets", "vault"],
        "argosy secret list lists the secrets",
    ),
    (
        &["weights", "role", "roles", "quota"],
        "argosy weight list lists the weights of roles",
    ),
    (
        &["describe", "inspect", "show"],
        "argosy task show shows a task; agent show and framework show show the others",
    ),
    (
        &["drain", "cordon"],
        "argosy agent deactivate stops offers of an agent",
    ),
    (
        &["uncordon"],
        "argosy agent reactivate resumes the offers of an agent",
    ),
    (
        &["taint", "label", "annotate"],
        "argosy agent attribute sets attributes of an agent",
    ),
    (
        &["apply", "create", "start", "deploy"],
        "argosy run runs a command, and argosy group run a file with several tasks",
    ),
    (
        &["up"],
        "argosy dev starts a cluster on this machine, and argosy group run runs a file with several tasks",
    ),
    (
        &["log", "tail"],
        "argosy logs -f follows the output of a task",
    ),
    (
        &["copy", "scp", "upload", "download", "fs", "files"],
        "argosy cp copies files from and to the sandbox of a task",
    ),
    (
        &["watch", "monitor", "dashboard", "ui"],
        "argosy top shows the cluster live, argosy events -f all changes, argosy ps --watch the tasks",
    ),
    (
        &["info", "cluster-info", "health"],
        "argosy status shows the state of the cluster",
    ),
    (
        &["scale", "rollout", "restart"],
        "frameworks decide how many tasks run; argosy run starts one more",
    ),
    (
        &["pull", "image", "images"],
        "argosy run --image runs an image; agents pull it when they need it",
    ),
];

/// Words where a command on an object is expected: object, words, command.
const OBJECT_COMMANDS: &[(&str, &[&str], &str)] = &[
    (
        "agent",
        &["drain", "cordon"],
        "argosy agent deactivate stops its offers",
    ),
    (
        "agent",
        &["uncordon", "activate", "enable", "eligibility"],
        "argosy agent reactivate resumes its offers",
    ),
    (
        "agent",
        &["rm", "delete", "remove", "purge"],
        "argosy agent gone declares that it never returns",
    ),
    (
        "agent",
        &["label", "taint", "set"],
        "argosy agent attribute sets its attributes",
    ),
    (
        "task",
        &["stop", "rm", "delete", "remove", "end"],
        "argosy task kill ends it",
    ),
    ("task", &["run", "start", "create"], "argosy run starts one"),
    (
        "task",
        &["logs", "cp", "exec", "attach", "explain", "update"],
        "it is a command of its own: argosy logs, cp, exec, attach, explain, update",
    ),
    (
        "group",
        &["stop", "rm", "delete", "remove"],
        "argosy group kill ends it",
    ),
    (
        "group",
        &["start", "create", "apply", "up"],
        "argosy group run starts one",
    ),
    (
        "framework",
        &["stop", "kill", "rm", "delete", "remove"],
        "argosy framework teardown removes it and ends its tasks",
    ),
    (
        "framework",
        &["logs", "log"],
        "argosy logs --framework shows the output of its tasks",
    ),
    (
        "group",
        &["logs", "log"],
        "argosy logs shows the output of its tasks",
    ),
    (
        "agent",
        &["logs", "log"],
        "its log is in the journal of its host, and argosy debug bundle collects it there",
    ),
    (
        "master",
        &["logs", "log"],
        "its log is in the journal of its host, and argosy debug bundle collects it there",
    ),
    ("master", &["add"], "argosy master join adds one"),
    (
        "master",
        &["elections", "history"],
        "argosy master failovers lists the changes of leader",
    ),
    (
        "master",
        &["rm", "delete", "leave"],
        "argosy master remove removes one",
    ),
    (
        "master",
        &["step-down", "stepdown", "demote"],
        "argosy master transfer transfers leadership",
    ),
    ("weight", &["get", "show"], "argosy weight list lists them"),
    (
        "secret",
        &["create", "add", "update"],
        "argosy secret set sets the value of one",
    ),
];

/// Words for commands that most objects have.
const COMMON: [(&[&str], &str); 2] = [
    (&["ls", "get", "ps", "status"], "list"),
    (&["show", "describe", "inspect", "info"], "show"),
];

/// Returns advice for an unknown word, after the name of an object or without.
pub(super) fn advice(object: Option<&str>, word: &str) -> Option<String> {
    let Some(object) = object else {
        let found = COMMANDS.iter().find(|(words, _)| words.contains(&word));
        return found.map(|(_, advice)| (*advice).to_owned());
    };
    let own = OBJECT_COMMANDS.iter();
    let mut own = own.filter(|(of, words, _)| *of == object && words.contains(&word));
    if let Some((_, _, advice)) = own.next() {
        return Some((*advice).to_owned());
    }
    let (_, command) = COMMON.iter().find(|(words, _)| words.contains(&word))?;
    let program = super::command();
    let has = |command: &str| {
        let object = program.find_subcommand(object);
        object.is_some_and(|object| object.find_subcommand(command).is_some())
    };
    // All that is known of the others is in their lists.
    let command = [*command, "list"]
        .into_iter()
        .find(|command| has(command))?;
    Some(format!("argosy {object} {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the commands that a text names as `argosy …`.
    fn named(text: &str) -> Vec<Vec<&str>> {
        let parts = text.split("argosy ").skip(1);
        parts
            .map(|part| {
                let end = part.find([',', ';', ':']).unwrap_or(part.len());
                part[..end].split(' ').collect()
            })
            .collect()
    }

    #[test]
    fn advice_names_commands_that_exist_for_words_that_do_not() {
        let program = super::super::command();
        let all = COMMANDS
            .iter()
            .map(|(words, advice)| (None, *words, *advice));
        let of_objects = OBJECT_COMMANDS.iter();
        let of_objects = of_objects.map(|(object, words, advice)| (Some(*object), *words, *advice));
        for (object, words, advice) in all.chain(of_objects) {
            let place = object.map_or(&program, |object| program.find_subcommand(object).unwrap());
            for word in words {
                assert!(place.find_subcommand(word).is_none(), "{word} is a command");
            }
            for line in named(advice) {
                let first = program.find_subcommand(line[0]);
                let first = first.unwrap_or_else(|| panic!("{} of {advice:?}", line[0]));
                if first.has_subcommands() {
                    assert!(
                        first.find_subcommand(line[1]).is_some(),
                        "{line:?} of {advice:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_object_that_is_not_shown_is_listed() {
        let advice = |object, word| advice(Some(object), word).unwrap();
        assert_eq!(advice("task", "describe"), "argosy task show");
        assert_eq!(advice("group", "describe"), "argosy group list");
        assert_eq!(advice("offer", "show"), "argosy offer list");
    }
}
