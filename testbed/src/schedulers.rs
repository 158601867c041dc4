//! The parameters of the schedulers of a cluster under test, which are processes of
//! `argosy-chaos framework`: their behaviour, and the phase of their work.

use std::path::Path;

use clap::ValueEnum;

/// The behaviour of a framework towards offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FrameworkBehaviour {
    /// Uses them immediately and declines the rest.
    Steady,
    /// Holds them for seconds before it uses them.
    Greedy,
    /// Declines most of them.
    Decliner,
}

impl FrameworkBehaviour {
    pub const ALL: [Self; 3] = [Self::Steady, Self::Greedy, Self::Decliner];

    /// Returns the value for the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Greedy => "greedy",
            Self::Decliner => "decliner",
        }
    }
}

/// The phase that the harness requests of all frameworks: one word in the file `phase` of the run's
/// directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkPhase {
    /// Launch, replace and kill tasks.
    Work,
    /// Launch no more tasks. Services continue.
    Drain,
    /// End the services, too.
    End,
}

impl WorkPhase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Drain => "drain",
            Self::End => "end",
        }
    }

    /// Returns the phase that is requested in the directory of the run.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let word = std::fs::read_to_string(directory.join("phase")).unwrap_or_default();
        let all = [Self::Work, Self::Drain, Self::End];
        let named = all.into_iter().find(|wanted| wanted.word() == word.trim());
        named.unwrap_or(Self::Work)
    }
}
