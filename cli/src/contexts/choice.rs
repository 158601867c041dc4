//! The cluster that a command calls: that of a context, that of flags and variables, or a default.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use argosy_client::Masters;

use super::{ContextFile, Contexts, Token};
use crate::args::{ClientTls, ClusterArguments};
use crate::exit::Failure;
use crate::parsers::{API_PORT, ContextName};
use crate::transport::ClientTransport;

/// Time for a listener on this host to accept a connection.
const LOCAL_PROBE: Duration = Duration::from_millis(200);

/// The cluster of a command.
#[derive(Debug, Clone)]
pub(crate) struct ChosenCluster {
    pub(crate) masters: Masters,
    pub(crate) transport: ClientTransport,
}

impl ChosenCluster {
    /// Chooses the cluster by flags, variables, and the contexts of the user.
    ///
    /// # Errors
    /// The context does not exist, or files of contexts or of TLS cannot be used.
    pub(crate) fn of(arguments: &ClusterArguments) -> Result<Self, Failure> {
        let read = |is_named| match ContextFile::of_user() {
            Ok(file) => file.read(),
            // Only a context that is named needs the file.
            Err(failure) if is_named => Err(failure),
            Err(_) => Ok(Contexts::default()),
        };
        let chosen = choose(arguments, read, &listens)?;
        let mut transport = ClientTransport::new(&chosen.tls)?;
        if let Some(token) = chosen.token {
            if chosen.tls.tls_ca.is_none() {
                let text = "a token is not sent in plaintext, and no TLS is chosen";
                return Err(Failure::usage(text).advise("name the CA of the masters with --tls-ca"));
            }
            transport = transport.with_token(&token.secret()?);
        }
        Ok(Self {
            masters: chosen.masters,
            transport,
        })
    }
}

/// The masters, the files of TLS and the token of a command.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) masters: Masters,
    pub(super) tls: ClientTls,
    pub(super) token: Option<Token>,
}

/// Chooses masters, files of TLS and a token. `read` returns the contexts, and gets whether the
/// user has named one.
pub(super) fn choose(
    arguments: &ClusterArguments,
    read: impl FnOnce(bool) -> Result<Contexts, Failure>,
    listens: &dyn Fn(&str) -> bool,
) -> Result<Choice, Failure> {
    let context = match (&arguments.context, &arguments.masters) {
        (Some(name), _) => Some(read(true)?.find(name)?.clone()),
        // These masters may be of another cluster than the current context.
        (None, Some(_)) => None,
        (None, None) => {
            let contexts = read(false)?;
            match &contexts.current {
                Some(name) => Some(contexts.find(name)?.clone()),
                None if !arguments.tls.is_empty() => None,
                None => dev(&contexts, listens),
            }
        }
    };
    let (masters, tls, token) = match context {
        Some(context) => (Some(context.masters), context.tls, context.token),
        None => (None, ClientTls::default(), None),
    };
    let masters = arguments.masters.clone().or(masters);
    let masters = masters.unwrap_or_else(|| default_masters(listens));
    let (tls, token) = match arguments.tls.is_empty() {
        true => (tls, token),
        // All of them, because the files of one identity belong together, and the token of one
        // cluster is not sent to another one.
        false => (arguments.tls.clone(), None),
    };
    let token = match &arguments.token_file {
        Some(path) => Some(Token::read(path)?),
        None => token,
    };
    Ok(Choice {
        masters,
        tls,
        token,
    })
}

/// Returns the context of the usual dev cluster, unless the cluster has ended without removing it.
fn dev(contexts: &Contexts, listens: &dyn Fn(&str) -> bool) -> Option<super::Context> {
    let context = contexts.all.get(&ContextName::of_dev(None))?;
    let mut masters = context.masters.addresses().iter();
    let is_running = masters.any(|address| listens(address));
    (context.dev.is_some() && is_running).then(|| context.clone())
}

/// Returns the default masters: those of this host, else those of a dev cluster in plaintext.
fn default_masters(listens: &dyn Fn(&str) -> bool) -> Masters {
    let own = format!("127.0.0.1:{API_PORT}");
    let dev: Vec<_> = (1..=3)
        .map(|last| format!("127.77.0.{last}:{API_PORT}"))
        .collect();
    let list = if !listens(&own) && dev.iter().any(|address| listens(address)) {
        dev
    } else {
        vec![own]
    };
    Masters::new(list).expect("our own addresses are well formed")
}

fn listens(address: &str) -> bool {
    let resolved = address.to_socket_addrs().ok();
    let mut addresses = resolved.into_iter().flatten();
    addresses.any(|address: SocketAddr| TcpStream::connect_timeout(&address, LOCAL_PROBE).is_ok())
}
