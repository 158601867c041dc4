//! A straightforward allocator: maps by name, shares in floats, and all frameworks sorted again for
//! each agent. It is the peer of the real one, with the same clusters and the same offers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use super::fixture::RESOURCES;

/// Pairs of agents and frameworks beyond which only a part of the agents is timed.
const MAX_PAIRS: u64 = 40_000_000;

pub(super) struct NaiveResult {
    /// Time for all agents; scaled if fewer were timed.
    pub(super) whole_ms: f64,
    /// Number of agents that were timed.
    pub(super) agents: u64,
}

struct Framework {
    allocated: HashMap<String, f64>,
}

/// Runs one full round with everything free.
pub(super) fn round(agents: u64, frameworks: u64) -> NaiveResult {
    let resources = parse(RESOURCES);
    let free: BTreeMap<String, HashMap<String, f64>> = (0..agents)
        .map(|agent| (format!("agent-{agent}"), resources.clone()))
        .collect();
    let mut all: HashMap<String, Framework> = (0..frameworks)
        .map(|framework| {
            let allocated = HashMap::new();
            (format!("framework-{framework}"), Framework { allocated })
        })
        .collect();
    let mut totals: HashMap<String, f64> = HashMap::new();
    for resources in free.values() {
        add(&mut totals, resources);
    }
    let filters: HashSet<(String, String)> = HashSet::new();
    let timed = agents.min(MAX_PAIRS / frameworks);
    let mut offers = Vec::new();
    let begin = Instant::now();
    for (agent, free) in free.iter().take(timed as usize) {
        let mut order: Vec<(f64, &String)> = all
            .iter()
            .map(|(name, framework)| (share(framework, &totals), name))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        let next = order
            .iter()
            .map(|(_, name)| (*name).clone())
            .find(|name| !filters.contains(&(name.clone(), agent.clone())));
        if let Some(name) = next {
            if let Some(framework) = all.get_mut(&name) {
                add(&mut framework.allocated, free);
            }
            offers.push((name, agent.clone(), free.clone()));
        }
    }
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    assert_eq!(offers.len() as u64, timed, "every agent was offered");
    NaiveResult {
        whole_ms: ms * agents as f64 / timed as f64,
        agents: timed,
    }
}

fn share(framework: &Framework, totals: &HashMap<String, f64>) -> f64 {
    let shares = framework
        .allocated
        .iter()
        .map(|(name, amount)| amount / totals[name]);
    shares.fold(0.0, f64::max)
}

fn add(sum: &mut HashMap<String, f64>, part: &HashMap<String, f64>) {
    for (name, amount) in part {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

fn parse(text: &str) -> HashMap<String, f64> {
    text.split(';')
        .filter_map(|part| part.split_once(':'))
        .filter_map(|(name, amount)| Some((name.to_owned(), amount.parse().ok()?)))
        .collect()
}
