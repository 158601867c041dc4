//! Signals that a task can request for its kill.

/// A signal that programs treat as a request to exit. Names and numbers are those of `signal(7)`.
/// KILL is not among them, because each task gets it after its grace period. STOP and CONT end
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillSignal {
    /// The terminal is closed.
    Hup,
    /// Ctrl-C: the fast shutdown of PostgreSQL.
    Int,
    /// The graceful shutdown of nginx and PHP-FPM.
    Quit,
    /// A signal that the program defines.
    Usr1,
    /// A signal that the program defines.
    Usr2,
    /// The default, if neither the task nor its image names a signal.
    Term,
    /// The graceful shutdown of Apache httpd.
    Winch,
}

impl KillSignal {
    /// All signals, by number.
    pub const ALL: [Self; 7] = [
        Self::Hup,
        Self::Int,
        Self::Quit,
        Self::Usr1,
        Self::Usr2,
        Self::Term,
        Self::Winch,
    ];

    /// Returns the name of `signal(7)` without `SIG`.
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

    /// Returns the number of Linux on x86 and ARM, which is also the stored one.
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

    /// Returns the signal with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.number() == number)
    }

    /// Returns the signal with this name, with or without `SIG`, in any case.
    ///
    /// # Errors
    /// A message that lists the names.
    pub fn named(name: &str) -> Result<Self, String> {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
        let mut all = Self::ALL.into_iter();
        all.find(|signal| signal.name() == plain).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("invalid kill signal {name:?}: name one of {names}")
        })
    }
}

impl crate::codec::scalars::AsNumber for KillSignal {
    fn number(&self) -> u64 {
        (*self).number().into()
    }

    fn of(number: u64) -> Option<Self> {
        Self::of(number as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_has_a_unique_name_and_number() {
        for signal in KillSignal::ALL {
            assert_eq!(KillSignal::of(signal.number()), Some(signal));
            assert_eq!(KillSignal::named(signal.name()), Ok(signal));
        }
        assert_eq!(KillSignal::named("sigquit"), Ok(KillSignal::Quit));
    }

    #[test]
    fn unsuitable_kill_signals_are_refused_with_a_message() {
        for name in ["KILL", "SIGSTOP", "CONT", "9", "", "SIG"] {
            let refused = KillSignal::named(name).unwrap_err();
            assert!(refused.contains("name one of HUP, INT, "), "{refused}");
        }
        assert_eq!(KillSignal::of(9), None);
        assert_eq!(KillSignal::of(0), None);
    }
}
