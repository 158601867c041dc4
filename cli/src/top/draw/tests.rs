//! Frames of `argosy top`, as a terminal of a given size shows them.

use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use expect_test::{Expect, expect};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::screen::KeyEffect;
use super::super::sums::Amounts;
use super::*;

const NOW_MS: i64 = 1_795_748_645_678;

fn resources(text: &str) -> Vec<v1::Resource> {
    argosy_client::resources::resources(text).unwrap()
}

/// A user at a terminal.
struct User {
    terminal: Terminal<TestBackend>,
    screen: Screen,
    state: ClusterState,
    link: LinkStatus,
    clock_ms: u64,
}

impl User {
    fn at(width: u16, height: u16, page: TopPage, state: ClusterState) -> Self {
        Self {
            terminal: Terminal::new(TestBackend::new(width, height)).unwrap(),
            screen: Screen::new(page),
            state,
            link: LinkStatus {
                master: "127.77.0.2:5050".to_owned(),
                event_ms: Some(5_000),
                problem: None,
            },
            clock_ms: 8_250,
        }
    }

    fn frame(&mut self) -> String {
        self.frame_with(false)
    }

    fn frame_with(&mut self, coloured: bool) -> String {
        let shown = Shown {
            state: &self.state,
            link: &self.link,
            time: FrameTime {
                wall_ms: NOW_MS,
                clock_ms: self.clock_ms,
            },
            coloured,
        };
        let screen = &mut self.screen;
        self.terminal
            .draw(|frame| draw(frame, screen, &shown))
            .unwrap();
        let buffer = self.terminal.backend().buffer();
        let lines = (0..buffer.area.height).map(|y| {
            let cells = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    fn press(&mut self, keys: &str) {
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\t' => KeyCode::Tab,
                other => KeyCode::Char(other),
            };
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            assert_eq!(self.screen.press(key), KeyEffect::Changed, "{letter:?}");
        }
    }

    fn shows(&mut self, expected: &Expect) {
        expected.assert_eq(&self.frame());
    }
}

fn record(kind: &str, id: &str, record: Record) -> Event {
    Event::Record(v1::WatchRecord {
        kind: kind.to_owned(),
        id: id.to_owned(),
        record: Some(record),
    })
}

fn agent(number: usize, host: &str, mode: v1::AgentMode) -> Event {
    let agent = v1::Agent {
        agent_id: format!("agent-{number}"),
        info: Some(v1::AgentInfo {
            host_name: host.to_owned(),
            resources: resources("cpus:16;mem:65536;disk:102400"),
            ..v1::AgentInfo::default()
        }),
        mode: mode.into(),
        ..v1::Agent::default()
    };
    record("agent", &format!("agent-{number}"), Record::Agent(agent))
}

fn framework(number: usize, name: &str, suppressed: bool) -> Event {
    let role = "web".to_owned();
    let framework = v1::Framework {
        framework_id: format!("framework-{number}"),
        suppressed_roles: if suppressed {
            vec![role.clone()]
        } else {
            Vec::new()
        },
        info: Some(v1::FrameworkInfo {
            name: name.to_owned(),
            roles: vec![role],
            ..v1::FrameworkInfo::default()
        }),
        connected: true,
        ..v1::Framework::default()
    };
    let id = format!("framework-{number}");
    record("framework", &id, Record::Framework(framework))
}

fn task(number: usize, id: &str, state: v1::TaskState) -> Event {
    let task = v1::Task {
        framework_id: "framework-1".to_owned(),
        task_id: id.to_owned(),
        agent_id: format!("agent-{}", number % 3 + 1),
        role: "web".to_owned(),
        state: state.into(),
        spec: Some(v1::TaskSpec {
            resources: resources("cpus:0.5;mem:64"),
            ..v1::TaskSpec::default()
        }),
        latest: Some(v1::TaskStatus {
            wall_ms: NOW_MS - 1_000 * i64::try_from(number).unwrap(),
            healthy: (number == 2).then_some(false),
            ..v1::TaskStatus::default()
        }),
        ..v1::Task::default()
    };
    record("task", &format!("framework-1/{id}"), Record::Task(task))
}

fn master(number: u64) -> v1::Master {
    v1::Master {
        node_id: format!("master-{number}"),
        api_address: format!("127.77.0.{number}:5050"),
        role: if number == 2 { "leader" } else { "follower" }.to_owned(),
        voter: true,
        lag: Some(number - 1),
        last_contact_ms: Some(40 * number),
        ..v1::Master::default()
    }
}

fn cluster(tasks: impl IntoIterator<Item = Event>) -> ClusterState {
    let mut state = ClusterState::default();
    let facts = v1::Cluster {
        leader: "master-2".to_owned(),
        epoch: 7,
        ..v1::Cluster::default()
    };
    let revision = v1::WatchSnapshot {
        revision: 1,
        ..Default::default()
    };
    let others = [
        record("cluster", "", Record::Cluster(facts)),
        agent(1, "node1.example", v1::AgentMode::Registered),
        agent(2, "node2.example", v1::AgentMode::Registered),
        agent(3, "node3.example", v1::AgentMode::Unreachable),
        framework(1, "web", false),
        framework(2, "batch", true),
    ];
    let events = [Event::SnapshotBegin(revision.clone())]
        .into_iter()
        .chain(others);
    let events = events.chain(tasks).chain([Event::SnapshotEnd(revision)]);
    events.for_each(|event| state.apply(event));
    state.summary = Some(v1::Cluster {
        cluster_id: "4f1c2c1e".to_owned(),
        feature_level: 3,
        masters: (1..=3).map(master).collect(),
        agents: 3,
        agents_unreachable: 1,
        frameworks: 2,
        offers: 2,
        total: resources("cpus:48;mem:196608;disk:307200;ports:[31000-31999]"),
        used: resources("cpus:1.5;mem:192"),
        ..v1::Cluster::default()
    });
    state.offered = Some(Amounts::of(&resources("cpus:15;mem:65408")));
    state.explain(
        "framework-1".to_owned(),
        "every agent that is large enough is busy or away".to_owned(),
    );
    state
}

fn three_tasks() -> Vec<Event> {
    vec![
        task(1, "web-1", v1::TaskState::Running),
        task(2, "web-2", v1::TaskState::Running),
        task(3, "web-10", v1::TaskState::Staging),
    ]
}

#[test]
fn the_page_of_the_cluster_has_masters_resources_and_counts() {
    let mut user = User::at(80, 24, TopPage::Cluster, cluster(three_tasks()));
    user.shows(&expect![[r#"
        argosy top                                                from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
        [1 Cluster] 2 Agents 3  3 Tasks 3  4 Frameworks 2  5 Roles
        MASTER    STATE     BEHIND  HEARD       API
        master-1  follower  0       40 ms ago   127.77.0.1:5050
        master-2  leader    -       -           127.77.0.2:5050
        master-3  follower  2       120 ms ago  127.77.0.3:5050

        RESOURCE  TOTAL    OFFERED   USED     SHARE
        cpus      48       15        1.5      3.1 %
        disk      300 GiB  0 B       0 B      0 %
        mem       192 GiB  63.9 GiB  192 MiB  0 %
        ports     1000     0         0        0 %

        cluster         4f1c2c1e
        feature level   3
        agents          3 (1 unreachable)
        frameworks      2
        live tasks      2 running, 1 staging
        open offers     2



        ? keys, q leaves
    "#]]);
}

#[test]
fn tasks_are_sorted_and_filtered_by_keys() {
    let mut user = User::at(90, 9, TopPage::Tasks, cluster(three_tasks()));
    user.shows(&expect![[r#"
        argosy top                                                          from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3 [3 Tasks 3] 4 Frameworks 2  5 Roles
        TASK    STATE                AGENT    FRAMEWORK    ROLE  CPUS  MEM     CHANGED▼
        web-1   running              agent-2  framework-1  web   0.5   64 MiB  1 s ago
        web-2   running (unhealthy)  agent-3  framework-1  web   0.5   64 MiB  2 s ago
        web-10  staging              agent-1  framework-1  web   0.5   64 MiB  3 s ago

        1-3 of 3  by CHANGED  ? keys, q leaves
    "#]]);
    user.press("<<<<<<<");
    user.shows(&expect![[r#"
        argosy top                                                          from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3 [3 Tasks 3] 4 Frameworks 2  5 Roles
        TASK▼   STATE                AGENT    FRAMEWORK    ROLE  CPUS  MEM     CHANGED
        web-10  staging              agent-1  framework-1  web   0.5   64 MiB  3 s ago
        web-2   running (unhealthy)  agent-3  framework-1  web   0.5   64 MiB  2 s ago
        web-1   running              agent-2  framework-1  web   0.5   64 MiB  1 s ago

        1-3 of 3  by TASK  ? keys, q leaves
    "#]]);
    user.press("r/web-1\n");
    user.shows(&expect![[r#"
        argosy top                                                          from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3 [3 Tasks 3] 4 Frameworks 2  5 Roles
        TASK▲   STATE    AGENT    FRAMEWORK    ROLE  CPUS  MEM     CHANGED
        web-1   running  agent-2  framework-1  web   0.5   64 MiB  1 s ago
        web-10  staging  agent-1  framework-1  web   0.5   64 MiB  3 s ago


        1-2 of 2  filter "web-1"  by TASK  ? keys, q leaves
    "#]]);
    user.press("\u{1b}");
    assert!(user.frame().contains("1-3 of 3"));
    user.press("/nothing");
    user.shows(&expect![[r#"
        argosy top                                                          from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3 [3 Tasks 3] 4 Frameworks 2  5 Roles
        TASK▲  STATE  AGENT  FRAMEWORK  ROLE  CPUS  MEM  CHANGED
        nothing matches the filter; Esc clears it



        filter: nothing_  Enter keeps it, Esc clears it
    "#]]);
}

#[test]
fn agents_frameworks_and_roles_have_pages() {
    let mut user = User::at(130, 8, TopPage::Agents, cluster(three_tasks()));
    user.shows(&expect![[r#"
        argosy top                                                                                                  from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster [2 Agents 3] 3 Tasks 3  4 Frameworks 2  5 Roles
        AGENT▲   HOST           STATE        TASKS  CPUS       MEM               DISK
        agent-1  node1.example  registered   1      0.5 of 16  64 MiB of 64 GiB  0 B of 100 GiB
        agent-2  node2.example  registered   1      0.5 of 16  64 MiB of 64 GiB  0 B of 100 GiB
        agent-3  node3.example  unreachable  1      0.5 of 16  64 MiB of 64 GiB  0 B of 100 GiB
        1-3 of 3  by AGENT  ? keys, q leaves
    "#]]);
    user.press("4");
    user.shows(&expect![[r#"
        argosy top                                                                                                  from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3  3 Tasks 3 [4 Frameworks 2] 5 Roles
        FRAMEWORK    NAME   STATE      ROLES  TASKS  CPUS  MEM      SHARE▼  DEMAND      WAITING
        framework-1  web    connected  web    3      1.5   192 MiB  3.1 %   offers      every agent that is large enough is busy or away
        framework-2  batch  connected  web    0      0     0 B      0 %     suppressed  -

        1-2 of 2  by SHARE  ? keys, q leaves
    "#]]);
    user.press("\t");
    user.shows(&expect![[r#"
        argosy top                                                                                                  from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3  3 Tasks 3  4 Frameworks 2 [5 Roles]
        ROLE  SHARE▼  WEIGHT  SHARE/WEIGHT  FRAMEWORKS  TAKE OFFERS  TASKS  CPUS  MEM
        web   3.1 %   1       3.1 %         2           1            3      1.5   192 MiB


        1-1 of 1  by SHARE  ? keys, q leaves
    "#]]);
    user.press("?");
    user.shows(&expect![[r#"
        argosy top                                                                                                  from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 running, 1 staging
         1 Cluster  2 Agents 3  3 Tasks 3  4 Frameworks 2 [5 Roles]
        1 2 3 4 5           cluster, agents, tasks, frameworks, roles
        Tab                 the next page; Shift-Tab the former one
        < >                 sort by the column before or after, also with the arrows
        r                   reverse the order
        1-1 of 1  by SHARE  ? keys, q leaves
    "#]]);
}

#[test]
fn a_narrow_terminal_has_the_most_important_columns() {
    let mut user = User::at(40, 10, TopPage::Tasks, cluster(three_tasks()));
    user.shows(&expect![[r#"
        argosy top        from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 runn…
        [Tasks 3] Tab: next page
        TASK    STATE                AGENT
        web-1   running              agent-2
        web-2   running (unhealthy)  agent-3
        web-10  staging              agent-1


        1-3 of 3  by CHANGED  ? keys, q leaves
    "#]]);
    user.press("1");
    user.shows(&expect![[r#"
        argosy top        from master-2, 3 s old
        leader master-2, epoch 7; tasks: 2 runn…
        [Cluster] Tab: next page
        MASTER    STATE     BEHIND  HEARD
        master-1  follower  0       40 ms ago
        master-2  leader    -       -
        master-3  follower  2       120 ms ago

        RESOURCE  TOTAL    USED     SHARE
        ? keys, q leaves
    "#]]);
    // Any size must do, and any page.
    for (width, height) in [(0, 0), (1, 1), (3, 4), (7, 5), (39, 2)] {
        for page in ["1", "2", "3", "4", "5", "?"] {
            user.press(page);
            user.terminal.backend_mut().resize(width, height);
            user.frame();
        }
    }
}

#[test]
fn a_list_does_not_scroll_under_the_help() {
    let mut user = User::at(40, 10, TopPage::Tasks, cluster(three_tasks()));
    let before = user.frame();
    user.press("?");
    let end = KeyEvent::new(KeyCode::End, KeyModifiers::NONE);
    assert_eq!(user.screen.press(end), KeyEffect::Ignored);
    user.frame();
    user.press("?");
    assert_eq!(user.frame(), before);
}

#[test]
fn hostile_names_are_shown_and_never_executed() {
    let hostile = "a\u{1b}[2J\u{9b}31m\u{202e}b\n";
    let tasks = [task(1, hostile, v1::TaskState::Running)];
    let mut state = cluster(tasks);
    state.apply(Event::Change(v1::WatchChange {
        record: match framework(3, &format!("{hostile}\u{1b}]0;x\u{7}"), false) {
            Event::Record(record) => Some(record),
            other => panic!("{other:?}"),
        },
        ..v1::WatchChange::default()
    }));
    let summary = state.summary.as_mut().unwrap();
    summary.total.push(v1::Resource {
        name: hostile.to_owned(),
        ..resources("cpus:1").remove(0)
    });
    summary.masters[0].api_address = hostile.to_owned();
    state.facts.leader = hostile.to_owned();
    let mut user = User::at(130, 16, TopPage::Cluster, state);
    user.link.master = hostile.to_owned();
    user.link.problem = Some(hostile.to_owned());
    for page in ["1", "2", "3", "4", "5"] {
        user.press(page);
        let frame = user.frame();
        let is_plain = |letter: char| letter == '\n' || !crate::output::is_hidden(letter);
        assert!(frame.chars().all(is_plain), "{frame:?}");
        assert!(frame.contains("\\u{1b}[2J"), "{frame}");
    }
    // Not even a filter that is pasted.
    user.press("/");
    user.screen.paste("x\u{1b}[2Jy");
    assert!(user.frame().contains("filter: x[2Jy_"));
    assert_eq!(user.screen.paste("\u{1b}"), KeyEffect::Ignored);
}

#[test]
fn the_age_of_the_data_and_the_lack_of_a_master_are_shown() {
    let mut user = User::at(80, 6, TopPage::Tasks, cluster(three_tasks()));
    user.link.problem = Some("no master answers: 127.77.0.1:5050 refused".to_owned());
    user.clock_ms = 17_900;
    let frame = user.frame();
    assert!(
        frame.contains("no events since master-2; data 12 s old"),
        "{frame}"
    );
    user.link.problem = None;
    assert!(user.frame().contains("data 12 s old"));
    user.link.event_ms = None;
    assert!(user.frame().contains("connecting"));

    let mut user = User::at(80, 6, TopPage::Tasks, ClusterState::default());
    let frame = user.frame();
    assert!(frame.contains("loading from 127.77.0.2:5050: 0"), "{frame}");
    assert!(
        frame.contains("waiting for the cluster's records"),
        "{frame}"
    );
}

#[test]
fn colours_change_nothing_but_colours() {
    let mut user = User::at(80, 12, TopPage::Tasks, cluster(three_tasks()));
    let plain = user.frame();
    let colours = |user: &User| {
        let buffer = user.terminal.backend().buffer();
        let coloured = buffer.content.iter().filter(|cell| cell.fg != Color::Reset);
        coloured.count()
    };
    assert_eq!(colours(&user), 0);
    assert_eq!(user.frame_with(true), plain);
    assert!(colours(&user) > 0);
}

fn ten_thousand_tasks() -> impl Iterator<Item = Event> {
    (0..10_000).map(|number| task(number, &format!("t-{number}"), v1::TaskState::Running))
}

#[test]
fn ten_thousand_tasks_are_scrolled_and_sorted() {
    let mut user = User::at(70, 8, TopPage::Tasks, cluster(ten_thousand_tasks()));
    user.shows(&expect![[r#"
        argosy top                                      from master-2, 3 s old
        leader master-2, epoch 7; tasks: 10000 running
         1 Cluster  2 Agents 3 [3 Tasks 10000] 4 Frameworks 2  5 Roles
        TASK  STATE                AGENT    FRAMEWORK    ROLE  CPUS  CHANGED▼
        t-0   running              agent-1  framework-1  web   0.5   0 ms ago
        t-1   running              agent-2  framework-1  web   0.5   1 s ago
        t-2   running (unhealthy)  agent-3  framework-1  web   0.5   2 s ago
        1-3 of 10000  by CHANGED  ? keys, q leaves
    "#]]);
    user.press("G");
    user.shows(&expect![[r#"
        argosy top                                      from master-2, 3 s old
        leader master-2, epoch 7; tasks: 10000 running
         1 Cluster  2 Agents 3 [3 Tasks 10000] 4 Frameworks 2  5 Roles
        TASK    STATE    AGENT    FRAMEWORK    ROLE  CPUS  MEM     CHANGED▼
        t-9997  running  agent-2  framework-1  web   0.5   64 MiB  2 h ago
        t-9998  running  agent-3  framework-1  web   0.5   64 MiB  2 h ago
        t-9999  running  agent-1  framework-1  web   0.5   64 MiB  2 h ago
        9998-10000 of 10000  by CHANGED  ? keys, q leaves
    "#]]);
    user.press("g");
    user.press("/t-99");
    assert!(user.frame().contains("t-99"));
    user.press("\n");
    assert!(user.frame().contains("1-3 of 111"), "{}", user.frame());
    user.press("\u{1b}");
    user.frame();
}

#[test]
fn removals_are_shown_at_once_and_new_tasks_in_order() {
    let mut user = User::at(70, 8, TopPage::Tasks, cluster(ten_thousand_tasks()));
    user.frame();
    for number in 0..9_999 {
        let id = format!("framework-1/t-{number}");
        user.state.apply(Event::Change(v1::WatchChange {
            record: Some(v1::WatchRecord {
                kind: "task".to_owned(),
                id,
                record: None,
            }),
            removed: true,
            ..v1::WatchChange::default()
        }));
    }
    assert!(user.frame().contains("1-1 of 1 "));
    let Event::Record(record) = task(0, "new", v1::TaskState::Staging) else {
        panic!("it is a record");
    };
    user.state.apply(Event::Change(v1::WatchChange {
        record: Some(record),
        ..v1::WatchChange::default()
    }));
    let frame = user.frame();
    assert!(
        frame.contains("t-9999") && !frame.contains("new"),
        "{frame}"
    );
    user.clock_ms += 1_000;
    user.shows(&expect![[r#"
        argosy top                                      from master-2, 4 s old
        leader master-2, epoch 7; tasks: 1 staging, 1 running
         1 Cluster  2 Agents 3 [3 Tasks 2] 4 Frameworks 2  5 Roles
        TASK    STATE    AGENT    FRAMEWORK    ROLE  CPUS  MEM     CHANGED▼
        new     staging  agent-1  framework-1  web   0.5   64 MiB  0 ms ago
        t-9999  running  agent-1  framework-1  web   0.5   64 MiB  2 h ago

        1-2 of 2  by CHANGED  ? keys, q leaves
    "#]]);
}
