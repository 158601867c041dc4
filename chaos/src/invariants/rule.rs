//! The macro that makes the type `Rule` of the table of rules.

/// The minimum numbers of comparisons of a rule in a hundred seeds of each simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Comparisons {
    /// In the simulation of Raft alone.
    pub raft: u64,
    /// In the simulation of the whole system.
    pub system: u64,
    /// Under connectivity graphs.
    pub graphs: u64,
}

impl Comparisons {
    /// No minimum.
    pub const NONE: Self = Self {
        raft: 0,
        system: 0,
        graphs: 0,
    };
}

/// Defines `Rule` and its properties by a table; see the module `invariants`.
macro_rules! rules {
    ($($rule:ident $($former:literal)? => $module:ident $(, $simulation:ident $least:literal)*: $description:literal;)+) => {
        /// A rule that must hold under every sequence of faults.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        pub enum Rule {
            $(
                #[doc = concat!("The rule: ", $description, ".")]
                $(#[serde(alias = $former)])?
                $rule,
            )+
        }

        impl Rule {
            /// All rules, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$rule),+];

            /// Returns the rule in words.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$rule => $description,)+
                }
            }

            /// Returns the minimum numbers of comparisons in simulations.
            #[must_use]
            #[allow(clippy::needless_update, reason = "a row may name every simulation")]
            pub fn minimum_comparisons(self) -> Comparisons {
                match self {
                    $(Self::$rule => Comparisons {
                        $($simulation: $least,)*
                        ..Comparisons::NONE
                    },)+
                }
            }

            /// Returns the checker, unless the rule is checked while a cluster runs.
            fn checker(self) -> Option<Checker> {
                match self {
                    $(Self::$rule => $crate::invariants::rule::checker!($module),)+
                }
            }
        }

        impl std::fmt::Display for Rule {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

macro_rules! checker {
    (live) => {
        None
    };
    (processes) => {
        None
    };
    ($module:ident) => {
        Some($module::check)
    };
}

pub(super) use {checker, rules};
