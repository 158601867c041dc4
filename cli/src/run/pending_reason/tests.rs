//! Tests of the reasons for which a task waits.

use argosy_client::resources::resources;

use super::*;

fn agent(id: &str, has: &str, used: &str) -> v1::Agent {
    v1::Agent {
        agent_id: id.to_owned(),
        info: Some(v1::AgentInfo {
            resources: resources(has).unwrap(),
            ..v1::AgentInfo::default()
        }),
        mode: v1::AgentMode::Registered.into(),
        used: resources(used).unwrap(),
        ..v1::Agent::default()
    }
}

fn explanation(summary: &str, counts: &[(&str, u32)]) -> v1::Explanation {
    let count = |(reason, agents): &(&str, u32)| v1::ReasonCount {
        reason: (*reason).to_owned(),
        agents: *agents,
    };
    v1::Explanation {
        summary: summary.to_owned(),
        counts: counts.iter().map(count).collect(),
        ..v1::Explanation::default()
    }
}

fn reason_lines(wanted: &str, agents: &[v1::Agent], explanation: &v1::Explanation) -> String {
    let wanted = wanted.parse().unwrap();
    let known = PendingContext {
        requested: &wanted,
        security_options: &SecurityOptions::default(),
        sizes: Sizes::default(),
        attributes: &[],
        agents,
        explanation,
        framework_id: "framework-7",
        last_refusal: None,
    };
    let why = explain(&known);
    format!("{}\n{}", why.reason, why.lines.join("\n"))
}

#[test]
fn a_task_larger_than_every_agent_is_reported() {
    let agents = [
        agent("agent-1", "cpus:2;mem:1024", ""),
        agent("agent-2", "cpus:1;mem:1024", ""),
    ];
    let explanation = explanation(TOO_LARGE, &[("too-small", 2)]);
    assert_eq!(
        reason_lines("cpus:64;mem:32", &agents, &explanation),
        "no agent is large enough, now or later\n\
         requested 64 cpus; the largest agent has 2 (agent-1)\n\
         2 agents: 2 too small\n\
         helps: --cpus 2, or a larger agent"
    );
    let text = reason_lines("cpus:1;mem:4096", &agents, &explanation);
    assert!(
        text.contains("requested 4096 MiB of mem; the largest agent has 1024 (agent-"),
        "{text}"
    );
    assert!(text.contains("--mem 1024M"), "{text}");
}

#[test]
fn ports_and_devices_that_no_agent_offers_are_named() {
    let agents = [agent("agent-1", "cpus:2;mem:1024;ports:[31000-31999]", "")];
    let explanation = explanation(TOO_LARGE, &[("too-small", 1)]);
    let text = reason_lines("cpus:1;ports:[80-80]", &agents, &explanation);
    assert!(
        text.contains(
            "requested ports:[80-80]; no agent offers that; agent-1 offers ports:[31000-31999]"
        ),
        "{text}"
    );
    assert!(text.contains("helps: a port that is offered"), "{text}");
    let text = reason_lines("cpus:1;devices:{gpu0}", &agents, &explanation);
    assert!(text.contains("no agent offers any devices"), "{text}");
    assert!(
        text.contains("helps: argosy agent start --device"),
        "{text}"
    );
}

#[test]
fn the_masters_report_what_a_waiting_task_waits_for() {
    let agents = [agent("agent-1", "cpus:2;mem:1024", "cpus:1.5")];
    let busy = "every agent that is large enough is busy or away";
    let text = reason_lines("cpus:1", &agents, &explanation(busy, &[("busy", 1)]));
    assert!(text.starts_with(busy), "{text}");
    assert!(text.contains("1 agent: 1 busy\n"), "{text}");
    assert!(
        text.ends_with("helps: waiting for a task to end, or another agent"),
        "{text}"
    );
    let declined = "it was offered, and the framework declined";
    let counts = [("filtered", 1), ("busy", 1)];
    let text = reason_lines("cpus:1;mem:32", &agents, &explanation(declined, &counts));
    let command = "argosy explain framework-7 --wanted 'cpus:1;mem:32'";
    assert!(
        text.starts_with(declined) && text.contains(command),
        "{text}"
    );
}

