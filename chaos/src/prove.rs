//! `argosy-chaos prove`: plants each bug, plays seeds until one of its rules names it, and shows that the same
//! seeds are clean without it. A harness that finds nothing has not shown that there is nothing.

use std::path::PathBuf;

use clap::Args;

/// Planted bugs, one after the other
#[derive(Debug, Args)]
pub struct ProveArguments {
    /// Only these bugs; without it all
    #[arg(long, value_name = "BUG", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How many seeds are to find each
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub times: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Seconds until a bug is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub patience: u64,
    /// Seeds that are played at a time; without it one a processor
    #[arg(long, value_name = "COUNT")]
    pub at_a_time: Option<usize>,
    /// Write what was found here, as a table in Markdown
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// List the planted bugs instead
    #[arg(long)]
    pub list: bool,
}

/// Plants and looks, printing as it goes. Returns the exit code: 1 if a bug was not found by one of its rules, 2 for
/// what this executable cannot do.
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
mod hunt;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, reason = "only `hunt` uses it")
)]
mod judges;

#[cfg(feature = "testing")]
use hunt::look;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_are_chosen_by_name_and_an_unknown_one_is_refused() {
        assert!(chosen(&[]).unwrap().len() >= 39);
        let one = chosen(&["shared-order".to_owned()]).unwrap();
        assert_eq!(one.len(), 1);
        let error = chosen(&["x".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "\"x\" is no planted bug");
    }
}
