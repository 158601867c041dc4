//! The parts of a master that face its clients: services, HTTP surface and audit log.

use std::io;
use std::sync::Arc;

use argosy_proto::server;
use argosy_proto::server::audit::{Audit, AuditWriter};
use argosy_proto::server::callers::{AllowedCallers, ApiAccess};
use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::transport::Dialer;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::trace_seed;
use crate::config::MasterConfig;
use crate::error::MasterError;
use crate::http;
use crate::http::exec;
use crate::owner_handle::OwnerHandle;
use crate::service;
use crate::service::{Feed, MasterConnections, Services};

pub(super) fn services(
    config: &MasterConfig,
    owner: OwnerHandle,
    (peers, agents): (MasterConnections, Dialer),
) -> Services {
    Services {
        owner,
        peers,
        agents: service::client_of_agents(agents),
        access: config.access.clone(),
        feed: Feed::default(),
        secret_keys: config.secret_keys.clone(),
        issuer: config.certificate_issuer.clone(),
        join_rates: Arc::default(),
        saves: Arc::new(Semaphore::new(service::SAVES)),
        tasks: TaskTracker::new(),
    }
}

/// The HTTP surface, the host names of the API, the seed of ids of requests, and the audit log.
pub(super) type HttpFront = (Router, AllowedHosts, u64, Audit);

pub(super) fn front(
    config: &MasterConfig,
    services: &Services,
    (metrics, entropy): (Option<PrometheusHandle>, &[u8; 32]),
    audit: Audit,
) -> HttpFront {
    let pages = pages(config, services, metrics);
    (pages, config.hosts(), trace_seed(entropy), audit)
}

/// Returns the HTTP surface.
fn pages(config: &MasterConfig, services: &Services, metrics: Option<PrometheusHandle>) -> Router {
    let exec_limit = exec::StreamLimit::new(server::outgoing(exec::STREAMS));
    let access = match config.enforces_access {
        // The rules decide, with the same identities.
        true => ApiAccess {
            exec: AllowedCallers::All,
            files: AllowedCallers::All,
            status: AllowedCallers::All,
        },
        false => config.access.clone(),
    };
    http::router(services.clone(), metrics, exec_limit, access)
}

/// Opens the audit log, which ends when its writer is dropped.
pub(super) fn open_audit(
    config: &MasterConfig,
) -> Result<(Audit, Option<AuditWriter>), MasterError> {
    let failed = |why: io::Error| {
        let directory = config.directory.display();
        MasterError::Failed(format!(
            "the audit log in {directory} cannot be used: {why}"
        ))
    };
    Audit::open(config.audit().as_ref()).map_err(failed)
}
