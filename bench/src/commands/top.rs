//! `argosy top` on a pseudo-terminal, and what it uses.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use argosy_testbed::terminal::{PseudoTerminal, TerminalSize, foreground};
use argosy_testbed::waiting::poll;
use tokio::sync::oneshot;

use crate::cpu::{cores_during, resident_bytes};

/// A terminal on a large screen.
const SIZE: TerminalSize = TerminalSize {
    rows: 50,
    columns: 160,
};
/// The command draws on the alternate screen from here on.
const ENTER: &str = "\u{1b}[?1049h";
/// Time until it draws, and until it has ended after its key.
const DRAW_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time in which it reads the snapshot, which is not measured.
const SETTLING: Duration = Duration::from_secs(5);

/// The use of one page.
#[derive(Debug, Clone, Copy)]
pub(super) struct TopUsage {
    pub(super) core_percent: f64,
    pub(super) resident_mib: f64,
    /// Output to the terminal.
    pub(super) kib_per_second: f64,
}

/// Runs `command`, an `argosy top`, and measures it for this time.
///
/// # Errors
/// If it does not draw, does not end by its key, or ends before.
pub(super) async fn measure(mut command: Command, measured: Duration) -> Result<TopUsage> {
    command.env("TERM", "xterm-256color");
    let mut top = TopProcess::start(&command).await?;
    tokio::time::sleep(SETTLING).await;
    let before = top.drawn_bytes();
    let resting = async {
        tokio::time::sleep(measured).await;
        Ok(())
    };
    let (cores, ()) = cores_during(top.pid, resting).await.context("argosy top")?;
    let drawn = top.drawn_bytes() - before;
    let resident = resident_bytes(top.pid).context("argosy top has ended")?;
    top.leave().await?;
    // At least the ages on the screen change.
    ensure!(drawn > 0, "argosy top has drawn nothing in {measured:?}");
    Ok(TopUsage {
        core_percent: 100.0 * cores,
        resident_mib: resident as f64 / f64::from(1 << 20),
        kib_per_second: drawn as f64 / 1_024.0 / measured.as_secs_f64(),
    })
}

/// A running `argosy top`; it ends with the value.
struct TopProcess {
    pid: u32,
    user: File,
    child: Child,
    drawn: Arc<AtomicU64>,
}

impl TopProcess {
    /// Starts it and waits until it draws.
    async fn start(command: &Command) -> Result<Self> {
        let terminal = PseudoTerminal::open(SIZE).context("cannot open a pseudo-terminal")?;
        let (user, child) = terminal.start(command).context("cannot start argosy top")?;
        let mut top = Self {
            pid: child.id(),
            drawn: Arc::default(),
            user,
            child,
        };
        let (entered, drawing) = oneshot::channel();
        let output = top.user.try_clone().context("the terminal")?;
        let drawn = Arc::clone(&top.drawn);
        // A thread, because reads of a terminal block. It ends with the command.
        std::thread::spawn(move || drain(output, &drawn, entered));
        let drawing = tokio::time::timeout(DRAW_TIMEOUT, drawing).await;
        drawing
            .context("argosy top has not drawn in time")?
            .context("the output of argosy top cannot be read")?
            .map_err(|output| anyhow!("argosy top has ended: {output}"))?;
        let leader = foreground(&top.user).context("the terminal has no foreground")?;
        top.pid = u32::try_from(leader.as_raw())?;
        Ok(top)
    }

    fn drawn_bytes(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    /// Presses the key that leaves, and waits for an orderly end.
    async fn leave(&mut self) -> Result<()> {
        self.user.write_all(b"q").context("cannot press a key")?;
        let child = &mut self.child;
        let ended = poll(END_TIMEOUT, POLL_INTERVAL, async || {
            child.try_wait()?.context("it still runs")
        });
        let status = ended.await.context("argosy top after its key")?;
        ensure!(status.success(), "argosy top has ended with {status}");
        Ok(())
    }
}

impl Drop for TopProcess {
    fn drop(&mut self) {
        // It has ended, unless the run has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the output until its end, and counts it. Reports once whether the command began to draw;
/// if it ends before, with its output.
fn drain(mut output: File, drawn: &AtomicU64, entered: oneshot::Sender<Result<(), String>>) {
    let mut entered = Some(entered);
    let mut first = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        drawn.fetch_add(count as u64, Ordering::Relaxed);
        if entered.is_none() {
            continue;
        }
        first.extend_from_slice(&buffer[..count]);
        let has_entered = String::from_utf8_lossy(&first).contains(ENTER);
        if let Some(entered) = entered.take_if(|_| has_entered) {
            // The receiver may have waited long enough.
            let _ = entered.send(Ok(()));
        }
    }
    if let Some(entered) = entered {
        let _ = entered.send(Err(String::from_utf8_lossy(&first).into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[tokio::test]
    async fn a_command_that_draws_and_leaves_by_its_key_is_measured() {
        let line = "stty -icanon; printf '\\033[?1049h%1000s'; head -c 1 > /dev/null";
        let mut top = TopProcess::start(&shell(line)).await.unwrap();
        let drawn = async || {
            ensure!(top.drawn_bytes() > 1_000, "{} bytes", top.drawn_bytes());
            Ok(())
        };
        poll(DRAW_TIMEOUT, POLL_INTERVAL, drawn).await.unwrap();
        assert!(resident_bytes(top.pid).is_some());
        top.leave().await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_is_reported_with_its_output() {
        let error = TopProcess::start(&shell("echo no cluster; exit 1")).await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains("no cluster"), "{error}");
        let line = "stty -icanon; printf '\\033[?1049h'; head -c 1 > /dev/null; exit 3";
        let mut top = TopProcess::start(&shell(line)).await.unwrap();
        let error = top.leave().await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
