//! The parameters of the guest, from the kernel's command line.

use std::str::FromStr;

use anyhow::Context;

const FILE: &str = "/proc/cmdline";

/// The arguments that begin with `argosy.`, such as `argosy.last=1`.
#[derive(Debug, Clone)]
pub(super) struct KernelArgs(String);

impl KernelArgs {
    pub(super) fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(FILE);
        Ok(Self(text.with_context(|| format!("cannot read {FILE}"))?))
    }

    /// Returns the value of an argument.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.split_ascii_whitespace().find_map(|word| {
            let (key, value) = word.strip_prefix("argosy.")?.split_once('=')?;
            (key == name).then_some(value)
        })
    }

    /// Returns a number; 0 if it is missing.
    pub(super) fn number(&self, name: &str) -> anyhow::Result<u64> {
        self.text(name).map_or(Ok(0), |text| number(name, text))
    }

    /// Returns numbers that are separated by commas.
    pub(super) fn numbers(&self, name: &str) -> anyhow::Result<Vec<u64>> {
        let text = self.text(name).unwrap_or_default();
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| number(name, part)).collect()
    }
}

fn number(name: &str, text: &str) -> anyhow::Result<u64> {
    u64::from_str(text).with_context(|| format!("argosy.{name}={text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_in_the_kernel_command_line() {
        let words = KernelArgs("quiet argosy.last=1 argosy.alone=3,1 panic=-1".into());
        assert_eq!(words.number("last").unwrap(), 1);
        assert_eq!(words.number("alone_ms").unwrap(), 0);
        assert_eq!(words.numbers("alone").unwrap(), [3, 1]);
        assert_eq!(words.numbers("absent").unwrap(), [] as [u64; 0]);
        assert!(words.number("alone").is_err());
    }
}
