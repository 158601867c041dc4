//! `grpc.health.v1.Health`: the services follow `/readyz`. The process as a whole (the empty name)
//! is SERVING while it answers.
//!
//! The state is computed on request and for watchers only, so an unwatched service costs nothing.

use std::pin::Pin;
use std::time::Duration;

use argosy_proto::excerpt::{NAME_BYTES, excerpt};
use argosy_proto::v1;
use futures::{Stream, StreamExt, stream};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Services;
use crate::owner_handle::OwnerHandle;

/// Interval at which a watched service is checked.
const INTERVAL: Duration = Duration::from_secs(1);

type HealthStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

/// Returns the service of this master.
pub(crate) fn health(handle: OwnerHandle) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { owner: handle })
}

pub(crate) struct HealthService {
    owner: OwnerHandle,
}

/// The subject that the name in a request denotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HealthSubject {
    Process,
    LeaderDependent,
    Unknown,
}

fn subject(service: &str) -> HealthSubject {
    let served = [
        v1::scheduler_server::SchedulerServer::<Services>::NAME,
        v1::agents_server::AgentsServer::<Services>::NAME,
        v1::operator_server::OperatorServer::<Services>::NAME,
        v1::certificates_server::CertificatesServer::<Services>::NAME,
    ];
    // Any master answers these with its own knowledge.
    let independent = [
        v1::leadership_server::LeadershipServer::<Services>::NAME,
        v1::reigns_server::ReignsServer::<Services>::NAME,
    ];
    match service {
        "" => HealthSubject::Process,
        name if independent.contains(&name) => HealthSubject::Process,
        name if served.contains(&name) => HealthSubject::LeaderDependent,
        _ => HealthSubject::Unknown,
    }
}

async fn serving_status(handle: &OwnerHandle, subject: HealthSubject) -> ServingStatus {
    match subject {
        HealthSubject::Process => ServingStatus::Serving,
        HealthSubject::LeaderDependent => match handle.ready().await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        },
        HealthSubject::Unknown => ServingStatus::ServiceUnknown,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = HealthStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match subject(&service) {
            HealthSubject::Unknown => {
                let service = excerpt(&service, NAME_BYTES);
                Err(Status::not_found(format!("no service {service:?}")))
            }
            known => Ok(Response::new(answer(
                serving_status(&self.owner, known).await,
            ))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthStream>, Status> {
        let subject = subject(&request.into_inner().service);
        let states = stream::unfold(
            (self.owner.clone(), None),
            move |(handle, reported)| async move {
                loop {
                    if reported.is_some() {
                        tokio::time::sleep(INTERVAL).await;
                    }
                    let status = serving_status(&handle, subject).await;
                    if reported != Some(status) {
                        return Some((Ok(answer(status)), (handle, Some(status))));
                    }
                }
            },
        );
        Ok(Response::new(states.boxed()))
    }
}
