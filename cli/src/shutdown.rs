//! Shutdown of a service: graceful on the first TERM or Ctrl-C, immediate on the second.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signal that makes an agent end its tasks and then exit. TERM leaves the tasks running.
pub(crate) const END_TASKS: Signal = Signal::SIGUSR1;

/// Events outside the process that stop it, and the tokens that they cancel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopCondition<'a> {
    /// Signals only.
    Signals(&'a CancellationToken),
    /// Signals cancel the first token. The end of standard input means that the parent process is
    /// gone, and cancels the second.
    SignalsOrInput(&'a CancellationToken, &'a CancellationToken),
}

/// Timeout of a graceful shutdown, after which the process exits anyway.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// Exit code of a process that did not shut down gracefully.
const FORCED_EXIT_CODE: i32 = 130;

/// Cancels when the process is asked to stop. A second signal or a timeout ends the process
/// immediately.
pub(crate) fn watch(until: StopCondition<'_>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // A closed terminal does not stop a service.
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    tokio::spawn(async move { while hang_up.recv().await.is_some() {} });
    let (stop, at_input_end) = match until {
        StopCondition::Signals(stop) => (stop.clone(), None),
        StopCondition::SignalsOrInput(stop, at_input_end) => {
            (stop.clone(), Some(at_input_end.clone()))
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => stop.cancel(),
            _ = interrupt.recv() => stop.cancel(),
            () = input_ended(at_input_end) => {}
        }
        tracing::info!("stopping");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(SHUTDOWN_TIMEOUT) => {
                tracing::error!(timeout_s = SHUTDOWN_TIMEOUT.as_secs(), "graceful shutdown timed out");
            }
        }
        std::process::exit(FORCED_EXIT_CODE);
    });
    Ok(())
}

/// Cancels when an agent is asked to end its tasks too.
pub(crate) fn watch_for_end_of_tasks(end_tasks: CancellationToken) -> anyhow::Result<()> {
    let kind = SignalKind::from_raw(END_TASKS as i32);
    let mut stream = signal(kind).with_context(|| format!("cannot listen for {END_TASKS}"))?;
    tokio::spawn(async move {
        if stream.recv().await.is_some() {
            tracing::info!("ending all tasks, then this agent");
            end_tasks.cancel();
        }
    });
    Ok(())
}

/// Cancels and returns when standard input has ended. Never returns without a token.
async fn input_ended(token: Option<CancellationToken>) {
    let Some(token) = token else {
        return std::future::pending().await;
    };
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    // A failed read is handled as the end of input.
    while input.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
    token.cancel();
}
