//! Contexts: clusters with names, each with its masters and the files of TLS, in one file of the
//! user.
//!
//! `file` reads and writes that file, and `choice` decides which cluster a command calls. Nothing
//! here opens a connection, except to find out which default masters listen.

mod choice;
mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use argosy_client::Masters;
use argosy_state::access::TokenSecret;
use argosy_tls::credentials::read_key;
use serde::{Deserialize, Deserializer, Serialize};

use crate::args::ClientTls;
use crate::exit::{Failure, FailureCode};
use crate::parsers::ContextName;

pub(crate) use choice::ChosenCluster;
pub(crate) use file::ContextFile;
#[cfg(feature = "fuzzing")]
pub(crate) use file::parse as parse_file;

/// The longest token, in characters.
const TOKEN: usize = 1_024;
/// The largest file of a token, in bytes.
const TOKEN_BYTES: u64 = 2_048;

/// A secret by which masters identify a caller. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Token(String);

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) masters: Masters,
    /// The files of TLS, with absolute paths.
    pub(crate) tls: ClientTls,
    pub(crate) token: Option<Token>,
    /// The directory of the cluster, if `argosy dev` has written this context and removes it.
    pub(crate) dev: Option<PathBuf>,
}

/// The contexts of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contexts {
    /// The context of commands that name none.
    pub(crate) current: Option<ContextName>,
    pub(crate) all: BTreeMap<ContextName, Context>,
}

/// A context as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawContext {
    masters: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<PathBuf>,
}

impl Token {
    /// Reads the token in a file, or on standard input for `-`. It may end in a newline.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let mut text = String::new();
        if path.to_str() == Some("-") {
            let read = io::stdin().take(TOKEN_BYTES).read_to_string(&mut text);
            read.map_err(|error| Failure::failed(format!("cannot read {shown}: {error}")))?;
        } else {
            // It is as secret as a key.
            let read = read_key(path).map_err(|error| Failure::of(&error))?;
            text = String::from_utf8_lossy(&read).into_owned();
        }
        let token = text.trim_end_matches(['\r', '\n']).parse();
        token.map_err(|why| Failure::usage(format!("--token-file {shown}: {why}")))
    }

    /// Reads it as masters do.
    pub(crate) fn secret(&self) -> Result<TokenSecret, Failure> {
        self.0
            .parse()
            .map_err(|why| Failure::usage(format!("{why}")))
    }
}

impl FromStr for Token {
    type Err = &'static str;

    /// The error does not contain the text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_token = |byte: u8| byte.is_ascii_graphic();
        if (1..=TOKEN).contains(&text.len()) && text.bytes().all(is_token) {
            return Ok(Self(text.to_owned()));
        }
        Err("a token has 1 to 1,024 printable characters of ASCII, and no blanks")
    }
}

/// Writes no secret.
impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(…)")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // By way of any value, because an error of the wrong type would contain it.
        let value = serde_json::Value::deserialize(from)?;
        let text = value.as_str().unwrap_or_default();
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Context {
    /// Returns the files of TLS that this context names.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = &self.tls;
        let files = [&tls.tls_ca, &tls.tls_cert, &tls.tls_key];
        files.into_iter().filter_map(Option::as_deref)
    }

    /// Checks what the types do not exclude.
    pub(crate) fn check(self) -> Result<Self, String> {
        if let Some(path) = self.files().find(|path| !path.is_absolute()) {
            return Err(format!(
                "{} is not an absolute path; begin it with /",
                path.display()
            ));
        }
        let ClientTls {
            tls_ca,
            tls_cert,
            tls_key,
        } = &self.tls;
        match (tls_ca, tls_cert, tls_key) {
            (_, Some(_), None) => Err("tls-cert also needs tls-key".to_owned()),
            (_, None, Some(_)) => Err("tls-key also needs tls-cert".to_owned()),
            (None, Some(_), Some(_)) => Err("tls-cert also needs tls-ca".to_owned()),
            (None, None, None) if self.token.is_some() => {
                Err("a token also needs tls-ca, because it is not sent in plaintext".to_owned())
            }
            _ => Ok(self),
        }
    }
}

impl TryFrom<RawContext> for Context {
    type Error = String;

    fn try_from(raw: RawContext) -> Result<Self, String> {
        let masters = Masters::new(&raw.masters).map_err(|error| error.to_string())?;
        let context = Self {
            masters,
            tls: ClientTls {
                tls_ca: raw.tls_ca,
                tls_cert: raw.tls_cert,
                tls_key: raw.tls_key,
            },
            token: raw.token,
            dev: raw.dev,
        };
        context.check()
    }
}

impl From<Context> for RawContext {
    fn from(context: Context) -> Self {
        Self {
            masters: context.masters.addresses().to_vec(),
            tls_ca: context.tls.tls_ca,
            tls_cert: context.tls.tls_cert,
            tls_key: context.tls.tls_key,
            token: context.token,
            dev: context.dev,
        }
    }
}

impl Contexts {
    /// Returns a context.
    ///
    /// # Errors
    /// There is none of this name; the failure names those that exist.
    pub(crate) fn find(&self, name: &ContextName) -> Result<&Context, Failure> {
        self.all.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &ContextName) -> Failure {
        let text = format!("there is no context {name}");
        let failure = Failure::new(FailureCode::NotFound, text);
        if self.all.is_empty() {
            return failure.advise("argosy context add creates one");
        }
        let names: Vec<_> = self.all.keys().map(ToString::to_string).collect();
        failure.advise(format!("these exist: {}", names.join(", ")))
    }

    /// Adds a context.
    ///
    /// # Errors
    /// There is one of this name, and it may not be replaced.
    pub(crate) fn add(
        &mut self,
        name: ContextName,
        context: Context,
        may_replace: bool,
    ) -> Result<(), Failure> {
        if !may_replace && self.all.contains_key(&name) {
            return Err(Failure::failed(format!("the context {name} exists"))
                .advise("choose another name, or replace it with --replace"));
        }
        self.all.insert(name, context);
        Ok(())
    }

    /// Removes a context, which then is the current one no more.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn remove(&mut self, name: &ContextName) -> Result<(), Failure> {
        if self.all.remove(name).is_none() {
            return Err(self.unknown(name));
        }
        self.current.take_if(|current| current == name);
        Ok(())
    }

    /// Adds the context of a dev cluster, or replaces that of a former one. Returns whether it was
    /// added: a context that the user has added stays.
    pub(crate) fn add_dev(&mut self, name: &ContextName, context: Context) -> bool {
        let may_replace = self.all.get(name).is_none_or(|found| found.dev.is_some());
        if may_replace {
            self.all.insert(name.clone(), context);
        }
        may_replace
    }

    /// Removes the context of the dev cluster with this directory, if it is still that cluster's.
    pub(crate) fn remove_dev(&mut self, name: &ContextName, directory: &Path) {
        let found = self.all.get(name).and_then(|found| found.dev.as_deref());
        if found == Some(directory) {
            self.all.remove(name);
            self.current.take_if(|current| current == name);
        }
    }
}