#[test]
fn missing_agents_are_reported_with_the_remedy() {
    let none = explanation("there are no agents", &[]);
    let expected = "there are no agents\nhelps: argosy agent start on a host";
    assert_eq!(reason_lines("cpus:1", &[], &none), expected);
    let mut away = agent("agent-1", "cpus:2", "");
    away.mode = v1::AgentMode::Unreachable.into();
    let known = explanation("every agent is away", &[("unreachable", 1)]);
    let text = reason_lines("cpus:1", &[away], &known);
    assert!(
        text.ends_with("helps: argosy agent start on a host"),
        "{text}"
    );
}

#[test]
fn an_agent_that_is_away_counts_only_if_it_is_large_enough() {
    let mut away = agent("agent-2", "cpus:2;mem:1024", "");
    away.mode = v1::AgentMode::Unreachable.into();
    let agents = [agent("agent-1", "cpus:1;mem:1024", ""), away];
    let known = explanation(
        "every agent that is large enough is busy or away",
        &[("too-small", 1), ("unreachable", 1)],
    );
    let text = reason_lines("cpus:4;mem:32", &agents, &known);
    assert!(text.starts_with(TOO_LARGE), "{text}");
    assert!(
        text.contains("requested 4 cpus; the largest agent has 2 (agent-2)"),
        "{text}"
    );
    assert!(
        text.ends_with("helps: --cpus 2, or a larger agent"),
        "{text}"
    );
    let text = reason_lines("cpus:2;mem:32", &agents, &known);
    assert!(
        text.starts_with("every agent that is large enough is away\nrequested cpus:2;mem:32\n"),
        "{text}"
    );
    assert!(text.contains("1 unreachable"), "{text}");
    assert!(
        text.ends_with("\nhelps: the return of agent-2, or another agent"),
        "{text}"
    );
    // So does one that is deactivated.
    let mut deactivated = agents.clone();
    deactivated[1].mode = v1::AgentMode::Deactivated.into();
    let not_allowed = "no agent that is large enough may be used";
    let known = explanation(not_allowed, &[("too-small", 1), ("deactivated", 1)]);
    let text = reason_lines("cpus:4;mem:32", &deactivated, &known);
    assert!(text.starts_with(TOO_LARGE), "{text}");
    let text = reason_lines("cpus:2;mem:32", &deactivated, &known);
    assert!(text.starts_with(not_allowed), "{text}");
    // One that was declared gone never returns.
    let mut gone = agents.clone();
    gone[1].mode = v1::AgentMode::Gone.into();
    let text = reason_lines("cpus:2;mem:32", &gone, &known);
    assert!(text.starts_with(TOO_LARGE), "{text}");
}

#[test]
fn an_option_that_no_agent_allows_is_named_with_its_flag() {
    let wanted = "cpus:1".parse().unwrap();
    let requested = SecurityOptions {
        capabilities: [LinuxCapability::Chown].into(),
        ..SecurityOptions::default()
    };
    let mut agents = [
        agent("agent-1", "cpus:2", ""),
        agent("agent-2", "cpus:2", ""),
    ];
    let reason = |agents: &[v1::Agent]| {
        let known = PendingContext {
            requested: &wanted,
            security_options: &requested,
            sizes: Sizes::default(),
            attributes: &[],
            agents,
            explanation: &explanation("it is about to be offered", &[("ready", 2)]),
            framework_id: "framework-7",
            last_refusal: None,
        };
        explain(&known)
    };
    let why = reason(&agents);
    assert_eq!(why.reason, "no agent allows capability CHOWN");
    assert_eq!(
        why.lines,
        ["helps: argosy agent start --allow-capabilities CHOWN"]
    );
    agents[1].info.as_mut().unwrap().allowed_opt_outs = convert::opt_outs(&requested);
    assert_eq!(reason(&agents).reason, "it is about to be offered");
}

