//! A client of services that publish a port of their network. Whatever answers at the agent's
//! port must be the task that has it. When the cluster is healthy again, each must answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use argosy_client::OperatorClient;
use argosy_proto::v1;
use argosy_testbed::cluster::Cluster;
use argosy_testbed::waiting;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::cli_operator::CliOperator;
use super::framework::tasks::publishes_port;
use super::report::{OperationCounts, ReportedViolation};
use crate::invariants::Rule;
use crate::rng::Rng;

/// Pause between two connections.
const PAUSE: Duration = Duration::from_millis(200);
/// Timeout of a connection with its answer, and of a read of the registry.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time for an answer when the cluster is healthy.
const LAST_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const ANSWER_BYTES: u64 = 1_024;

/// The results of all connections.
#[derive(Debug, Default)]
pub(crate) struct PortFindings {
    pub(crate) counts: OperationCounts,
    pub(crate) violations: Vec<ReportedViolation>,
}

/// Connects to services until it is finished.
pub(crate) struct PortProber {
    stop: CancellationToken,
    task: JoinHandle<(PortClient, PortFindings)>,
}

struct PortClient {
    /// Knows the running services.
    services: CliOperator,
    registry: OperatorClient,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The service publishes no port: the offer had none.
    NoPort,
    /// The service itself has answered.
    Right,
    /// Nothing has, or the service had ended.
    Unknown(String),
    /// Something else has, while the service had the port.
    Wrong(String),
}

impl PortProber {
    pub(crate) fn start(cluster: &Cluster, rng: Rng) -> Self {
        let mut client = PortClient {
            services: CliOperator::new(cluster, rng),
            registry: cluster.operator().with_deadline(TIMEOUT),
        };
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let task = tokio::spawn(async move {
            let mut findings = PortFindings::default();
            while is_over
                .run_until_cancelled(time::sleep(PAUSE))
                .await
                .is_some()
            {
                let services = client.publishing();
                if let Some(service) = client.services.rng.pick(&services).cloned() {
                    let answer = client.connect(&service).await;
                    findings.note(&service, &answer);
                }
            }
            (client, findings)
        });
        Self { stop, task }
    }

    /// Ends it. If the cluster is healthy, every service that publishes a port must answer.
    ///
    /// # Errors
    /// If its task has failed.
    pub(crate) async fn finish(self, is_healthy: bool) -> Result<PortFindings> {
        self.stop.cancel();
        let ended = self.task.await;
        let (client, mut findings) = ended.context("the client of published ports has failed")?;
        let services = client.publishing().into_iter();
        for service in services.filter(|_| is_healthy) {
            let answered = waiting::poll(LAST_TIMEOUT, PAUSE, async || {
                match client.connect(&service).await {
                    Answer::Unknown(why) => Err(anyhow!(why)),
                    answer => Ok(answer),
                }
            });
            match answered.await {
                Ok(answer) => findings.note(&service, &answer),
                Err(why) => findings.violation(format!(
                    "the port that {service} publishes has not answered in {LAST_TIMEOUT:?}: {why:#}"
                )),
            }
        }
        Ok(findings)
    }
}

impl PortClient {
    /// Returns the running services that publish a port, as FRAMEWORK/TASK.
    fn publishing(&self) -> Vec<String> {
        let all = self.services.all_services().into_iter();
        all.filter(|service| publishes_port(service)).collect()
    }

    async fn connect(&self, service: &str) -> Answer {
        let address = match self.address(service).await {
            Ok(Some(address)) => address,
            Ok(None) => return Answer::NoPort,
            Err(why) => return Answer::Unknown(why),
        };
        let read = match time::timeout(TIMEOUT, read_answer(address)).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Answer::Unknown(format!("{address}: {error}")),
            Err(_) => return Answer::Unknown(format!("{address}: no answer in {TIMEOUT:?}")),
        };
        // A task that has ended since may have made room for another one.
        let may_differ = read != service && self.address(service).await != Ok(Some(address));
        judge(service, &read, may_differ)
    }

    /// Returns where a running service publishes its port; `None` if it publishes none.
    async fn address(&self, service: &str) -> Result<Option<SocketAddr>, String> {
        let (framework, task) = service.split_once('/').unwrap_or(("", service));
        let request = v1::GetRequest {
            id: task.to_owned(),
            framework_id: framework.to_owned(),
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        let task = self.registry.get_task(request).await;
        let task = task.map_err(|error| format!("its task cannot be read: {error}"))?;
        if task.state() != v1::TaskState::Running || task.kill_wanted {
            return Err("it does not run".to_owned());
        }
        let host: Result<SocketAddr, _> = task.agent_address.parse();
        let host = host.map_err(|error| format!("{:?}: {error}", task.agent_address))?;
        Ok(published_port(&task).map(|port| SocketAddr::new(host.ip(), port)))
    }
}

fn published_port(task: &v1::Task) -> Option<u16> {
    let container = task.spec.as_ref()?.container.as_ref()?;
    match container.network.as_ref()?.mode.as_ref()? {
        v1::network::Mode::Bridge(bridge) => {
            u16::try_from(bridge.published.first()?.host_port).ok()
        }
        _ => None,
    }
}

/// Judges an answer. `may_differ`: the service may have lost its port before.
fn judge(service: &str, read: &str, may_differ: bool) -> Answer {
    match (read == service, may_differ) {
        (true, _) => Answer::Right,
        (false, true) => Answer::Unknown("it has ended".to_owned()),
        (false, false) => Answer::Wrong(read.to_owned()),
    }
}

/// Reads the line that a service writes to each connection, whole or not at all.
async fn read_answer(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.shutdown().await?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut text).await?;
    match text.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(std::io::Error::other(format!("it was cut off: {text:?}"))),
    }
}

impl PortFindings {
    fn note(&mut self, service: &str, answer: &Answer) {
        match answer {
            Answer::NoPort => {}
            Answer::Right => self.counts.ok += 1,
            Answer::Unknown(_) => self.counts.unknown += 1,
            Answer::Wrong(read) => self.violation(format!(
                "the port that {service} publishes leads to {read:?}"
            )),
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(ReportedViolation {
            checker: Rule::PublishedPorts.to_string(),
            what,
            time_ns: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn another_answer_is_a_violation_while_the_service_has_its_port() {
        let service = "framework-1/f-service-7";
        let mut findings = PortFindings::default();
        for (read, may_differ) in [(service, false), (service, true), ("other", true)] {
            findings.note(service, &judge(service, read, may_differ));
        }
        assert_eq!((findings.counts.ok, findings.counts.unknown), (2, 1));
        assert_eq!(findings.violations, []);
        findings.note(service, &judge(service, "framework-1/f-service-14", false));
        assert_eq!(findings.violations.len(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async |text: &str| {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let (read, ()) = tokio::join!(read_answer(address), serve("framework-1/a\n"));
        assert_eq!(read.unwrap(), "framework-1/a");
        let (read, ()) = tokio::join!(read_answer(address), serve("framework-1/"));
        assert!(read.unwrap_err().to_string().contains("cut off"));
    }
}
