//! `argosy top`: the cluster on the whole terminal, live from the change feed.
//!
//! State and view are pure; this file, `terminal` and `sources` are the rim. Reading order:
//! `sums`, `records`, `rows`, `state`; `listing`, `fit`, `screen`, `draw`, `cluster_page`;
//! `terminal`, `sources`, this file.

mod cluster_page;
mod draw;
mod fit;
mod listing;
mod records;
mod rows;
mod screen;
mod sources;
mod state;
mod sums;
mod terminal;

use std::io;
use std::time::Duration;

use argosy_proto::v1;
use ratatui::crossterm::event::Event as TerminalEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use draw::{LinkStatus, Shown, draw};
use screen::{FrameTime, KeyEffect, Screen};
use sources::{Answer, FeedNews, Wanted};
use state::ClusterState;
use terminal::FullScreen;

use crate::args::{Top, TopPage};
use crate::exit::{DONE, Failure, VerbResult};
use crate::objects::two_threads;
use crate::operator::ClusterClient;
use crate::output::{palette, wall_now_ms};

/// Least time between two frames that show news: at most four a second.
const NEWS_PAUSE: Duration = Duration::from_millis(250);
/// Least time between two frames after keys.
const KEY_PAUSE: Duration = Duration::from_millis(40);
/// Maximum number of events that are applied in a row.
const BATCH: usize = 1_024;

pub(crate) fn run(arguments: &Top) -> VerbResult {
    let runtime = two_threads()?;
    let ended = runtime.block_on(show(arguments));
    // A thread may wait for the name of a host.
    runtime.shutdown_background();
    ended
}

async fn show(arguments: &Top) -> VerbResult {
    terminal::check()?;
    let operator = ClusterClient::open(&arguments.reach)?;
    // Before the screen is cleared, because without a cluster there is nothing to show.
    let first = operator.cluster(v1::Consistency::Local).await?;
    let mut signals = EndSignals::listen().map_err(|error| Failure::of(&error))?;
    let mut full_screen = FullScreen::enter()?;
    let mut keys = terminal::events().map_err(|error| Failure::of(&error))?;
    let mut news = sources::follow(&operator);
    let (want, wanted) = watch::channel(Wanted::default());
    let mut answers = sources::ask(operator, wanted);
    let mut top = TopSession::new(arguments.page);
    top.state.summary = Some(first);
    let mut batch = Vec::with_capacity(BATCH);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due = Some(Instant::now());
    let mut last = Instant::now();
    loop {
        let pause = tokio::select! {
            signal = signals.next() => return Ok(by_signal(signal)),
            event = keys.recv() => match top.press(event)? {
                KeyEffect::Leave => return Ok(DONE),
                KeyEffect::Changed => KEY_PAUSE,
                KeyEffect::Ignored => continue,
            },
            count = news.recv_many(&mut batch, BATCH) => {
                top.apply(count, batch.drain(..))?;
                NEWS_PAUSE
            }
            Some(answer) = answers.recv() => {
                top.answer(answer);
                NEWS_PAUSE
            }
            // Ages change although nothing happens.
            _ = seconds.tick() => NEWS_PAUSE,
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                top.draw(&mut full_screen).map_err(|error| Failure::of(&error))?;
                want.send_if_modified(|former| top.replace_wanted(former));
                (due, last) = (None, Instant::now());
                continue;
            }
        };
        let next = last + pause;
        due = Some(due.map_or(next, |due| due.min(next)));
    }
}

/// State and view, with the clocks of the rim.
struct TopSession {
    state: ClusterState,
    screen: Screen,
    link: LinkStatus,
    started: Instant,
    coloured: bool,
}

impl TopSession {
    fn new(page: TopPage) -> Self {
        Self {
            state: ClusterState::default(),
            screen: Screen::new(page),
            link: LinkStatus::default(),
            started: Instant::now(),
            coloured: palette().is_on(),
        }
    }

    fn time(&self) -> FrameTime {
        let running = self.started.elapsed().as_millis();
        FrameTime {
            wall_ms: wall_now_ms(),
            clock_ms: u64::try_from(running).unwrap_or(u64::MAX),
        }
    }

    fn press(&mut self, event: Option<io::Result<TerminalEvent>>) -> Result<KeyEffect, Failure> {
        match event {
            Some(Ok(TerminalEvent::Key(key))) => Ok(self.screen.press(key)),
            Some(Ok(TerminalEvent::Paste(text))) => Ok(self.screen.paste(&text)),
            Some(Ok(TerminalEvent::Resize(..))) => Ok(KeyEffect::Changed),
            Some(Ok(TerminalEvent::Mouse(_))) => Ok(KeyEffect::Ignored),
            Some(Ok(TerminalEvent::FocusGained | TerminalEvent::FocusLost)) => {
                Ok(KeyEffect::Ignored)
            }
            Some(Err(error)) => Err(Failure::failed(format!("cannot read keys: {error}"))),
            None => Err(Failure::failed("the thread that reads keys has ended")),
        }
    }

    /// Applies news. A count of 0 means that the feed has ended.
    fn apply(&mut self, count: usize, news: impl Iterator<Item = FeedNews>) -> Result<(), Failure> {
        if count == 0 {
            return Err(Failure::failed("the reader of the change feed has ended"));
        }
        let now = self.time().clock_ms;
        for news in news {
            match news {
                FeedNews::Event(event) => {
                    self.link.event_ms = Some(now);
                    self.link.problem = None;
                    self.state.apply(*event);
                }
                FeedNews::Master(address) => self.link.master = address,
                FeedNews::Problem(text) => self.link.problem = Some(text),
                FeedNews::Refused(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Summary(summary) => self.state.summary = Some(*summary),
            Answer::Offered(offered) => self.state.offered = offered,
            Answer::Reason { framework, reason } => self.state.explain(framework, reason),
        }
    }

    fn draw(&mut self, full_screen: &mut FullScreen) -> io::Result<()> {
        let shown = Shown {
            state: &self.state,
            link: &self.link,
            time: self.time(),
            coloured: self.coloured,
        };
        let screen = &mut self.screen;
        let drawn = full_screen
            .terminal
            .draw(|frame| draw(frame, screen, &shown));
        drawn.map(|_| ())
    }

    /// Replaces what the calls read, and returns whether it has changed.
    fn replace_wanted(&self, former: &mut Wanted) -> bool {
        let wanted = Wanted {
            offers: self.screen.page == TopPage::Cluster,
            reasons: self.screen.waiting_frameworks(&self.state),
        };
        let is_new = *former != wanted;
        *former = wanted;
        is_new
    }
}

/// The signals that end this program, after it has restored the terminal.
struct EndSignals {
    signals: [(i32, Signal); 4],
}

impl EndSignals {
    fn listen() -> io::Result<Self> {
        let listen = |kind: SignalKind| Ok::<_, io::Error>((kind.as_raw_value(), signal(kind)?));
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
                listen(SignalKind::quit())?,
            ],
        })
    }

    async fn next(&mut self) -> i32 {
        let [first, second, third, fourth] = &mut self.signals;
        let ((interrupt, interrupted), (terminate, terminated)) = (first, second);
        let ((hang_up, hung_up), (quit, has_quit)) = (third, fourth);
        tokio::select! {
            _ = interrupted.recv() => *interrupt,
            _ = terminated.recv() => *terminate,
            _ = hung_up.recv() => *hang_up,
            _ = has_quit.recv() => *quit,
        }
    }
}

/// Returns the exit code for a signal, as shells do.
fn by_signal(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(127))
}
