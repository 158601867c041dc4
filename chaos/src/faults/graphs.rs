//! Connectivity graphs: every graph of five masters, with each place of the leader.
//!
//! Numbers and names only. They do not depend on a simulation.

use std::collections::BTreeMap;
use std::fmt;

/// Masters of each graph.
pub(crate) const MASTERS: usize = 5;
/// Pairs of masters, each connected or not.
const PAIRS: usize = MASTERS * (MASTERS - 1) / 2;
/// All graphs, with each place of the leader.
pub(crate) const CASES: u64 = (MASTERS as u64) << PAIRS;
/// The number of classes that remain if followers are interchangeable. One case of each class comes
/// first.
pub(crate) const CLASSES: u64 = 90;
/// Cases that a seed runs, one after the other.
const PER_SEED: u64 = 6;

/// The direct connections between masters, in both directions: one bit for each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Graph(u16);

fn pair(one: usize, other: usize) -> usize {
    let (low, high) = (one.min(other), one.max(other));
    high * (high - 1) / 2 + low
}

/// Returns every pair, the lower index first.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..MASTERS).flat_map(|high| (0..high).map(move |low| (low, high)))
}

impl Graph {
    /// Returns the graph with these links and no others.
    #[cfg(test)]
    pub(crate) fn of(joined: &[(usize, usize)]) -> Self {
        let bits = joined.iter();
        Self(bits.fold(0, |bits, (one, other)| bits | 1 << pair(*one, *other)))
    }

    pub(crate) fn has_link(self, one: usize, other: usize) -> bool {
        one != other && self.0 >> pair(one, other) & 1 == 1
    }

    /// Returns the pairs that are not connected, the lower index first.
    pub(crate) fn missing_links(self) -> impl Iterator<Item = (usize, usize)> {
        pairs().filter(move |(one, other)| !self.has_link(*one, *other))
    }

    pub(crate) fn neighbours(self, place: usize) -> impl Iterator<Item = usize> {
        (0..MASTERS).filter(move |other| self.has_link(place, *other))
    }

    /// Whether this master and its neighbours are a majority. Raft does not forward messages, so
    /// only direct connections count.
    pub(crate) fn reaches_majority(self, place: usize) -> bool {
        self.neighbours(place).count() + 1 > MASTERS / 2
    }

    /// Returns the graph in which every master has moved to its index in `to`.
    fn relabelled(self, to: &[usize]) -> Self {
        let joined = pairs().filter(|(one, other)| self.has_link(*one, *other));
        Self(joined.fold(0, |bits, (one, other)| bits | 1 << pair(to[one], to[other])))
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = pairs().filter(|(one, other)| self.has_link(*one, *other));
        let names = joined.map(|(one, other)| format!("{}-{}", one + 1, other + 1));
        let names = names.collect::<Vec<_>>().join(" ");
        f.write_str(if names.is_empty() { "none" } else { &names })
    }
}

/// A graph, and the leader when it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GraphCase {
    pub(crate) graph: Graph,
    pub(crate) leader: usize,
}

impl fmt::Display for GraphCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { graph, leader } = self;
        write!(f, "links {graph}, master-{} leads", leader + 1)
    }
}

impl GraphCase {
    fn all() -> impl Iterator<Item = Self> {
        let graphs = (0..1 << PAIRS).map(Graph);
        graphs.flat_map(|graph| (0..MASTERS).map(move |leader| Self { graph, leader }))
    }

    /// Returns the class of the case with interchangeable followers: the smallest graph that equals
    /// this one with the leader first and the followers in some order.
    fn class(self, orders: &[Vec<usize>]) -> Graph {
        let led = |order: &&Vec<usize>| order[self.leader] == 0;
        let graphs = orders.iter().filter(led);
        let graphs = graphs.map(|order| self.graph.relabelled(order));
        graphs.min().unwrap_or(self.graph)
    }
}

/// Returns every order of these indexes.
fn orders(places: &[usize]) -> Vec<Vec<usize>> {
    let Some((first, rest)) = places.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for order in orders(rest) {
        for at in 0..=order.len() {
            let mut order = order.clone();
            order.insert(at, *first);
            all.push(order);
        }
    }
    all
}

/// All cases in the order in which they are run: first one of each class, then every other one.
pub(crate) struct GraphCases {
    cases: Vec<GraphCase>,
}

