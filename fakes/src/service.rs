//! The gRPC services of a fake master.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::leadership_server::Leadership;
use argosy_proto::v1::scheduler_server::Scheduler;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::cluster::{CallFault, FakeState};

#[derive(Clone)]
pub(super) struct FakeMaster {
    state: Arc<Mutex<FakeState>>,
    /// The index of this master.
    index: usize,
    stop: CancellationToken,
}

type RpcResult<T> = Result<Response<T>, Status>;

impl FakeMaster {
    pub(super) fn new(state: Arc<Mutex<FakeState>>, place: usize, stop: CancellationToken) -> Self {
        Self {
            state,
            index: place,
            stop,
        }
    }

    fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().expect("no test panicked in it")
    }

    /// Builds a reply: any master serves any call, and names the leader.
    fn reply<T>(&self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        let state = self.state();
        let leader = state.addresses[state.leader]
            .parse()
            .expect("an address is plain text");
        response.metadata_mut().insert("argosy-leader", leader);
        response
    }

    fn unary<T>(&self, act: impl FnOnce(&mut FakeState) -> T) -> RpcResult<T> {
        let lost = Status::unavailable("no leader is known");
        let body = {
            let mut state = self.state();
            let fault = state.faults.pop_front();
            if fault == Some(CallFault::Unavailable) {
                return Err(lost);
            }
            if fault == Some(CallFault::NotRead) {
                return Err(Status::resource_exhausted("too many incomplete messages"));
            }
            if fault == Some(CallFault::Denied) {
                return Err(denied());
            }
            let body = act(&mut state);
            if fault == Some(CallFault::LostReply) {
                return Err(lost);
            }
            body
        };
        Ok(self.reply(body))
    }

    fn numbered<Q: Message + std::fmt::Debug>(
        &self,
        kind: &'static str,
        (request, call): (&Q, Option<&v1::CallId>),
        act: impl FnOnce(&mut FakeState) -> Result<Vec<v1::Refused>, String>,
    ) -> RpcResult<v1::AcceptReply> {
        let call = call.cloned().unwrap_or_default();
        let content = format!("{request:?}");
        let response = self.unary(|state| state.call(kind, &call, content, act))?;
        let (metadata, body, extensions) = response.into_parts();
        let body = body.map_err(refusal)?;
        Ok(Response::from_parts(metadata, body, extensions))
    }
}

fn denied() -> Status {
    let none: [(String, String); 0] = [];
    let details = ErrorDetails::with_error_info("access-denied", "argosy", none);
    Status::with_error_details(Code::PermissionDenied, "a rule denies it", details)
}

fn refusal((code, text): (&'static str, String)) -> Status {
    let none: [(String, String); 0] = [];
    Status::with_error_details(
        Code::FailedPrecondition,
        text,
        ErrorDetails::with_error_info(code, "argosy", none),
    )
}

macro_rules! numbered {
    ($master:expr, $kind:literal, $request:expr, $reply:ident, $act:expr) => {{
        let request = $request.into_inner();
        let answer = $master.numbered($kind, (&request, request.call.as_ref()), $act)?;
        let revision = answer.into_inner().revision;
        Ok($master.reply(v1::$reply { revision }))
    }};
}

fn nothing(_: &mut FakeState) -> Result<Vec<v1::Refused>, String> {
    Ok(Vec::new())
}

#[tonic::async_trait]
impl Scheduler for FakeMaster {
    type SubscribeStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> RpcResult<Self::SubscribeStream> {
        let events = self
            .state()
            .subscribe(request.into_inner())
            .map_err(refusal)?;
        // Weak, so that dropping the leader's end closes the stream.
        let link = self.state().link.as_ref().map(mpsc::Sender::downgrade);
        let (state, stop) = (self.state.clone(), self.stop.clone());
        tokio::spawn(async move {
            let Some(link) = link else { return };
            while !stop.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let is_silent = state.lock().expect("no test panicked in it").is_silent;
                let Some(link) = link.upgrade() else { return };
                let event = Some(v1::event::Event::Heartbeat(v1::Heartbeat {}));
                if !is_silent && link.try_send(Ok(v1::Event { event })).is_err() {
                    return;
                }
            }
        });
        Ok(self.reply(ReceiverStream::new(events)))
    }

    async fn accept(&self, request: Request<v1::AcceptRequest>) -> RpcResult<v1::AcceptReply> {
        let request = request.into_inner();
        self.numbered("accept", (&request, request.call.as_ref()), |state| {
            state.accept(&request)
        })
    }

    /// Accepts and drops every message: there are never any executors.
    async fn message(&self, _: Request<v1::MessageRequest>) -> RpcResult<v1::MessageReply> {
        Ok(Response::new(v1::MessageReply {}))
    }

    /// Scripted faults do not apply to heartbeats, because the test does not control their time.
    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> RpcResult<v1::HeartbeatReply> {
        self.state().heartbeat(&request.into_inner());
        Ok(self.reply(v1::HeartbeatReply {}))
    }

    async fn decline(&self, request: Request<v1::DeclineRequest>) -> RpcResult<v1::DeclineReply> {
        let request = request.into_inner();
        self.unary(|state| {
            state.decline(request);
            v1::DeclineReply {}
        })
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> RpcResult<v1::AcknowledgeReply> {
        let request = request.into_inner();
        self.unary(|state| {
            state.acknowledge(request);
            v1::AcknowledgeReply {}
        })
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> RpcResult<v1::ReconcileReply> {
        self.unary(|state| state.reconcile(&request.into_inner()))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> RpcResult<v1::KillReply> {
        numbered!(self, "kill", request, KillReply, nothing)
    }

    async fn update_limits(
        &self,
        request: Request<v1::UpdateLimitsRequest>,
    ) -> RpcResult<v1::UpdateLimitsReply> {
        numbered!(self, "limits", request, UpdateLimitsReply, nothing)
    }

    async fn suppress(
        &self,
        request: Request<v1::SuppressRequest>,
    ) -> RpcResult<v1::SuppressReply> {
        numbered!(self, "suppress", request, SuppressReply, nothing)
    }

    async fn revive(&self, request: Request<v1::ReviveRequest>) -> RpcResult<v1::ReviveReply> {
        numbered!(self, "revive", request, ReviveReply, nothing)
    }

    async fn update_framework(
        &self,
        request: Request<v1::UpdateFrameworkRequest>,
    ) -> RpcResult<v1::UpdateFrameworkReply> {
        numbered!(self, "update", request, UpdateFrameworkReply, nothing)
    }

    async fn teardown(
        &self,
        request: Request<v1::TeardownRequest>,
    ) -> RpcResult<v1::TeardownReply> {
        numbered!(
            self,
            "teardown",
            request,
            TeardownReply,
            |state: &mut FakeState| {
                state.remove();
                Ok(Vec::new())
            }
        )
    }
}

#[tonic::async_trait]
impl Leadership for FakeMaster {
    type WatchStream = ReceiverStream<Result<v1::Reign, Status>>;

    async fn watch(&self, _: Request<v1::WatchReigns>) -> RpcResult<Self::WatchStream> {
        // One at a time: a listener always receives the newest.
        let (sender, epochs) = mpsc::channel(1);
        let master = self.clone();
        tokio::spawn(async move {
            let mut reported = None;
            while !master.stop.is_cancelled() && !sender.is_closed() {
                let epoch_record = master.state().leadership(master.index);
                if reported.as_ref() != Some(&epoch_record) {
                    reported = Some(epoch_record.clone());
                    if sender.send(Ok(epoch_record)).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(epochs)))
    }
}
