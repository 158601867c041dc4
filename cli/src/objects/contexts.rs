//! `context list|use|add|remove|show|env`: the clusters that this user has given names.
//!
//! No command calls a cluster, and none prints a secret.

use std::io;
use std::path::PathBuf;

use argosy_client::Masters;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ObjectCommand;
use crate::args::{ClientTls, Format, OutputArguments};
use crate::contexts::{Context, ContextFile, Contexts, Token};
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::quote;
use crate::output::{self, Row, note, plain};
use crate::parsers::{self, ContextName};
use crate::transport::ClientTransport;

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(after_help = "Examples:
  argosy context list
  argosy context list -o json

Contexts are in argosy/contexts.json below $XDG_CONFIG_HOME, else below ~/.config. The file must
belong to this user, and others must not be able to read it (mode 0600).")]
    List(ContextList),
    /// Choose the context of commands that name no cluster
    #[command(after_help = "Examples:
  argosy context use prod
  argosy context use --none

--context and ARGOSY_CONTEXT choose another context for one command. Masters that a command names,
with --masters or ARGOSY_MASTERS, take precedence over the current context, which then is not used
at all.")]
    Use(ContextUse),
    /// Add a context
    #[command(after_help = "Examples:
  argosy context add prod --masters 10.0.0.1,10.0.0.2 --tls-ca /etc/argosy/tls/ca.crt
  argosy context add test --masters 10.9.0.1 --use

The files of TLS are not copied: the context contains their paths.")]
    Add(Box<ContextAdd>),
    /// Remove a context
    #[command(after_help = "Examples:
  argosy context remove prod
  argosy context remove dev-127.78.0.1

Only the context is removed, and no file that it names.")]
    Remove(ContextRemove),
    /// Show a context
    #[command(after_help = "Examples:
  argosy context show
  argosy context show prod -o json

Without NAME, it shows the current context, else that of a dev cluster. Of a token it shows only
whether there is one.")]
    Show(ContextShow),
    /// Print the variables by which other programs reach the cluster of a context
    #[command(after_help = "Examples:
  argosy context env
  argosy context env prod

The output is for a shell: eval \"$(argosy context env)\". The example frameworks read these
variables. Without NAME, the context is the current one, else that of a dev cluster.")]
    Env(ContextEnv),
}

