//! `argosy-chaos prove`: mutation testing. It plants each bug, runs seeds until one of its rules
//! names it, and shows that the same seeds are clean without it. A harness that finds nothing has
//! not shown that there is nothing.

use std::path::PathBuf;

use argosy_state::bugs::{Bug, UnknownBug};
use clap::{Args, ValueEnum};

use crate::bugs::PlantedBug;
use crate::rng::Rng;

/// Searches for planted bugs, one after the other
#[derive(Debug, Args)]
pub struct ProveArguments {
    /// The harness that searches for the bugs
    #[arg(long, value_enum, value_name = "PLACE", default_value_t = HarnessName::Simulation)]
    pub place: HarnessName,
    /// Only these bugs [default: all bugs of the harness]
    #[arg(long, value_name = "BUG", value_delimiter = ',')]
    pub only: Vec<String>,
    /// A random choice of this many bugs, among those that few seeds show
    #[arg(long, value_name = "COUNT", conflicts_with = "only")]
    pub random: Option<usize>,
    /// The seed of the choice of --random
    #[arg(long, value_name = "NUMBER", requires = "random", default_value_t = 1)]
    pub random_seed: u64,
    /// The executable with the bugs, built with --features argosy-cli/testing [default: the argosy
    /// next to this program]
    #[arg(long, value_name = "PATH")]
    pub argosy: Option<PathBuf>,
    /// Number of seeds that must find each bug
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub times: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Seconds until the search for a bug ends without success
    #[arg(
        long,
        alias = "patience",
        value_name = "SECONDS",
        default_value_t = 1800
    )]
    pub timeout: u64,
    /// Seeds that run at the same time [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    pub at_a_time: Option<usize>,
    /// Write the results to this file, as a table in Markdown
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// List the planted bugs instead
    #[arg(long)]
    pub list: bool,
}

/// The harness that searches for bugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HarnessName {
    /// In simulations
    Simulation,
    /// Under real processes; needs root
    Processes,
}

/// Runs the search and prints each result. Returns the exit code: 1 if a bug was not found by one
/// of its rules, 2 if this executable cannot run the search.
#[must_use]
pub fn prove(arguments: &ProveArguments) -> u8 {
    let planted = match chosen(arguments) {
        Ok(planted) => planted,
        Err(error) => {
            eprintln!("argosy-chaos: {error}: see argosy-chaos prove --list");
            return 2;
        }
    };
    if arguments.list {
        for planted in planted {
            println!("{:24} {}", planted.bug.name(), planted.bug.meaning());
        }
        return 0;
    }
    search(arguments, &planted)
}

fn chosen(arguments: &ProveArguments) -> Result<Vec<PlantedBug>, UnknownBug> {
    let mut planted = match arguments.place {
        HarnessName::Simulation => crate::bugs::simulated(),
        HarnessName::Processes => crate::bugs::real(),
    };
    if !arguments.only.is_empty() {
        let named = arguments.only.iter().map(|name| name.parse());
        let named: Vec<Bug> = named.collect::<Result<_, _>>()?;
        planted.retain(|planted| named.contains(&planted.bug));
    }
    if let Some(count) = arguments.random {
        planted.retain(|planted| !crate::bugs::is_slow(planted.bug));
        let mut rng = Rng::new(arguments.random_seed);
        while planted.len() > count {
            let out = rng.below(planted.len() as u64);
            planted.remove(usize::try_from(out).unwrap_or(0));
        }
    }
    Ok(planted)
}

#[cfg(not(feature = "testing"))]
fn search(_arguments: &ProveArguments, _planted: &[crate::bugs::PlantedBug]) -> u8 {
    eprintln!(
        "argosy-chaos: no bug can be planted in this executable: cargo build -p argosy-chaos --features testing"
    );
    2
}

#[cfg(any(test, feature = "testing"))]
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, reason = "only `seed_search` uses it")
)]
mod checks;
#[cfg(feature = "testing")]
mod real;
#[cfg(feature = "testing")]
mod seed_search;

#[cfg(feature = "testing")]
use seed_search::search;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct TestArguments {
        #[command(flatten)]
        arguments: ProveArguments,
    }

    fn choose(words: &[&str]) -> Result<Vec<Bug>, UnknownBug> {
        let words = ["prove"].iter().chain(words);
        let line: TestArguments = clap::Parser::parse_from(words);
        let chosen = chosen(&line.arguments)?;
        Ok(chosen.into_iter().map(|planted| planted.bug).collect())
    }

    #[test]
    fn bugs_are_selected_by_name_and_unknown_names_rejected() {
        assert!(choose(&[]).unwrap().len() >= 49);
        assert_eq!(
            choose(&["--only", "shared-order"]),
            Ok(vec![Bug::SharedOrder])
        );
        let error = choose(&["--only", "x"]).unwrap_err();
        assert_eq!(error.to_string(), "\"x\" is not a planted bug");
        let real = choose(&["--place", "processes"]).unwrap();
        assert!(
            real.contains(&Bug::CgroupLeaked) && !choose(&[]).unwrap().contains(&Bug::CgroupLeaked)
        );
    }

    #[test]
    fn random_bugs_depend_only_on_the_seed() {
        let eight = |seed| choose(&["--random", "8", "--random-seed", seed]).unwrap();
        assert_eq!((eight("7").len(), eight("7")), (8, eight("7")));
        assert_ne!(eight("7"), eight("8"));
        let quick = choose(&["--random", "1000"]).unwrap();
        assert!((35..choose(&[]).unwrap().len()).contains(&quick.len()));
        assert!(!quick.iter().any(|bug| crate::bugs::is_slow(*bug)));
    }
}
