//! The subset of etcd's API that queries a member for its leader and writes a key. Names and
//! numbers are those of its public protocol.

use anyhow::Result;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{GrpcMethod, Request};
use tonic_prost::ProstCodec;

use super::peers::PeerStatus;

const PUT: (&str, &str) = ("etcdserverpb.KV", "Put");
const STATUS: (&str, &str) = ("etcdserverpb.Maintenance", "Status");

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Writes a key.
///
/// # Errors
/// If it was rejected, or not answered within the deadline of the request.
pub(super) async fn put(
    channel: Channel,
    value: String,
    deadline: std::time::Duration,
) -> Result<()> {
    let mut request = Request::new(PutRequest {
        key: b"probe".to_vec(),
        value: value.into_bytes(),
    });
    request.set_timeout(deadline);
    let _: PutResponse = call(channel, PUT, request).await?;
    Ok(())
}

/// Queries a member for its status.
///
/// # Errors
/// If the member does not respond.
pub(super) async fn status(channel: Channel) -> Result<PeerStatus> {
    let status: StatusResponse = call(channel, STATUS, Request::new(StatusRequest {})).await?;
    let own = status.header.unwrap_or_default().member_id;
    Ok(PeerStatus {
        is_leader: (status.leader != 0).then_some(status.leader == own),
        version: status.version,
    })
}

async fn call<Q, A>(
    channel: Channel,
    (service, method): (&'static str, &'static str),
    mut request: Request<Q>,
) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = PathAndQuery::try_from(format!("/{service}/{method}"))?;
    request
        .extensions_mut()
        .insert(GrpcMethod::new(service, method));
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(request, path, codec).await?.into_inner())
}
