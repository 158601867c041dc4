//! Revocation of a key: an operator gets a new key and certificate, and its former key is revoked
//! while it has connections. These must end, and the new key must work at every master.
//!
//! The revocation and the calls are operations of the history, which `AccessEnforcement` compares.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_state::access::KeyHash;
use argosy_state::actor::PrincipalKind;
use argosy_testbed::certificates::ClusterCertificates;
use argosy_testbed::partitions::HostIndex;
use argosy_testbed::transport::ClientTransport;
use argosy_tls::credentials::read_certificates;
use argosy_tls::request;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Injector, rules};
use crate::history::{DecidedBy, FaultKind};
use crate::workload::rights::{ProbeCall, RightProbe};

/// Timeout for a healthy cluster before the key is used.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of the connection of a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a call, with its connection.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout for the end of a stream whose key is revoked. Masters end it when they apply the
/// revocation.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A key of the operator, as its connections use it.
struct OperatorKey {
    hash: KeyHash,
    transport: ClientTransport,
}

impl OperatorKey {
    /// Issues a new key and certificate for an operator. The credentials stay in memory.
    fn issue(certificates: &ClusterCertificates, name: &str) -> Result<Self> {
        let files = certificates.issue(PrincipalKind::Operator, name, None)?;
        let hash = key_hash(&files.certificate)?;
        let transport = ClientTransport::tls(&files.load()?);
        Ok(Self { hash, transport })
    }

    /// Returns the name of the right to use the key.
    fn right(&self) -> String {
        format!("key-{}", self.hash)
    }
}

fn key_hash(certificate: &Path) -> Result<KeyHash> {
    let text = read_certificates(certificate)?;
    Ok(request::key_hash(&request::first_certificate(&text)?)?)
}

/// A stream that the former key has opened at a master.
struct OpenStream {
    api: String,
    channel: Channel,
    events: Streaming<v1::WatchEvent>,
}

impl OpenStream {
    async fn open(key: &OperatorKey, api: String) -> Result<Self> {
        let channel = key.transport.channel(&api, CONNECT_TIMEOUT);
        let mut client = OperatorClient::new(channel.clone());
        let watch = client.watch(v1::WatchRequest {
            kinds: vec!["cluster".to_owned()],
            ..Default::default()
        });
        let opened = tokio::time::timeout(CALL_TIMEOUT, watch).await;
        let opened = opened.map_err(|_| anyhow!("{api} does not answer"))?;
        let events = opened.with_context(|| format!("{api} refuses a key that is not revoked"))?;
        Ok(Self {
            api,
            channel,
            events: events.into_inner(),
        })
    }

    /// Waits until the master ends the stream.
    async fn await_end(&mut self) -> Result<()> {
        let ended = async { while let Ok(Some(_)) = self.events.message().await {} };
        let ended = tokio::time::timeout(END_TIMEOUT, ended).await;
        ended.with_context(|| format!("{} still serves a stream of a revoked key", self.api))
    }
}

impl Injector<'_> {
    pub(super) async fn key_revocation(&mut self) -> Result<(String, Duration)> {
        // A master that is down would have no stream that can end.
        self.cluster.await_health(HEALTH_TIMEOUT).await?;
        let certificates = self.cluster.environment.certificates.clone();
        let certificates = certificates.context("the cluster uses no TLS")?;
        let name = format!("renewed-{:x}", self.rng.next());
        self.note(FaultKind::KeyRevocation, "*", &name);
        let former = OperatorKey::issue(&certificates, &name)?;
        let voters = self.cluster.voters.clone();
        let mut streams = Vec::new();
        for place in &voters {
            streams.push(OpenStream::open(&former, self.cluster.api(*place)).await?);
        }
        let renewed = OperatorKey::issue(&certificates, &name)?;
        let rights = [(former.right(), false), (renewed.right(), true)];
        let revoke = Write::RevokeKey(v1::RevokeKey {
            key_hash: former.hash.to_string(),
        });
        let Some(revision) = self.change_access(rules::NAME, &rights, revoke).await else {
            bail!("a healthy cluster has not acknowledged the revocation of a key");
        };
        for (place, stream) in voters.into_iter().zip(&mut streams) {
            stream.await_end().await?;
            let channel = stream.channel.clone();
            self.call(&name, &former, channel, revision.index).await;
            for key in [&former, &renewed] {
                let channel = self.channel(key, place);
                self.call(&name, key, channel, revision.index).await;
            }
        }
        Ok((name, Duration::from_millis(100)))
    }

    fn channel(&self, key: &OperatorKey, place: HostIndex) -> Channel {
        let api = self.cluster.api(place);
        key.transport.channel(&api, CONNECT_TIMEOUT)
    }

    /// Makes a call that needs only a valid key.
    async fn call(&self, process: &str, key: &OperatorKey, channel: Channel, min_index: u64) {
        let probe = RightProbe {
            right: key.right(),
            token: None,
            call: ProbeCall::ListAgents(DecidedBy::Master { min_index }),
        };
        let called = probe.perform(self.recorder, process, channel);
        // A call without an answer stays open in the history.
        let _ = tokio::time::timeout(CALL_TIMEOUT, called).await;
    }
}
