//! `argosy-chaos prove`: plants each bug, plays seeds until it is found, and shows that the same seeds
//! are clean without it. A harness that finds nothing has not shown that there is nothing.

use clap::Args;

/// Planted bugs, one after the other
#[derive(Debug, Args)]
pub struct ProveArguments {
    /// Only these bugs; without it all
    #[arg(long, value_name = "BUG", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How many seeds are to find each
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub times: usize,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Seconds until a bug is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub patience: u64,
    /// List the planted bugs instead
    #[arg(long)]
    pub list: bool,
}

/// Plants and looks, printing as it goes. Returns the exit code: 1 if a bug was not found, 2 for what
/// cannot be asked of this executable.
#[must_use]
pub fn prove(arguments: &ProveArguments) -> u8 {
    let planted = match chosen(&arguments.only) {
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
    look(arguments, &planted)
}

fn chosen(only: &[String]) -> Result<Vec<crate::bugs::Planted>, argosy_state::bugs::UnknownBug> {
    let mut planted = crate::bugs::planted();
    if !only.is_empty() {
        let named = only.iter().map(|name| name.parse());
        let named: Vec<argosy_state::bugs::Bug> = named.collect::<Result<_, _>>()?;
        planted.retain(|planted| named.contains(&planted.bug));
    }
    Ok(planted)
}

#[cfg(not(feature = "testing"))]
fn look(_arguments: &ProveArguments, _planted: &[crate::bugs::Planted]) -> u8 {
    eprintln!(
        "argosy-chaos: no bug can be planted in this executable: cargo build -p argosy-chaos --features testing"
    );
    2
}

#[cfg(feature = "testing")]
use hunt::look;

#[cfg(feature = "testing")]
mod hunt {
    use std::io;
    use std::time::{Duration, Instant};

    use argosy_state::bugs::Bug;

    use super::ProveArguments;
    use crate::bugs::{Place, Planted};
    use crate::sim::alone;

    /// So much of a violation is shown.
    const LONGEST: usize = 300;

    pub(super) fn look(arguments: &ProveArguments, planted: &[Planted]) -> u8 {
        let mut missed = Vec::new();
        for planted in planted {
            match hunt(arguments, planted) {
                Ok(true) => {}
                Ok(false) => missed.push(planted.bug.name()),
                Err(error) => {
                    eprintln!("argosy-chaos: {error}");
                    return 2;
                }
            }
        }
        let found = planted.len() - missed.len();
        println!(
            "{found} of {} planted bugs found, {} not: {missed:?}",
            planted.len(),
            missed.len()
        );
        u8::from(!missed.is_empty())
    }

    /// Plays seeds until enough of them have found the bug; whether that was in time.
    fn hunt(arguments: &ProveArguments, planted: &Planted) -> io::Result<bool> {
        let began = Instant::now();
        let bug = planted.bug;
        let mut found = 0;
        let mut seed = arguments.from;
        while began.elapsed() < Duration::from_secs(arguments.patience) {
            if let Some(told) = play(planted.place, seed, &[bug])? {
                // A seed that fails by itself has found something else.
                if let Some(other) = play(planted.place, seed, &[])? {
                    println!("seed {seed} is not clean without {bug} either: {other}");
                } else {
                    found += 1;
                    let took = began.elapsed().as_secs();
                    let told: String = told.chars().take(LONGEST).collect();
                    println!("{bug} found by seed {seed} after {took} s: {told}");
                }
                if found >= arguments.times {
                    return Ok(true);
                }
            }
            seed += 1;
        }
        let seeds = seed - arguments.from;
        println!(
            "{bug} found by {found} of {seeds} seeds; it needs {}",
            planted.needs
        );
        Ok(false)
    }

    /// What went wrong first, if anything did.
    fn play(place: Place, seed: u64, bugs: &[Bug]) -> io::Result<Option<String>> {
        let mut words = Vec::new();
        if place == Place::RaftSimulation {
            words.push("--raft-only".to_owned());
        }
        if let Some(bug) = bugs.first() {
            words.push(format!("--plant={bug}"));
        }
        Ok(alone::play(seed, &words)?.violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_are_chosen_by_name_and_an_unknown_one_is_refused() {
        assert!(chosen(&[]).unwrap().len() >= 25);
        let one = chosen(&["shared-order".to_owned()]).unwrap();
        assert_eq!(one.len(), 1);
        let error = chosen(&["x".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "\"x\" is no planted bug");
    }
}
