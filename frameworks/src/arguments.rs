//! Arguments that all frameworks of this crate share, and their end on a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use argosy_client::scheduler::SchedulerDriver;
use argosy_client::{ConnectorConfig, Dialer, Masters, SchedulerConfig, TokenSecret};
use argosy_proto::http_client::HttpClient;
use argosy_tls::application::Application;
use argosy_tls::credentials::{CredentialFiles, OwnFiles, read_key};
use argosy_tls::store::{CredentialStore, follow_files};
use argosy_tls::{PlaintextPolicy, Time, dialer};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The time for an agent to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The address of the cluster, and the role of the framework.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArguments {
    /// API addresses of the masters, as 10.0.0.1:5050,10.0.0.2:5050
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "ADDRESSES")]
    pub masters: Masters,
    /// Role in which the framework receives offers
    #[arg(long, env = "ARGOSY_ROLE", default_value = "*")]
    pub role: String,
    /// TLS with the masters.
    #[command(flatten)]
    pub tls: TlsArguments,
}

/// The files of TLS with the masters.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArguments {
    /// CA certificates of the masters, in PEM; without them, connections are not encrypted
    #[arg(long, env = "ARGOSY_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate of this framework, in PEM [default: no identity]
    #[arg(long, env = "ARGOSY_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(
        long,
        env = "ARGOSY_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// File with a bearer token, the identity of this framework
    #[arg(
        long,
        env = "ARGOSY_TOKEN_FILE",
        value_name = "FILE",
        requires = "tls_ca"
    )]
    pub token_file: Option<PathBuf>,
}

impl TlsArguments {
    /// Returns whether connections use TLS.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.tls_ca.is_some()
    }

    /// Returns the settings of connections to masters.
    ///
    /// # Errors
    /// The files cannot be used.
    ///
    /// # Panics
    /// Outside of a runtime, if TLS is used.
    pub fn connector(&self) -> anyhow::Result<ConnectorConfig> {
        let config = ConnectorConfig {
            dialer: self.dialer(Application::Http2)?,
            ..ConnectorConfig::default()
        };
        let Some(path) = &self.token_file else {
            return Ok(config);
        };
        let shown = path.display();
        let text = read_key(path).context("cannot use --token-file")?;
        let token: TokenSecret = String::from_utf8_lossy(&text)
            .trim_end()
            .parse()
            .map_err(|why| anyhow::anyhow!("--token-file {shown}: {why}"))?;
        Ok(config.with_token(&token))
    }

    /// Returns a client of agents.
    ///
    /// # Errors
    /// The files cannot be used.
    ///
    /// # Panics
    /// Outside of a runtime, if TLS is used.
    pub fn agents(&self) -> anyhow::Result<HttpClient> {
        Ok(HttpClient::new(
            self.dialer(Application::Http1)?,
            CONNECT_TIMEOUT,
        ))
    }

    fn dialer(&self, application: Application) -> anyhow::Result<Dialer> {
        let Some(credentials) = self.credentials()? else {
            return Ok(Dialer::tcp());
        };
        let plaintext = PlaintextPolicy::Rejected;
        Ok(dialer::dial(
            Dialer::tcp(),
            credentials,
            application,
            plaintext,
        ))
    }

    /// Reads the files of TLS, if it is used. New connections use changed files.
    fn credentials(&self) -> anyhow::Result<Option<Arc<CredentialStore>>> {
        let Some(ca) = &self.tls_ca else {
            return Ok(None);
        };
        let own = self.tls_cert.clone().zip(self.tls_key.clone());
        let files = CredentialFiles {
            own: own.map(|(certificate, key)| OwnFiles { certificate, key }),
            ca: ca.clone(),
        };
        let credentials = Arc::new(CredentialStore::load(files, Time::now())?);
        // Ends with the program: the files are read for as long as it runs.
        tokio::spawn(follow_files(credentials.clone()));
        Ok(Some(credentials))
    }
}

impl ClusterArguments {
    /// Returns a configuration for a framework called `name` whose tasks outlive it for
    /// `failover_timeout_ms`.
    ///
    /// # Errors
    /// The files of TLS cannot be used.
    ///
    /// # Panics
    /// Outside of a runtime, if TLS is used.
    pub fn config(&self, name: &str, failover_timeout_ms: u64) -> anyhow::Result<SchedulerConfig> {
        let mut config = SchedulerConfig::new(self.masters.clone(), name);
        config.connector = self.tls.connector()?;
        config.info.roles = vec![self.role.clone()];
        config.info.failover_timeout_ms = Some(failover_timeout_ms);
        Ok(config)
    }
}

/// Tears the framework down on the first INT or TERM. On the second, or ten seconds later, stops
/// waiting for the masters.
///
/// # Errors
/// If signals cannot be watched.
pub fn teardown_on_signal(driver: SchedulerDriver) -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    // Ends with the program, because it waits for signals only.
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        driver.teardown();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use argosy_tls::authority::{Validity, new_authority};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// The timeout of the wait for changed files, above the interval at which they are read.
    const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

    /// Returns the certificate of a new CA.
    fn authority(serial: u8) -> String {
        let cluster = "prod".parse().unwrap();
        let validity = Validity::of_days(SystemTime::now(), 30);
        let authority = new_authority(&cluster, validity, [serial; 16]).unwrap();
        authority.certificate
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_framework_uses_changed_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, authority(1)).unwrap();
        let arguments = TlsArguments {
            tls_ca: Some(ca.clone()),
            ..TlsArguments::default()
        };
        let credentials = arguments.credentials().unwrap().unwrap();
        let former = credentials.current();
        std::fs::write(&ca, authority(2)).unwrap();
        let changed = async {
            while Arc::ptr_eq(&former, &credentials.current()) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(RELOAD_TIMEOUT, changed).await.unwrap();
    }
}
