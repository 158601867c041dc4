//! Signals with which a task can ask to be ended.

/// A signal that programs take as a request to end. Named and numbered as in `signal(7)`. KILL is none of them, since each
/// task gets it after its grace, and STOP and CONT end nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillSignal {
    /// Its terminal is gone.
    Hup,
    /// Ctrl-C: the fast shutdown of PostgreSQL.
    Int,
    /// The graceful shutdown of nginx and PHP-FPM.
    Quit,
    /// Free for the program.
    Usr1,
    /// Free for the program.
    Usr2,
    /// What a task gets that names none, and whose image names none.
    Term,
    /// The graceful shutdown of Apache httpd.
    Winch,
}

impl KillSignal {
    /// All of them, by number.
    pub const ALL: [Self; 7] = [
        Self::Hup,
        Self::Int,
        Self::Quit,
        Self::Usr1,
        Self::Usr2,
        Self::Term,
        Self::Winch,
    ];

    /// As `signal(7)` has it, without `SIG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Term => "TERM",
            Self::Winch => "WINCH",
        }
    }

    /// The number of Linux on x86 and ARM, which is also the stored one.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
            Self::Winch => 28,
        }
    }

    /// The one of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.number() == number)
    }

    /// The one of this name, with or without `SIG`, in capitals or not.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn named(name: &str) -> Result<Self, String> {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
        let mut all = Self::ALL.into_iter();
        all.find(|signal| signal.name() == plain).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no signal that asks a task to end: name one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_has_a_name_and_a_number_of_its_own() {
        for signal in KillSignal::ALL {
            assert_eq!(KillSignal::of(signal.number()), Some(signal));
            assert_eq!(KillSignal::named(signal.name()), Ok(signal));
        }
        assert_eq!(KillSignal::named("sigquit"), Ok(KillSignal::Quit));
    }

    #[test]
    fn a_signal_that_ends_nothing_or_that_each_task_gets_is_refused_in_words() {
        for name in ["KILL", "SIGSTOP", "CONT", "9", "", "SIG"] {
            let refused = KillSignal::named(name).unwrap_err();
            assert!(refused.contains("name one of HUP, INT, "), "{refused}");
        }
        assert_eq!(KillSignal::of(9), None);
        assert_eq!(KillSignal::of(0), None);
    }
}
