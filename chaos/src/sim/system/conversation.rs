//! The stream of an executor to one incarnation of its agent. It breaks sometimes, and begins
//! again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_agent::EventSender;
use argosy_agent::core::{ContainerName, ExecutorEvent, Input};
use argosy_proto::v1;
use argosy_proto::v1::to_executor::Message as ToExecutor;
use tokio::sync::mpsc;

use super::machine::SimMachine;
use crate::sim::run::now_ms;

/// Messages that may wait for an executor. When full, the executor receives no more until its next
/// stream.
const QUEUE_CAPACITY: usize = 1_024;

/// The channel to an executor: the stream, and the message.
pub(super) type ExecutorChannel = mpsc::Sender<(u64, Option<ToExecutor>)>;

pub(super) struct ExecutorConnection {
    machine: SimMachine,
    events: EventSender,
    name: ContainerName,
    /// The number of streams of all executors.
    streams: Arc<AtomicU64>,
    messages: mpsc::Receiver<(u64, Option<ToExecutor>)>,
}

impl ExecutorConnection {
    pub(super) fn new(
        machine: SimMachine,
        events: EventSender,
        name: ContainerName,
        streams: Arc<AtomicU64>,
    ) -> (Self, ExecutorChannel) {
        let (channel, messages) = mpsc::channel(QUEUE_CAPACITY);
        let own = Self {
            machine,
            events,
            name,
            streams,
            messages,
        };
        (own, channel)
    }

    /// Runs until the executor or its agent is gone, or the agent drops the channel.
    pub(super) async fn run(mut self) {
        while self.stream().await.is_some() {
            self.machine.note_stream();
        }
    }

    async fn send(&self, connection: u64, sent_event: ExecutorEvent) {
        let instance = self.name.instance;
        let input = Input::Executor {
            instance,
            connection,
            event: sent_event,
        };
        self.events.send(input).await;
    }

    /// Runs one stream. Returns `None` if there is to be no further one.
    async fn stream(&mut self) -> Option<()> {
        let pause = self.machine.between(1, 60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let connection = self.streams.fetch_add(1, Ordering::Relaxed);
        let first = self.machine.subscribe(self.name, now_ms())?;
        self.send(connection, first).await;
        let until_ms = now_ms() + self.machine.between(200, 5_000);
        loop {
            let (sent_event, next_ms) = self.machine.take_messages(self.name, now_ms())?;
            for one in sent_event {
                self.send(connection, one).await;
            }
            let now_ms = now_ms();
            if now_ms >= until_ms {
                break;
            }
            let wake_ms = next_ms.map_or(until_ms, |at_ms| at_ms.min(until_ms));
            let pause = Duration::from_millis(wake_ms.saturating_sub(now_ms).max(1));
            tokio::select! {
                biased;
                received = self.messages.recv() => {
                    let (of, message) = received?;
                    // Messages of a stream that has ended are lost with it.
                    if of == connection {
                        self.machine.receive(self.name, message, now_ms);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.send(connection, ExecutorEvent::Closed).await;
        Some(())
    }
}

/// Returns the launch in an agent's message to an executor, if the message has one.
pub(super) fn launch_in(message: &v1::ToExecutor) -> Option<&v1::ExecutorLaunch> {
    match &message.message {
        Some(ToExecutor::Launch(launch)) => Some(launch),
        _ => None,
    }
}
