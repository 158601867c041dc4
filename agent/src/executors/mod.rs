//! The sockets of executors: opened and closed as the core requests, with messages in both
//! directions. Makes no decisions.
//!
//! Reading order: `directory`, `service`.

mod directory;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use argosy_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use directory::ExecutorDirectory;
use service::ExecutorSocket;

use crate::broker_client::BrokerClient;
use crate::core::{ContainerName, Instance};
use crate::inbox::{Event, ExecutorSender};

/// All open sockets.
pub(crate) struct ExecutorSockets {
    broker: BrokerClient,
    inbox: mpsc::Sender<Event>,
    connections: Arc<AtomicU64>,
    open: HashMap<Instance, OpenSocket>,
    /// The runtime of the agent's worker threads. The loop, which calls this, runs on another one.
    threads: Handle,
}

struct OpenSocket {
    name: ContainerName,
    stream: Option<(u64, ExecutorSender)>,
    /// Ends its tasks.
    _guard: DropGuard,
}

impl ExecutorSockets {
    pub(crate) fn new(broker: BrokerClient, inbox: mpsc::Sender<Event>) -> Self {
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
        let service = ExecutorSocket {
            instance: name.instance,
            connections: self.connections.clone(),
            inbox: self.inbox.clone(),
            stop: stop.clone(),
        };
        let open = OpenSocket {
            name,
            stream: None,
            _guard: stop.drop_guard(),
        };
        self.open.insert(name.instance, open);
        let broker = self.broker.clone();
        // One asynchronous task per socket. If it fails, its executor does not subscribe, and is
        // ended for that.
        self.threads.spawn(async move {
            if let Err(error) = service.run(name, broker).await {
                let why = crate::error::error_chain(&error);
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

    /// Handles a stream that was authenticated: it replaces the one before, which ends.
    pub(crate) fn linked(&mut self, instance: Instance, connection: u64, sender: ExecutorSender) {
        if let Some(open) = self.open.get_mut(&instance) {
            open.stream = Some((connection, sender));
        }
    }

    pub(crate) fn send(&mut self, instance: Instance, connection: u64, message: v1::ToExecutor) {
        let Some(open) = self.open.get_mut(&instance) else {
            return;
        };
        let present = open.stream.as_ref().filter(|(own, _)| *own == connection);
        if present.is_some_and(|(_, sender)| !sender.send(message)) {
            open.stream = None;
        }
    }
}
