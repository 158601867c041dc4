//! Names of objects as candidates, from any master that answers in time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use argosy_proto::v1;
use clap_complete::engine::CompletionCandidate;

use crate::args::{ClientTls, ClusterArguments};
use crate::contexts::ChosenCluster;
use crate::exit::Failure;
use crate::objects::calls;
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{framework_state, group_of, mode_word, state_word, visible_line};
use crate::parsers;

/// Time for the names to arrive. Starting this program takes the rest of half a second.
const TIMEOUT: Duration = Duration::from_millis(400);
/// Maximum number of candidates.
pub(super) const MAX_CANDIDATES: usize = 1_000;
/// Maximum length of a description, in characters.
const MAX_HELP: usize = 60;

/// The objects whose names are candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    Masters,
    Agents,
    LiveTasks,
    /// Ended tasks too.
    Tasks,
    TasksAndFrameworks,
    Frameworks,
    Groups,
    Roles,
}

/// Names with a description each.
pub(super) type Names = BTreeMap<String, String>;

/// Returns the names that begin with `current`; none if no master answers in time.
pub(super) fn candidates(
    kind: NameKind,
    line: &[String],
    current: &str,
) -> Vec<CompletionCandidate> {
    let prefix = current.to_owned();
    let names = async move |operator: ClusterClient| names_of(&operator, kind, &prefix).await;
    read(line, current, names)
}

/// Returns what `names` reads from the masters that the line names, if it begins with `current` and
/// arrives in time.
pub(super) fn read(
    line: &[String],
    current: &str,
    names: impl AsyncFnOnce(ClusterClient) -> Result<Names, Failure> + Send + 'static,
) -> Vec<CompletionCandidate> {
    let Ok(cluster) = cluster(line) else {
        return Vec::new();
    };
    let (sender, received) = sync_channel(1);
    // A thread, because the resolution of a host name cannot be interrupted.
    let read = move || {
        let mut found = Names::new();
        // A failure has no place to be shown.
        let _ = calls(async {
            let ChosenCluster { masters, transport } = ChosenCluster::of(&cluster)?;
            found = names(ClusterClient::to(masters, TIMEOUT, transport)).await?;
            Ok(crate::exit::DONE)
        });
        // The receiver has given up.
        let _ = sender.send(found);
    };
    let started = std::thread::Builder::new().spawn(read);
    let names = match started {
        Ok(_) => received.recv_timeout(TIMEOUT).unwrap_or_default(),
        Err(_) => Names::new(),
    };
    let names = names.into_iter().filter(|(name, _)| is_plain(name));
    let matching = names.filter(|(name, _)| name.starts_with(current));
    let candidates = matching.take(MAX_CANDIDATES).map(|(name, help)| {
        let help: String = visible_line(&help).chars().take(MAX_HELP).collect();
        let help = (!help.is_empty()).then(|| help.into());
        CompletionCandidate::new(name).help(help)
    });
    candidates.collect()
}

/// Returns the kind of the object that `argosy wait` names.
pub(super) fn waited(line: &[String]) -> Option<NameKind> {
    let mut words = line.iter().skip_while(|word| *word != "wait");
    words.find_map(|word| match word.as_str() {
        "task" => Some(NameKind::Tasks),
        "agent" => Some(NameKind::Agents),
        "framework" => Some(NameKind::Frameworks),
        _ => None,
    })
}

/// Returns what the line and the environment name of the cluster.
fn cluster(line: &[String]) -> Result<ClusterArguments, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let (masters, context) = (value(line, "--masters"), value(line, "--context"));
    // A context that the line names takes precedence over variables.
    let token_file = value(line, "--token-file");
    let (masters, context, tls, token_file) = match context {
        Some(context) => (masters, Some(context), ClientTls::default(), token_file),
        None => (
            masters.or_else(|| variable("ARGOSY_MASTERS")),
            variable("ARGOSY_CONTEXT"),
            ClientTls::of_environment(),
            token_file.or_else(|| variable("ARGOSY_TOKEN_FILE")),
        ),
    };
    Ok(ClusterArguments {
        masters: masters.map(|named| parsers::masters(&named)).transpose()?,
        context: context.map(|named| named.parse()).transpose()?,
        tls,
        token_file: token_file.map(PathBuf::from),
    })
}

/// Returns the value of a flag in the line.
fn value(line: &[String], flag: &str) -> Option<String> {
    let after = line.iter().skip_while(|word| *word != flag).nth(1);
    let joined = line.iter().find_map(|word| {
        let rest = word.strip_prefix(flag)?;
        rest.strip_prefix('=')
    });
    after.map(String::as_str).or(joined).map(str::to_owned)
}

/// Returns whether every shell takes this as one word without a meaning: it is inserted as it is.
pub(super) fn is_plain(name: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain)
}

