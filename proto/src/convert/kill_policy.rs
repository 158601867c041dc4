//! Conversion of kill policies.

use argosy_state::task::KillSignal;

use super::InvalidMessage;
use crate::v1;

/// Returns the signal of a kill policy on the wire.
#[must_use]
pub fn kill_signal(signal: Option<KillSignal>) -> v1::KillSignal {
    match signal {
        None => v1::KillSignal::Unspecified,
        Some(KillSignal::Hup) => v1::KillSignal::Hup,
        Some(KillSignal::Int) => v1::KillSignal::Int,
        Some(KillSignal::Quit) => v1::KillSignal::Quit,
        Some(KillSignal::Usr1) => v1::KillSignal::Usr1,
        Some(KillSignal::Usr2) => v1::KillSignal::Usr2,
        Some(KillSignal::Term) => v1::KillSignal::Term,
        Some(KillSignal::Winch) => v1::KillSignal::Winch,
    }
}

/// Reads the signal of a kill policy.
///
/// # Errors
/// Names the field if the value is not a termination signal, or is one of a newer release.
pub fn kill_signal_from(wire: i32) -> Result<Option<KillSignal>, InvalidMessage> {
    if wire == v1::KillSignal::Unspecified as i32 {
        return Ok(None);
    }
    let known = u32::try_from(wire).ok().and_then(KillSignal::of);
    known.map(Some).ok_or_else(|| {
        let names =
            KillSignal::ALL.map(|signal| format!("{} ({})", signal.name(), signal.number()));
        let names = names.join(", ");
        let text = format!("{wire} is not a termination signal: give one of {names}");
        InvalidMessage::new("signal", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tasks::{spec, spec_from};
    use super::*;

    fn killed_by(signal: i32) -> v1::TaskSpec {
        let policy = v1::KillPolicy {
            signal,
            ..v1::KillPolicy::default()
        };
        v1::TaskSpec {
            task_id: "a".into(),
            shell: "true".into(),
            kill_policy: Some(policy),
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn kill_signals_round_trip_and_others_are_rejected() {
        for signal in KillSignal::ALL {
            let wire = kill_signal(Some(signal)).into();
            assert_eq!(kill_signal_from(wire), Ok(Some(signal)));
            let read = spec_from(killed_by(wire)).unwrap();
            assert_eq!(read.kill_signal, Some(signal));
            assert_eq!(spec_from(spec(&read)), Ok(read));
        }
        assert_eq!(kill_signal_from(0), Ok(None));
        for wire in [9, 19, -1, 64] {
            let refused = spec_from(killed_by(wire)).unwrap_err();
            assert_eq!(refused.field, "kill_policy.signal");
            assert!(refused.text.contains("give one of HUP (1), "), "{refused}");
        }
    }
}
