//! gRPC reflection, for tools such as grpcurl. A stream may hold two descriptors that its client
//! does not read, so the number of streams is bounded.

use std::sync::Arc;

use argosy_proto::server::GuardedBody;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use metrics::counter;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

/// Maximum number of open reflection streams. Further ones are rejected.
const STREAMS: usize = 64;

/// Returns the services of reflection, in both versions: many clients still use v1alpha.
///
/// # Errors
/// If the descriptors of this release cannot be decoded.
pub(crate) fn reflection() -> Result<Router, Error> {
    let builder =
        || Builder::configure().register_encoded_file_descriptor_set(argosy_proto::DESCRIPTORS);
    let mut routes = Routes::builder();
    routes
        .add_service(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?);
    let streams = Arc::new(Semaphore::new(STREAMS));
    let router = routes.routes().into_axum_router();
    Ok(router
        .reset_fallback()
        .layer(from_fn_with_state(streams, bounded)))
}

async fn bounded(State(streams): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(place) = streams.try_acquire_owned() else {
        counter!("argosy_queue_full_total", "queue" => "reflection").increment(1);
        let text =
            format!("{STREAMS} streams of reflection are open: close one, or use another master");
        return Status::resource_exhausted(text).into_http();
    };
    let response = next.run(request).await;
    response.map(|body| Body::new(GuardedBody::new(body, place)))
}