pub(super) async fn names_of(
    operator: &ClusterClient,
    kind: NameKind,
    prefix: &str,
) -> Result<Names, Failure> {
    let mut names: Names = match kind {
        NameKind::Masters => {
            let cluster = operator.cluster(v1::Consistency::Local).await?;
            let masters = cluster.masters.into_iter();
            masters
                .map(|master| (master.node_id, master.api_address))
                .collect()
        }
        NameKind::Agents => agents(&operator.agent_names().await?),
        NameKind::LiveTasks => {
            let tasks = operator.task_names(EndedObjects::Excluded).await?;
            of_tasks(&tasks, prefix)
        }
        NameKind::Tasks | NameKind::TasksAndFrameworks => {
            let tasks = operator.task_names(EndedObjects::Included).await?;
            of_tasks(&tasks, prefix)
        }
        NameKind::Groups => groups(&operator.task_names(EndedObjects::Excluded).await?),
        NameKind::Frameworks | NameKind::Roles => Names::new(),
    };
    match kind {
        NameKind::TasksAndFrameworks | NameKind::Frameworks => {
            names.extend(frameworks(&operator.framework_names().await?));
        }
        NameKind::Roles => names.extend(roles(&operator.framework_names().await?)),
        NameKind::Masters
        | NameKind::Agents
        | NameKind::LiveTasks
        | NameKind::Tasks
        | NameKind::Groups => {}
    }
    Ok(names)
}

fn agents(agents: &[v1::Agent]) -> Names {
    let mut names = Names::new();
    for agent in agents {
        let host = agent.info.as_ref().map_or("", |info| &info.host_name);
        let mode = mode_word(agent.mode);
        names.insert(agent.agent_id.clone(), format!("{mode} {host}"));
        names.insert(host.to_owned(), format!("{mode} {}", agent.agent_id));
    }
    names
}

/// With a `/`, the user names the framework too.
fn of_tasks(tasks: &[v1::Task], prefix: &str) -> Names {
    let named = tasks.iter().map(|task| {
        let name = match prefix.contains('/') {
            true => format!("{}/{}", task.framework_id, task.task_id),
            false => task.task_id.clone(),
        };
        (
            name,
            format!("{} {}", state_word(task.state), task.agent_id),
        )
    });
    named.collect()
}

fn groups(tasks: &[v1::Task]) -> Names {
    let named = tasks.iter().filter_map(|task| {
        let group = group_of(task)?;
        Some((group.group_id.clone(), task.framework_id.clone()))
    });
    named.collect()
}

fn frameworks(frameworks: &[v1::Framework]) -> Names {
    let mut names = Names::new();
    for framework in frameworks {
        let name = framework.info.as_ref().map_or("", |info| &info.name);
        let state = framework_state(framework);
        names.insert(framework.framework_id.clone(), format!("{state} {name}"));
        names.insert(
            name.to_owned(),
            format!("{state} {}", framework.framework_id),
        );
    }
    names
}

fn roles(frameworks: &[v1::Framework]) -> Names {
    let infos = frameworks
        .iter()
        .filter_map(|framework| framework.info.as_ref());
    let roles = infos.flat_map(|info| &info.roles);
    roles.map(|role| (role.clone(), String::new())).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn line(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn names_that_a_shell_would_interpret_are_left_out() {
        for name in ["web-3", "framework-1/web:2@x_y", "node7.example"] {
            assert!(is_plain(name), "{name}");
        }
        for name in [
            "",
            "-rf",
            "$(reboot)",
            "a b",
            "a;b",
            "a\u{1b}[2J",
            "a'b",
            "a*",
            "~a",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn tasks_are_named_with_their_framework_after_a_slash() {
        let tasks = [v1::Task {
            framework_id: "framework-1".to_owned(),
            task_id: "web".to_owned(),
            agent_id: "agent-2".to_owned(),
            state: v1::TaskState::Running.into(),
            ..v1::Task::default()
        }];
        let names = of_tasks(&tasks, "w");
        assert_eq!(
            names.get("web").map(String::as_str),
            Some("running agent-2")
        );
        assert!(of_tasks(&tasks, "framework-1/").contains_key("framework-1/web"));
    }

    #[test]
    fn kind_and_cluster_come_from_the_line() {
        assert_eq!(waited(&line("argosy wait task w")), Some(NameKind::Tasks));
        assert_eq!(waited(&line("argosy wait a")), None);
        let named = |text: &str| cluster(&line(text)).map(|cluster| cluster.masters.unwrap());
        let masters = named("argosy ps --masters 10.0.0.1 --agent a").unwrap();
        assert_eq!(masters.addresses(), ["10.0.0.1:5050"]);
        let masters = named("argosy ps --masters=10.0.0.2 --agent a").unwrap();
        assert_eq!(masters.addresses(), ["10.0.0.2:5050"]);
        assert!(named("argosy ps --masters a:b").is_err());
        let context = cluster(&line("argosy ps --context prod")).unwrap().context;
        assert_eq!(context.unwrap().to_string(), "prod");
    }

    #[test]
    fn a_master_that_never_answers_costs_the_timeout_only() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let words = line(&format!("argosy agent show --masters {address} a"));
        let started = Instant::now();
        let found = candidates(NameKind::Agents, &words, "a");
        assert!(found.is_empty());
        assert!(started.elapsed() < 5 * TIMEOUT);
    }
}
