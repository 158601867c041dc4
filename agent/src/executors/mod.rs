//! The sockets of executors: opened and closed as the core says, messages carried both ways. Decides nothing.
//!
//! Reading order: `place`, `service`.

mod directory;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use argosy_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

pub(crate) use directory::{Guest, Place};
use service::Service;

use crate::broker::Broker;
use crate::core::{ContainerName, Instance};
use crate::inbox::Event;

/// Into the present stream of an executor. When full that stream ends; the next one begins with what is missing.
pub(crate) type ExecutorSender = mpsc::Sender<Result<v1::ToExecutor, Status>>;

/// All sockets that are open.
pub(crate) struct ExecutorSockets {
    /// `None` on a made-up host, whose executors nobody meets.
    broker: Option<Broker>,
    inbox: mpsc::Sender<Event>,
    connections: Arc<AtomicU64>,
    open: HashMap<Instance, Open>,
    /// The runtime of the agent's worker threads. The loop, which calls this, runs on another one.
    threads: Handle,
}

struct Open {
    name: ContainerName,
    stream: Option<(u64, ExecutorSender)>,
    /// Ends its tasks.
    _guard: DropGuard,
}

impl ExecutorSockets {
    pub(crate) fn new(broker: Option<Broker>, inbox: mpsc::Sender<Event>) -> Self {
        Self {
            broker,
            inbox,
            connections: Arc::default(),
            open: HashMap::new(),
            threads: Handle::current(),
        }
    }

    pub(crate) fn listen(&mut self, name: ContainerName) {
        let stop = CancellationToken::new();
        let service = Service {
            instance: name.instance,
            connections: self.connections.clone(),
            inbox: self.inbox.clone(),
            stop: stop.clone(),
        };
        let open = Open {
            name,
            stream: None,
            _guard: stop.drop_guard(),
        };
        self.open.insert(name.instance, open);
        let Some(broker) = self.broker.clone() else {
            return;
        };
        // One task a socket. If it cannot be served its executor does not subscribe, and is ended for that.
        self.threads.spawn(async move {
            if let Err(error) = service.run(name, broker).await {
                let why = crate::error::sentence(&error);
                tracing::error!(executor = %name, why, "the socket of an executor is not served");
            }
        });
    }

    pub(crate) fn stop_listening(&mut self, name: ContainerName) {
        let open = self.open.get(&name.instance);
        if open.is_some_and(|open| open.name == name) {
            self.open.remove(&name.instance);
        }
    }

    /// A stream has shown its token: it takes the place of the one before, which ends.
    pub(crate) fn linked(&mut self, instance: Instance, connection: u64, sender: ExecutorSender) {
        if let Some(open) = self.open.get_mut(&instance) {
            open.stream = Some((connection, sender));
        }
    }

    pub(crate) fn tell(&mut self, instance: Instance, connection: u64, message: v1::ToExecutor) {
        let Some(open) = self.open.get_mut(&instance) else {
            return;
        };
        let present = open.stream.as_ref().filter(|(own, _)| *own == connection);
        let is_full = present.is_some_and(|(_, sender)| sender.try_send(Ok(message)).is_err());
        if is_full {
            open.stream = None;
        }
    }
}