#[test]
fn a_size_that_no_agent_allows_is_named_with_its_flag() {
    let wanted = "cpus:1".parse().unwrap();
    let sizes = Sizes {
        shm_bytes: Some(2 << 20),
        ..Sizes::default()
    };
    let mut agents = [agent("agent-1", "cpus:2", "")];
    let reason = |agents: &[v1::Agent]| {
        let known = PendingContext {
            requested: &wanted,
            security_options: &SecurityOptions::default(),
            sizes,
            attributes: &[],
            agents,
            explanation: &explanation("it is about to be offered", &[("ready", 2)]),
            framework_id: "framework-7",
            last_refusal: None,
        };
        explain(&known)
    };
    let why = reason(&agents);
    assert_eq!(why.reason, "no agent allows shm_bytes of 2097152");
    let helps = "helps: argosy agent start --max-shm-size 2M";
    assert_eq!(why.lines, [helps]);
    agents[0].info.as_mut().unwrap().largest_sizes = convert::sizes(sizes);
    assert_eq!(reason(&agents).reason, "it is about to be offered");
}

#[test]
fn all_missing_permissions_of_an_agent_are_named_together() {
    let requested = SecurityOptions {
        capabilities: [
            LinuxCapability::Chown,
            LinuxCapability::Setgid,
            LinuxCapability::Setuid,
        ]
        .into(),
        new_privileges: true,
        ..SecurityOptions::default()
    };
    let allowed = SecurityOptions {
        capabilities: [LinuxCapability::Setgid].into(),
        ..SecurityOptions::default()
    };
    let of = |allowed: &SecurityOptions| allows(convert::opt_outs(allowed).as_ref(), &requested);
    let (what, flags) = of(&allowed).unwrap();
    assert_eq!(what, "the capabilities CHOWN, SETUID, new_privileges");
    assert_eq!(
        flags,
        "--allow-capabilities CHOWN,SETUID --allow-new-privileges"
    );
    assert_eq!(of(&requested), None);
    let server = SecurityOptions {
        capabilities: LinuxCapability::SERVER.into(),
        ..SecurityOptions::default()
    };
    let of = |allowed: &SecurityOptions| allows(convert::opt_outs(allowed).as_ref(), &server);
    let named = Some((
        "the capabilities SERVER".to_owned(),
        "--allow-capabilities SERVER".to_owned(),
    ));
    assert_eq!(of(&SecurityOptions::default()), named);
    assert_eq!(of(&allowed), named, "as a whole");
}

#[test]
fn attributes_that_no_agent_has_are_named() {
    let wanted = ["rack=r7", "ssd"].map(|text| LabelFilter::parse(text).unwrap());
    let mut agents = [
        agent("agent-1", "cpus:2", ""),
        agent("agent-2", "cpus:2", ""),
    ];
    let reason = |agents: &[v1::Agent]| {
        let known = PendingContext {
            requested: &"cpus:1".parse().unwrap(),
            security_options: &SecurityOptions::default(),
            sizes: Sizes::default(),
            attributes: &wanted,
            agents,
            explanation: &explanation("it waits", &[("filtered", 2)]),
            framework_id: "framework-7",
            last_refusal: None,
        };
        let why = explain(&known);
        format!("{}; {}", why.reason, why.lines.join("; "))
    };
    let found = reason(&agents);
    assert!(
        found.starts_with("no agent has rack=r7 and ssd; "),
        "{found}"
    );
    let pairs = [("rack", "r7"), ("ssd", "")];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    agents[1].info.as_mut().unwrap().attributes = pairs.into();
    let found = reason(&agents);
    assert!(found.starts_with("it waits"), "{found}");
    agents[1].set_mode(v1::AgentMode::Deactivated);
    assert_eq!(
        reason(&agents),
        "no agent that gets tasks has rack=r7 and ssd; agent-2 has it and is deactivated; \
         helps: argosy agent reactivate agent-2"
    );
    agents[1].set_mode(v1::AgentMode::Gone);
    let found = reason(&agents);
    assert!(
        found.starts_with("no agent has rack=r7 and ssd; "),
        "{found}"
    );
}

#[test]
fn the_last_refusal_is_shown() {
    let wanted = "cpus:1".parse().unwrap();
    let known = PendingContext {
        requested: &wanted,
        security_options: &SecurityOptions::default(),
        sizes: Sizes::default(),
        attributes: &[],
        agents: &[],
        explanation: &explanation("there are no agents", &[]),
        framework_id: "framework-7",
        last_refusal: Some("offer 1.2 is used"),
    };
    assert_eq!(
        explain(&known).lines[0],
        "the last launch was rejected: offer 1.2 is used"
    );
}
