//! `secret list|set|remove|reseal`: secrets of tasks in the registry. No command shows a value.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use argosy_proto::secret_value::SecretValue;
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::ids::Role;
use argosy_state::limits::SECRET_VALUE_BYTES;
use argosy_state::secret::SecretName;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, Row, note};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// List the names of secrets, with the versions and sizes of their values
    #[command(after_help = "Examples:
  argosy secret list
  argosy secret list eng --sort KEY")]
    List(SecretList),
    /// Set the value of a secret, from standard input or a file
    #[command(after_help = "Examples:
  argosy secret set eng/db-password --file password.txt
  argosy secret set eng/backend/key --request-id key-of-may --file key.pem

The value is stored as it is, including a newline at its end. A running task keeps the value with
which it started. The value is never an argument: other users of this host can read those.")]
    Set(SecretSet),
    /// Remove a secret; running tasks keep its value
    #[command(after_help = "Examples:
  argosy secret remove eng/db-password
  argosy secret remove eng/backend/key --dry-run")]
    Remove(SecretRemove),
    /// Seal all secrets again with the first key of the leader, after a new key was added
    #[command(after_help = "Examples:
  argosy secret reseal
  argosy secret reseal eng --dry-run

Secrets that this key seals already are left alone. If the command fails, run it again.")]
    Reseal(SecretReseal),
}

#[derive(Debug, Args)]
pub(crate) struct SecretList {
    /// Role: only its secrets, and those of the roles below it
    #[arg(value_parser = role)]
    role: Option<Role>,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SecretSet {
    /// Secret, as ROLE/NAME: tasks of the role and of those below it may use it
    #[arg(value_name = "ROLE/NAME", value_parser = name)]
    secret: SecretName,
    /// File with the value [default: standard input]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SecretRemove {
    /// Secret, as ROLE/NAME
    #[arg(value_name = "ROLE/NAME", value_parser = name)]
    secret: SecretName,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SecretReseal {
    /// Role: only its secrets, and those of the roles below it
    #[arg(value_parser = role)]
    role: Option<Role>,
    /// Also those that the first key seals already: binds them to this cluster after a restore
    #[arg(long)]
    all: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reach: ConnectionArguments,
}

fn role(text: &str) -> Result<Role, String> {
    Role::new(text).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<SecretName, String> {
    SecretName::new(text).map_err(|error| error.to_string())
}

impl ObjectCommand for SecretCommand {
    const ABOUT: &str = "Secrets of tasks: list, set, remove, reseal";
    const EXAMPLES: &str = "Examples:
  argosy secret set eng/db-password --file password.txt
  argosy run --secret eng/db-password:/run/secrets/db -- sh -c 'wc -c /run/secrets/db'";

    fn run(&self) -> VerbResult {
        match self {
            Self::List(arguments) => calls(list(arguments)),
            Self::Set(arguments) => calls(set(arguments)),
            Self::Remove(arguments) => calls(remove(arguments)),
            Self::Reseal(arguments) => calls(reseal(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Set(_) | Self::Remove(_) | Self::Reseal(_) => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    secrets: &'a [v1::Secret],
}

impl Row for v1::Secret {
    const HEADINGS: &'static [&'static str] = &["SECRET", "VERSION", "BYTES", "KEY"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.version.to_string(),
            self.bytes.to_string(),
            self.key_id.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        let amount = match heading {
            "VERSION" => self.version,
            "BYTES" => self.bytes,
            _ => return None,
        };
        i64::try_from(amount).ok()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

async fn list(arguments: &SecretList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Secret>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut secrets = operator.secrets(arguments.role.as_ref()).await?.secrets;
    layout.arrange(&mut secrets);
    if secrets.is_empty() && !format.is_json() {
        note("no secrets");
    }
    let page = Page { secrets: &secrets };
    output::list_as(format, &layout, &page, &secrets)
}

async fn set(arguments: &SecretSet) -> VerbResult {
    let name = arguments.secret.to_string();
    let operator = ClusterClient::open(&arguments.reach)?;
    operator.check_encrypted()?;
    let value = read_value(arguments.file.as_deref())?;
    let bytes = value.expose().len();
    if bytes > SECRET_VALUE_BYTES {
        let text = format!("the value takes more than {SECRET_VALUE_BYTES} bytes");
        return Err(Failure::usage(text).advise("use uris for data that is no secret"));
    }
    if arguments.write.dry_run {
        note(&format!("would set {name} to a value of {bytes} bytes"));
        return Ok(DONE);
    }
    let set = v1::SetSecret {
        name: name.clone(),
        value: value.expose().to_vec(),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::SetSecret(set))
        .await?;
    note(&format!("set {name} to a value of {bytes} bytes"));
    Ok(DONE)
}

/// Reads the value, and at most one byte more than it may have.
fn read_value(file: Option<&Path>) -> Result<SecretValue, Failure> {
    let mut bytes = Vec::with_capacity(SECRET_VALUE_BYTES + 1);
    let most = SECRET_VALUE_BYTES as u64 + 1;
    let read = match file {
        Some(path) => {
            let opened =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            opened.take(most).read_to_end(&mut bytes)
        }
        None => {
            let input = std::io::stdin();
            if input.is_terminal() {
                note("reading the value from the terminal; end it with Ctrl-D");
            }
            input.take(most).read_to_end(&mut bytes)
        }
    };
    let value = SecretValue::new(bytes);
    read.context("cannot read the value")?;
    Ok(value)
}

async fn remove(arguments: &SecretRemove) -> VerbResult {
    let name = arguments.secret.to_string();
    let operator = ClusterClient::open(&arguments.reach)?;
    if arguments.write.dry_run {
        note(&format!("would remove {name}"));
        return Ok(DONE);
    }
    let request_id = arguments.write.request_id.as_ref();
    let removed = v1::RemoveSecret { name: name.clone() };
    operator
        .write(request_id, Operation::RemoveSecret(removed))
        .await?;
    note(&format!("removed {name}"));
    Ok(DONE)
}

async fn reseal(arguments: &SecretReseal) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?.at_leader().await?;
    let list = operator.secrets(arguments.role.as_ref()).await?;
    if list.sealing_key_id.is_empty() {
        let text = "the leader has no key for secrets";
        return Err(Failure::usage(text).advise("start every master with --secrets-key FILE"));
    }
    let key = &list.sealing_key_id;
    let chosen: Vec<_> = list
        .secrets
        .iter()
        .filter(|one| arguments.all || one.key_id != *key)
        .collect();
    let count = chosen.len();
    if arguments.dry_run {
        note(&format!("would seal {count} secrets with the key {key}"));
        return Ok(DONE);
    }
    // One at a time: each opens and seals up to 64 KiB at the leader.
    for secret in chosen {
        let name = secret.name.clone();
        let again = Operation::ResealSecret(v1::ResealSecret { name });
        operator.write(None, again).await?;
    }
    note(&format!("sealed {count} secrets with the key {key}"));
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_from_a_file_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        std::fs::write(&path, "line\n").unwrap();
        assert_eq!(read_value(Some(&path)).unwrap().expose(), b"line\n");
        std::fs::write(&path, vec![1; SECRET_VALUE_BYTES + 10]).unwrap();
        let long = read_value(Some(&path)).unwrap();
        assert_eq!(long.expose().len(), SECRET_VALUE_BYTES + 1);
        let none = read_value(Some(&directory.path().join("none")));
        assert!(none.is_err());
    }
}