impl GraphCases {
    pub(crate) fn new() -> Self {
        let places: Vec<usize> = (0..MASTERS).collect();
        let orders = orders(&places);
        let mut classes: BTreeMap<Graph, Vec<GraphCase>> = BTreeMap::new();
        for case in GraphCase::all() {
            classes.entry(case.class(&orders)).or_default().push(case);
        }
        // Any case of a class will do. This varies the place of the leader.
        let firsts = classes.values().enumerate();
        let mut cases: Vec<GraphCase> = firsts
            .map(|(number, class)| class[number * 7 % class.len()])
            .collect();
        let others: Vec<GraphCase> = GraphCase::all()
            .filter(|case| !cases.contains(case))
            .collect();
        cases.extend(others);
        Self { cases }
    }

    pub(crate) fn of_seed(&self, seed: u64) -> impl Iterator<Item = GraphCase> {
        numbers(seed).map(|number| self.cases[number as usize])
    }
}

/// Returns the numbers of the cases of a seed. After the last case the first one follows.
pub(crate) fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let first = seed.wrapping_sub(1).wrapping_mul(PER_SEED);
    (0..PER_SEED).map(move |step| first.wrapping_add(step) % CASES)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_graph_and_leader_pairs_occur_once_with_one_of_each_class_first() {
        let atlas = GraphCases::new();
        assert_eq!(atlas.cases.len() as u64, CASES);
        let distinct: BTreeSet<_> = atlas.cases.iter().collect();
        assert_eq!(distinct.len() as u64, CASES);
        let all = orders(&[0, 1, 2, 3, 4]);
        let firsts = &atlas.cases[..CLASSES as usize];
        let classes: BTreeSet<_> = firsts.iter().map(|case| case.class(&all)).collect();
        assert_eq!(classes.len() as u64, CLASSES);
        let others = GraphCase::all().map(|case| case.class(&all));
        assert!(others.into_iter().all(|class| classes.contains(&class)));
        let leaders: BTreeSet<_> = firsts.iter().map(|case| case.leader).collect();
        assert_eq!(leaders.len(), MASTERS, "not the same one leads always");
    }

    /// Burnside's lemma: the number of classes is the average number of graphs that an order of the
    /// four followers leaves unchanged. That number is two to the power of the order's cycles of
    /// pairs. The cycles of the leader's pairs are the cycles of followers.
    #[test]
    fn the_number_of_graph_classes_matches_burnsides_lemma() {
        let followers = orders(&[1, 2, 3, 4]);
        assert_eq!(followers.len(), 24);
        let fixed: u64 = followers.iter().map(|order| 1 << cycles(order)).sum();
        assert_eq!(fixed, 24 * CLASSES);
    }

    fn cycles(order: &[usize]) -> u32 {
        let to = |place: usize| if place == 0 { 0 } else { order[place - 1] };
        let mut seen = BTreeSet::new();
        let mut cycles = 0;
        for (one, other) in pairs() {
            let (mut one, mut other) = (one, other);
            cycles += u32::from(!seen.contains(&pair(one, other)));
            while seen.insert(pair(one, other)) {
                (one, other) = (to(one), to(other));
            }
        }
        cycles
    }

    #[test]
    fn consecutive_seeds_cover_all_graphs() {
        let classes: BTreeSet<u64> = (1..=15).flat_map(numbers).collect();
        assert_eq!(classes, (0..CLASSES).collect());
        let all: BTreeSet<u64> = (1..=854).flat_map(numbers).collect();
        assert_eq!(all.len() as u64, CASES);
    }

    #[test]
    fn the_nodes_of_a_graph_that_reach_a_majority_are_found() {
        let star = Graph::of(&[(0, 1), (0, 2), (0, 3), (0, 4)]);
        assert_eq!(star.to_string(), "1-2 1-3 1-4 1-5");
        assert!(star.reaches_majority(0) && !star.reaches_majority(1));
        assert_eq!(star.neighbours(3).collect::<Vec<_>>(), [0]);
        assert_eq!(star.missing_links().count(), 6);
        let case = GraphCase {
            graph: star,
            leader: 2,
        };
        assert_eq!(case.to_string(), "links 1-2 1-3 1-4 1-5, master-3 leads");
        assert_eq!(Graph(0).to_string(), "none");
    }
}