#[derive(Debug, Args)]
pub(crate) struct ContextList {
    #[command(flatten)]
    show: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ContextUse {
    /// Name of the context
    #[arg(value_name = "NAME", required_unless_present = "none")]
    name: Option<ContextName>,
    /// Use none
    #[arg(long, conflicts_with = "name")]
    none: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContextAdd {
    /// Name of the new context: letters, digits, ., _ and -
    #[arg(value_name = "NAME")]
    name: ContextName,
    /// Masters, in any order
    #[arg(long, value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    masters: Masters,
    /// CA certificates of the masters, in PEM; without them, connections are not encrypted
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this user, in PEM [default: no identity]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// File with a bearer token, which is copied into the context; - for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Also make it the current context
    #[arg(long = "use")]
    uses: bool,
    /// Replace a context of the same name
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContextRemove {
    /// Name of the context
    #[arg(value_name = "NAME")]
    name: ContextName,
}

#[derive(Debug, Args)]
pub(crate) struct ContextEnv {
    /// Name of the context [default: the current one, else dev]
    #[arg(value_name = "NAME")]
    name: Option<ContextName>,
}

#[derive(Debug, Args)]
pub(crate) struct ContextShow {
    /// Name of the context [default: the current one, else dev]
    #[arg(value_name = "NAME")]
    name: Option<ContextName>,
    #[command(flatten)]
    show: OutputArguments,
}

impl ObjectCommand for ContextCommand {
    const ABOUT: &str = "Clusters with names: list, use, add, remove, show, env";
    const EXAMPLES: &str = "Examples:
  argosy context add prod --masters 10.0.0.1,10.0.0.2 --tls-ca /etc/argosy/tls/ca.crt
  argosy context use prod";

    fn run(&self) -> VerbResult {
        let file = ContextFile::of_user()?;
        match self {
            Self::List(arguments) => list(&file, arguments),
            Self::Use(arguments) => choose(&file, arguments),
            Self::Add(arguments) => add(&file, arguments),
            Self::Remove(arguments) => remove(&file, arguments),
            Self::Show(arguments) => show(&file, arguments),
            Self::Env(arguments) => print_variables(&file, arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Show(arguments) => Some(arguments.show),
            Self::Use(_) | Self::Add(_) | Self::Remove(_) | Self::Env(_) => None,
        }
    }
}

/// A context as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    current: bool,
    masters: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<String>,
    has_token: bool,
    /// The directory of the dev cluster that removes this context.
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    contexts: &'a [Shown],
}

impl Shown {
    fn of(contexts: &Contexts, name: &ContextName, context: &Context) -> Self {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        Self {
            name: name.to_string(),
            current: contexts.current.as_ref() == Some(name),
            masters: context.masters.addresses().to_vec(),
            tls_ca: path(&context.tls.tls_ca),
            tls_cert: path(&context.tls.tls_cert),
            tls_key: path(&context.tls.tls_key),
            has_token: context.token.is_some(),
            dev: path(&context.dev),
        }
    }

    /// Returns how connections are protected, and by what the caller is recognized.
    fn security(&self) -> String {
        match (&self.tls_ca, &self.tls_cert, self.has_token) {
            (None, _, _) => "plaintext",
            (Some(_), None, false) => "TLS",
            (Some(_), Some(_), false) => "TLS, certificate",
            (Some(_), None, true) => "TLS, token",
            (Some(_), Some(_), true) => "TLS, certificate, token",
        }
        .to_owned()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        vec![
            ("name", self.name.clone()),
            ("current", yes(self.current)),
            ("masters", self.masters.join(",")),
            ("security", self.security()),
            ("tls ca", self.tls_ca.clone().unwrap_or_default()),
            ("tls cert", self.tls_cert.clone().unwrap_or_default()),
            ("tls key", self.tls_key.clone().unwrap_or_default()),
            ("token", yes(self.has_token)),
            ("dev cluster", self.dev.clone().unwrap_or_default()),
        ]
    }
}

impl Row for Shown {
    const HEADINGS: &'static [&'static str] = &["NAME", "CURRENT", "MASTERS", "SECURITY"];
    const WIDE: &'static [&'static str] = &["DEV CLUSTER"];

    fn cells(&self) -> Vec<String> {
        let mark = if self.current { "yes" } else { "" };
        vec![
            self.name.clone(),
            mark.to_owned(),
            self.masters.join(","),
            self.security(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.dev.clone().unwrap_or_default()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn list(file: &ContextFile, arguments: &ContextList) -> VerbResult {
    let contexts = file.read()?;
    let all = contexts.all.iter();
    let shown = all.map(|(name, context)| Shown::of(&contexts, name, context));
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() && !arguments.show.output.is_json() {
        note("no contexts; argosy context add adds one, and argosy dev its own");
    }
    output::list(arguments.show.output, &Page { contexts: &shown }, &shown)
}

fn choose(file: &ContextFile, arguments: &ContextUse) -> VerbResult {
    file.change(|contexts| {
        if let Some(name) = &arguments.name {
            contexts.find(name)?;
        }
        contexts.current.clone_from(&arguments.name);
        Ok(())
    })?;
    match &arguments.name {
        Some(name) => note(&format!("commands that name no cluster call {name}")),
        None => note("no context is the current one"),
    }
    Ok(DONE)
}

fn add(file: &ContextFile, arguments: &ContextAdd) -> VerbResult {
    let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
    let failed = |error: io::Error| Failure::failed(format!("cannot find a file: {error}"));
    let tls = ClientTls {
        tls_ca: absolute(&arguments.tls_ca).map_err(failed)?,
        tls_cert: absolute(&arguments.tls_cert).map_err(failed)?,
        tls_key: absolute(&arguments.tls_key).map_err(failed)?,
    };
    // Errors in the files are found now.
    ClientTransport::new(&tls)?;
    let token = arguments
        .token_file
        .as_deref()
        .map(Token::read)
        .transpose()?;
    let context = Context {
        masters: arguments.masters.clone(),
        tls,
        token,
        dev: None,
    };
    let context = context.check().map_err(Failure::usage)?;
    let name = &arguments.name;
    file.change(|contexts| {
        contexts.add(name.clone(), context, arguments.replace)?;
        if arguments.uses {
            contexts.current = Some(name.clone());
        }
        Ok(())
    })?;
    let path = file.path();
    note(&format!("added {name} to {}", path.display()));
    if !arguments.uses {
        note(&format!(
            "argosy context use {name} makes it the current one"
        ));
    }
    Ok(DONE)
}

fn remove(file: &ContextFile, arguments: &ContextRemove) -> VerbResult {
    let name = &arguments.name;
    file.change(|contexts| contexts.remove(name))?;
    note(&format!("removed {name}"));
    Ok(DONE)
}

fn show(file: &ContextFile, arguments: &ContextShow) -> VerbResult {
    let contexts = file.read()?;
    let name = name_or_default(&contexts, arguments.name.as_ref());
    let shown = Shown::of(&contexts, &name, contexts.find(&name)?);
    match arguments.show.output {
        Format::Table | Format::Wide => output::print(&plain(&shown.details())),
        format => output::list(format, &shown, std::slice::from_ref(&shown)),
    }
}

/// Returns the named context, else the current one, else that of a dev cluster.
fn name_or_default(contexts: &Contexts, named: Option<&ContextName>) -> ContextName {
    let name = named.or(contexts.current.as_ref()).cloned();
    name.unwrap_or_else(|| ContextName::of_dev(None))
}

fn print_variables(file: &ContextFile, arguments: &ContextEnv) -> VerbResult {
    let contexts = file.read()?;
    let name = name_or_default(&contexts, arguments.name.as_ref());
    let context = contexts.find(&name)?;
    output::print(&variables(context))
}

/// Returns lines for a shell. Variables without a value are unset: those of another cluster may
/// have been set before.
fn variables(context: &Context) -> String {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let all = [
        ("ARGOSY_MASTERS", Some(context.masters.to_string())),
        ("ARGOSY_TLS_CA", path(&context.tls.tls_ca)),
        ("ARGOSY_TLS_CERT", path(&context.tls.tls_cert)),
        ("ARGOSY_TLS_KEY", path(&context.tls.tls_key)),
        // Contexts contain the token itself, not the path of a file.
        ("ARGOSY_TOKEN_FILE", None),
    ];
    let lines = all.into_iter().map(|(name, value)| match value {
        Some(value) => format!("export {name}={}\n", quote(&value)),
        None => format!("unset {name}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tls: ClientTls) -> Context {
        Context {
            masters: "10.0.0.1,10.0.0.2".parse().unwrap(),
            tls,
            token: Some("s3cret".parse().unwrap()),
            dev: None,
        }
    }

    fn full() -> Context {
        context(ClientTls {
            tls_ca: Some("/etc/it's/ca.crt".into()),
            tls_cert: Some("/tls/alice.crt".into()),
            tls_key: Some("/tls/alice.key".into()),
        })
    }

    #[test]
    fn variables_are_quoted_for_a_shell_and_contain_no_token() {
        let text = variables(&full());
        assert!(
            text.contains("export ARGOSY_MASTERS=10.0.0.1:5050,10.0.0.2:5050\n"),
            "{text}"
        );
        let line = format!("{text}printf %s \"$ARGOSY_TLS_CA\"");
        let shell = std::process::Command::new("sh")
            .args(["-c", &line])
            .output();
        assert_eq!(shell.unwrap().stdout, b"/etc/it's/ca.crt");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("unset ARGOSY_TOKEN_FILE\n"), "{text}");
        let plain = variables(&context(ClientTls::default()));
        assert!(plain.contains("unset ARGOSY_TLS_KEY\n"), "{plain}");
    }

    #[test]
    fn what_is_shown_contains_no_token() {
        let name: ContextName = "prod".parse().unwrap();
        let shown = Shown::of(&Contexts::default(), &name, &full());
        assert_eq!(shown.security(), "TLS, certificate, token");
        let json = serde_json::to_string(&shown).unwrap();
        let text = format!("{json}{:?}{:?}", shown.details(), shown.cells());
        assert!(json.contains("\"hasToken\":true"), "{json}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
