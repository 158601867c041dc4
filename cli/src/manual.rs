//! `argosy man`: manual pages of all commands, for packages.

use std::path::Path;

use anyhow::Context;

use crate::args::Manual;
use crate::exit::{DONE, VerbResult};
use crate::output::note;
use crate::verbs;

/// The section of the manual for commands of users.
const SECTION: &str = "1";

pub(crate) fn write(arguments: &Manual) -> VerbResult {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut command = verbs::command().disable_help_subcommand(true);
    command.build();
    let mut count = 0;
    pages(&command, directory, &mut count)?;
    note(&format!("{count} manual pages in {}", directory.display()));
    Ok(DONE)
}

fn pages(command: &clap::Command, directory: &Path, count: &mut u32) -> anyhow::Result<()> {
    let inner = command.get_subcommands();
    for inner in inner.filter(|inner| !inner.is_hide_set()) {
        pages(inner, directory, count)?;
    }
    let page = clap_mangen::Man::new(command.clone()).section(SECTION);
    let written = page.generate_to(directory);
    written.with_context(|| format!("cannot write to {}", directory.display()))?;
    *count += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = Manual {
            directory: directory.path().join("man1"),
        };
        write(&arguments).unwrap();
        let read = |name: &str| std::fs::read_to_string(arguments.directory.join(name)).unwrap();
        assert!(
            read("argosy.1").contains("argosy\\-run(1)"),
            "it names its commands"
        );
        let page = read("argosy-agent-gone.1");
        assert!(page.contains("argosy agent gone agent\\-2"), "{page}");
        assert!(
            page.contains(".TH argosy-agent-gone 1") || page.contains("argosy\\-agent\\-gone 1"),
            "{page}"
        );
        assert!(
            !arguments.directory.join("argosy-launcher.1").exists(),
            "it is hidden"
        );
    }
}
