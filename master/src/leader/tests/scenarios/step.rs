//! The steps of a scenario. `framework-1` is meant unless a step names another framework.

use argosy_state::command::{CallAction, HeldTask, OperatorOperation};
use argosy_state::digest::DigestKind;
use argosy_state::framework::{Framework, FrameworkInfo, SchedulerConnection};
use argosy_state::ids::{ClusterId, Epoch, FrameworkId, OrderIndex, TaskId};
use argosy_state::task::{TaskLimits, TaskState};
use argosy_state::testing::{ScenarioLine, framework_info, spec};

use crate::leader::tests::fixture::{FRAMEWORK, World, new_agent, new_framework, task_key};
use crate::leader::{Hello, Input, SchedulerHello};
use crate::links::LinkId;

impl World {
    pub(super) fn given(world: &str) -> Self {
        match world {
            "nothing" => Self::new(),
            "offer" => Self::with_offer(),
            "running" => Self::with_running_task(),
            other => panic!("unknown world {other:?}"),
        }
    }

    /// Executes a step. Returns the facts that it shows; `entries` is the number of entries when
    /// they were last shown.
    #[expect(clippy::too_many_lines, reason = "a table of the steps")]
    pub(super) fn step(&mut self, line: &ScenarioLine<'_>, entries: &mut u64) -> Vec<String> {
        match line.word(0) {
            "epoch" => self.new_leader(),
            "pause" => self.pause(),
            "slow-log" => self.slow_log(),
            "commit" => self.commit(),
            "commit-together" => self.commit_together(),
            "too-large" => self.too_large(),
            "show-heartbeats" => self.shows_heartbeats = true,
            "show" => return self.show(line.word(1), entries),
            "pass" => {
                let pinging = (2..2 + line.words_from(2).len()).map(|at| link(line, at));
                self.advance_with(line.read(line.word(1)), &pinging.collect::<Vec<_>>());
            }
            "agent" => {
                let link = self.link();
                let nonce = line.number("nonce").unwrap_or(1_000 + link.0);
                self.hello(link, new_agent(nonce, line.word(1)));
            }
            "hello" => {
                let hello = self.hello_from(line);
                let link = line.number("link").map_or_else(|| self.link(), LinkId);
                self.hello(link, hello);
            }
            "list" => self.list_from(line),
            "update" => {
                let (task, update) = line.word(2).split_once('#').unwrap();
                let (number, state) = update.split_once(':').unwrap();
                let (number, state) = (line.read(number), state_named(state));
                self.report(link(line, 1), task, number, state);
            }
            "ping" => self.feed(Input::AgentPing {
                link: link(line, 1),
                serial: line.read(line.word(2)),
            }),
            "close-agent" => self.feed(Input::AgentClosed {
                link: link(line, 1),
            }),
            "close-framework" => self.feed(Input::FrameworkClosed {
                link: link(line, 1),
            }),
            "subscribe" => {
                let link = self.link();
                let first = new_framework(100 + link.0, framework_info(line.word(1)));
                let subscription = Self::subscription_from(line, first);
                self.subscribe_with(link, subscription);
            }
            "resume" => {
                let held: Option<Vec<_>> = line.pair("held").map(|held| held.split(',').collect());
                let present = self.subscription_of(FRAMEWORK, &held.unwrap_or_default());
                let subscription = Self::subscription_from(line, present);
                let link = self.link();
                self.subscribe_with(link, subscription);
            }
            "heartbeat" => {
                let (framework, session) = caller(line, 0);
                let request = self.request();
                let actor = self.actor.clone();
                self.feed(Input::FrameworkHeartbeat {
                    request,
                    actor,
                    framework,
                    session,
                });
            }
            "call" => self.call_from(line),
            "ack" => self.acknowledge(line.words_from(1)),
            "reconcile" => {
                let mut query = self.query(line.words_from(1), line.number("next").unwrap());
                (query.framework, query.session) = caller(line, query.session);
                self.send_query(query);
            }
            "decline" => self.decline(&[line.word(1)], line.number("filter").unwrap()),
            "operate" => {
                let (words, grace_ms) = (line.words_from(1), line.number("grace"));
                let parsed = OperatorOperation::from_words(words, grace_ms, &TaskLimits::default());
                self.operate(parsed.unwrap_or_else(|| panic!("{words:?} is not an operation")));
            }
            other => panic!("unknown step {other:?}"),
        }
        Vec::new()
    }

    fn show(&self, facts: &str, entries: &mut u64) -> Vec<String> {
        match facts {
            "agents" => {
                let agents = self.registry.agents();
                agents
                    .map(|agent| format!("{} {:?}", agent.id, agent.mode()))
                    .collect()
            }
            "frameworks" => {
                let frameworks = self.registry.frameworks();
                frameworks.map(framework_line).collect()
            }
            "tasks" => {
                let tasks = self.registry.tasks();
                tasks
                    .map(|task| format!("{} {:?}", task.key, task.state))
                    .collect()
            }
            "entries" => {
                let before = std::mem::replace(entries, self.entries());
                vec![format!("entries: {}", self.entries() - before)]
            }
            other => panic!("unknown facts {other:?}"),
        }
    }

