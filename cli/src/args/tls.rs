//! Flags of TLS: those of the services, and those of their clients.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// TLS of a master or agent.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServiceTls {
    /// Certificate of this process in PEM, followed by those of intermediate CAs; argosy ca creates
    /// one
    #[arg(long, env = "ARGOSY_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, env = "ARGOSY_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// CA certificates that are trusted, in PEM
    #[arg(long, env = "ARGOSY_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Whether other processes must use TLS: required, or optional while a cluster moves to TLS
    #[arg(long, env = "ARGOSY_TLS", value_enum, value_name = "MODE", default_value_t = TlsMode::Required, hide_possible_values = true)]
    pub(crate) tls: TlsMode,
    /// Clients without a certificate that the API accepts: all; or local, which are root, the user
    /// of this process, and --api-user; or none
    #[arg(long, env = "ARGOSY_TLS_ANONYMOUS", value_enum, value_name = "CLIENTS", default_value_t = TlsAnonymous::All, hide_possible_values = true)]
    pub(crate) tls_anonymous: TlsAnonymous,
    /// Use no TLS although traffic is then neither encrypted nor authenticated
    #[arg(long, env = "ARGOSY_INSECURE_PLAINTEXT")]
    pub(crate) insecure_plaintext: bool,
}

/// Whether TLS is required.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsMode {
    /// Plaintext is refused.
    #[default]
    Required,
    /// Plaintext is accepted, and used with a peer that has no TLS.
    Optional,
}

/// The clients without a certificate that an API accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsAnonymous {
    /// All that reach the port.
    #[default]
    All,
    /// Some users of this host.
    Local,
    /// None.
    None,
}

/// TLS of a client of the masters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct ClientTls {
    /// CA certificates of the masters, in PEM; without them and without those of a context,
    /// connections are not encrypted
    #[arg(long, env = "ARGOSY_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate of this client, in PEM [default: no identity]
    #[arg(long, env = "ARGOSY_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(long, env = "ARGOSY_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
}

impl ClientTls {
    /// Returns whether it names no file.
    pub(crate) fn is_empty(&self) -> bool {
        let files = [&self.tls_ca, &self.tls_cert, &self.tls_key];
        files.into_iter().all(Option::is_none)
    }

    /// Returns the files that the environment names, for a program that reads no flags.
    pub(crate) fn of_environment() -> Self {
        let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Self {
            tls_ca: file("ARGOSY_TLS_CA"),
            tls_cert: file("ARGOSY_TLS_CERT"),
            tls_key: file("ARGOSY_TLS_KEY"),
        }
    }
}