    /// Returns the hello of a known agent, with the differences that the line names.
    fn hello_from(&self, line: &ScenarioLine<'_>) -> Hello {
        let mut hello = self.hello_of(line.agent(1));
        if let Some(floor) = line.number("floor") {
            hello.floor = OrderIndex(floor);
        }
        if let Some(digest) = line.pair("digest") {
            let tasks = hello.digests.entry(DigestKind::Task).or_default();
            let more = digest.strip_prefix('+');
            *tasks = more.map_or_else(
                || line.read(digest),
                |more| *tasks + line.read::<u128>(more),
            );
        }
        hello.cluster = cluster(line).or(hello.cluster);
        hello.highest_epoch = line.number("epoch").map_or(hello.highest_epoch, Epoch);
        hello.confirmed = line.number("confirmed").unwrap_or(hello.confirmed);
        hello.tried.extend(line.number("tried"));
        hello.boot_id = line.pair("boot").map_or(hello.boot_id, str::to_owned);
        hello
    }

    /// Sends a chunk of a list such as `a@1 b@2`, the last one unless `more` follow.
    fn list_from(&mut self, line: &ScenarioLine<'_>) {
        let held = line.words_from(2).iter().filter_map(|text| {
            let (task, order) = text.split_once('@')?;
            let (key, order) = (task_key(task), OrderIndex(line.read(order)));
            Some(HeldTask { key, order })
        });
        self.feed(Input::AgentList {
            link: link(line, 1),
            floor: OrderIndex(line.number("floor").unwrap()),
            held: held.collect(),
            last: !line.has("more"),
        });
    }

    fn subscription_from(line: &ScenarioLine<'_>, first: SchedulerHello) -> SchedulerHello {
        let named = line.pair("id").map(|id| line.read(id));
        SchedulerHello {
            cluster: cluster(line).or(first.cluster),
            framework: named.or(first.framework),
            session: line.number("session").unwrap_or(first.session),
            replaces: line.number("replaces").or(first.replaces),
            info: info(line, first.info.clone()),
            sends_heartbeats: line.has("heartbeats"),
            ..first
        }
    }

    /// Sends a call; the same call with the same number is a repeat.
    fn call_from(&mut self, line: &ScenarioLine<'_>) {
        let number = line
            .word(1)
            .strip_prefix('#')
            .map(|number| line.read(number));
        let mut tokens = Vec::new();
        let action = match line.words_from(1 + usize::from(number.is_some())) {
            ["accept", tasks @ ..] => {
                let specs = tasks.iter().map(|task| {
                    let (name, resources) = task.split_once(':').unwrap_or((task, "cpus:1"));
                    spec(name, resources)
                });
                let offers = line.pair("offers").unwrap().replace(',', " ");
                let accept;
                (accept, tokens) = self.acceptance(&offers, specs.collect());
                CallAction::Accept(accept)
            }
            ["kill", task] => CallAction::Kill {
                task: TaskId::new(task).unwrap(),
                grace_ms: None,
            },
            ["suppress"] => CallAction::Suppress(Vec::new()),
            ["revive"] => CallAction::Revive(Vec::new()),
            ["teardown"] => CallAction::Teardown,
            ["update"] => {
                let present = &self.registry.framework(FRAMEWORK).unwrap().info;
                CallAction::Update(info(line, (**present).clone()))
            }
            other => panic!("unknown call {other:?}"),
        };
        let mut call = self.call_of(action);
        call.number = number.unwrap_or(call.number);
        call.lowest_unanswered = line.number("low").unwrap_or(call.number);
        call.hash = line.number("hash").unwrap_or(call.number);
        (call.framework, call.session) = caller(line, call.session);
        self.send(call, tokens);
    }
}

/// Returns the framework and the session of a request.
fn caller(line: &ScenarioLine<'_>, session: u64) -> (FrameworkId, u64) {
    let framework = line.pair("framework").map_or(FRAMEWORK, |id| line.read(id));
    (framework, line.number("session").unwrap_or(session))
}

fn cluster(line: &ScenarioLine<'_>) -> Option<ClusterId> {
    let id = line.pair("cluster");
    id.map(|id| ClusterId(line.read(id)))
}

fn info(line: &ScenarioLine<'_>, present: FrameworkInfo) -> FrameworkInfo {
    let roles = line.roles("roles").map(|roles| roles.into_iter().collect());
    let principal = line.pair("principal").map(str::to_owned);
    FrameworkInfo {
        roles: roles.unwrap_or(present.roles),
        failover_timeout_ms: line
            .number("failover")
            .unwrap_or(present.failover_timeout_ms),
        principal: principal.unwrap_or(present.principal),
        ..present
    }
}

fn framework_line(framework: &Framework) -> String {
    let connection = match framework.connection {
        _ if framework.removing => "removing".to_owned(),
        SchedulerConnection::Connected => "connected".to_owned(),
        SchedulerConnection::Disconnected { since } => format!("disconnected at {}", since.0),
    };
    let roles = framework.info.roles.iter().map(|role| format!(" {role}"));
    let (id, failover_ms) = (framework.id, framework.info.failover_timeout_ms);
    format!(
        "{id} {connection}, {failover_ms} ms, in{}",
        roles.collect::<String>()
    )
}

fn link(line: &ScenarioLine<'_>, position: usize) -> LinkId {
    LinkId(line.read(line.word(position).trim_start_matches("link-")))
}

fn state_named(name: &str) -> TaskState {
    use TaskState::{Failed, Finished, Killed, Running};
    let states = [Running, Finished, Failed, Killed].into_iter();
    let mut named = states.filter(|state| format!("{state:?}").eq_ignore_ascii_case(name));
    named
        .next()
        .unwrap_or_else(|| panic!("unknown state {name:?}"))
}
