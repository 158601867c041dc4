//! Pages of records: read from a copy of the facts, outside of the owner's turns.
//!
//! A page is bounded in records and in bytes; records are filtered before they are converted. A page is made in parts, and
//! between two parts other work of the same thread takes its turn. Open offers, which the leader alone has, are read in
//! looks of such a part each.

mod tasks;

use std::collections::HashMap;
use std::fmt::Display;

use argosy_proto::convert::{self, Malformed};
use argosy_proto::v1;
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Revision};
use argosy_state::registry::Registry;
use prost::Message;
use tonic::Status;

use super::{choices, malformed, views};
use crate::desk::{Desk, unavailable};
use crate::inbox::{Facts, View};
use crate::leader::Leader;
use crate::reads::Share;

pub(crate) use tasks::list_tasks;

/// Records that one part of a page goes through.
const PART: usize = 500;
/// Bytes that one part converts, unless a single record takes more.
const PART_BYTES: usize = 256 << 10;
/// Parts of one page: a filter that few records pass goes on with the next page.
const PARTS: usize = 200;
/// Records of a page unless asked otherwise.
const PAGE: usize = 1_000;
/// Records of the largest page.
const LARGEST_PAGE: usize = 10_000;
/// Bytes of the largest page, as [`cost`] counts them: a message takes 4 MiB at most.
const PAGE_BYTES: usize = 3 << 20;
/// Overhead of a record in memory.
const RECORD_BYTES: usize = 1_024;

/// Waits until the read has the consistency and the revision that were asked for. Returns the log index that a view needs
/// to have. Refuses an unknown consistency.
pub(super) async fn settle(
    desk: &Desk,
    consistency: i32,
    min_revision: u64,
) -> Result<u64, Status> {
    let index = match v1::Consistency::try_from(consistency) {
        // What was answered here before is seen.
        Ok(v1::Consistency::Local) => *desk.applied.borrow(),
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => desk.confirm().await?,
        Err(_) => {
            let text = format!("{consistency} is unknown: 1 is linearizable, 2 is local");
            return Err(malformed(&Malformed::new("consistency", text)));
        }
    };
    desk.wait_applied(min_revision).await?;
    Ok(index.max(min_revision))
}

fn size(request: &v1::ListRequest) -> Result<usize, Status> {
    match request.page_size as usize {
        0 => Ok(PAGE),
        size if size <= LARGEST_PAGE => Ok(size),
        size => Err(malformed(&Malformed::new(
            "page_size",
            format!("{size} is above {LARGEST_PAGE}"),
        ))),
    }
}

/// Refuses a field that cannot be filtered by.
fn check_filter(filter: &HashMap<String, String>, known: &[&str]) -> Result<(), Status> {
    match filter.keys().find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(malformed(&Malformed::new(
            "filter",
            format!("{field:?} is none of {}", known.join(", ")),
        ))),
        None => Ok(()),
    }
}

fn matches(filter: &HashMap<String, String>, field: &str, value: &str) -> bool {
    filter.get(field).is_none_or(|wanted| wanted == value)
}

/// As [`matches`], for what is text only on the wire.
fn is(filter: &HashMap<String, String>, field: &str, value: &dyn Display) -> bool {
    filter
        .get(field)
        .is_none_or(|wanted| *wanted == value.to_string())
}

/// A name as filters write it: `running` for `TASK_STATE_RUNNING`.
fn plain(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

/// What a part may still add to its page.
#[derive(Debug, Clone, Copy)]
struct Room {
    records: usize,
    bytes: usize,
}

/// A part of a page: what was found, what it costs, and where to go on.
struct Part<T> {
    found: Vec<T>,
    bytes: usize,
    next: Option<String>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self {
            found: Vec::new(),
            bytes: 0,
            next: None,
        }
    }
}

/// Bytes of a record in memory, roughly.
fn cost(record: &impl Message) -> usize {
    RECORD_BYTES + record.encoded_len()
}

/// Goes through records until the part is over. Each says where it stands and, if it is wanted,
/// what it is: only then is it converted.
fn gather<R, T: Message>(
    records: impl Iterator<Item = R>,
    room: Room,
    place: impl Fn(&R) -> String,
    show: impl Fn(&R) -> Option<T>,
) -> Part<T> {
    let mut part = Part::default();
    let mut last = None;
    for (seen, record) in records.enumerate() {
        let is_full = seen == PART
            || part.found.len() >= room.records
            || part.bytes >= room.bytes.min(PART_BYTES);
        if is_full {
            part.next = last.as_ref().map(&place);
            return part;
        }
        if let Some(shown) = show(&record) {
            part.bytes += cost(&shown);
            part.found.push(shown);
        }
        last = Some(record);
    }
    part
}

/// A page and where the next one begins.
type Page<T> = (Vec<T>, String, v1::Revision);

/// A page that is being made.
struct Making<T> {
    page: Part<T>,
    size: usize,
    token: String,
    parts: usize,
    share: Share,
}

impl<T> Making<T> {
    async fn begin(desk: &Desk, size: usize, token: String) -> Result<Self, Status> {
        // The records, and once more what they are encoded to.
        let likely = (size * RECORD_BYTES).min(PAGE_BYTES);
        let share = desk.reserve(2 * PAGE_BYTES, likely).await?;
        Ok(Self {
            page: Part::default(),
            size,
            token,
            parts: 0,
            share,
        })
    }

    fn room(&self) -> Room {
        Room {
            records: self.size - self.page.found.len(),
            bytes: PAGE_BYTES - self.page.bytes,
        }
    }

    /// Takes up the next part; returns whether the page goes on.
    fn add(&mut self, mut part: Part<T>) -> bool {
        self.parts += 1;
        self.page.found.append(&mut part.found);
        self.page.bytes += part.bytes;
        self.page.next = part.next;
        let has_room = self.page.found.len() < self.size && self.page.bytes < PAGE_BYTES;
        match &self.page.next {
            Some(next) if has_room && self.parts < PARTS => {
                self.token.clone_from(next);
                true
            }
            Some(_) | None => false,
        }
    }

    fn end(mut self, revision: Revision) -> Page<T> {
        self.share.fit(2 * self.page.bytes);
        self.share.leave_to_answer();
        let next = self.page.next.unwrap_or_default();
        (self.page.found, next, convert::revision(revision))
    }
}

/// Reads parts of a view, which has what is at `index`, until the page is full or the end is reached.
async fn collect<T>(
    desk: &Desk,
    index: u64,
    (size, token): (usize, String),
    part: impl Fn(&View, &str, Room) -> Part<T>,
) -> Result<Page<T>, Status> {
    let mut making = Making::begin(desk, size, token).await?;
    let view = desk.view(index).await?;
    loop {
        let found = part(&view, &making.token, making.room());
        if !making.add(found) {
            return Ok(making.end(here(&view.registry)));
        }
        tokio::task::yield_now().await;
    }
}

fn here(registry: &Registry) -> Revision {
    Revision {
        index: registry.applied(),
        position: 0,
    }
}

fn bad_token(token: &str) -> Status {
    malformed(&Malformed::new(
        "page_token",
        format!("{token:?} did not come from a former page"),
    ))
}

pub(crate) async fn list_agents(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::AgentPage, Status> {
    let index = settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["agent_id", "host_name", "mode"])?;
    let size = size(&request)?;
    if !request.page_token.is_empty() && request.page_token.parse::<AgentId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = choices::filter(request.filter)?;
    let part = |view: &View, token: &str, room: Room| {
        let after = token.parse().unwrap_or(AgentId(0));
        let agents = view.registry.agents_after(after);
        gather(
            agents,
            room,
            |agent| agent.id.to_string(),
            |agent| {
                let mode = || convert::mode_from(agent.mode()).as_str_name();
                let is_wanted = is(&filter, "agent_id", &agent.id)
                    && matches(&filter, "host_name", &agent.reported.info.host_name)
                    && (!filter.contains_key("mode")
                        || matches(&filter, "mode", &plain(mode(), "AGENT_MODE_")));
                is_wanted.then(|| views::agent(view, agent))
            },
        )
    };
    let (agents, next_page_token, revision) =
        collect(desk, index, (size, request.page_token), part).await?;
    Ok(v1::AgentPage {
        agents,
        next_page_token,
        revision: Some(revision),
    })
}

/// Frameworks ascend by id; behind them, if wanted, removed ones, oldest first. A token is the last
/// id seen, or `~` and the last id of the history.
pub(crate) async fn list_frameworks(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::FrameworkPage, Status> {
    let index = settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "name"])?;
    let size = size(&request)?;
    let (filter, ended) = (choices::filter(request.filter)?, request.include_ended);
    let id = request.page_token.trim_start_matches('~');
    if !request.page_token.is_empty() && id.parse::<FrameworkId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let part = |view: &View, token: &str, room: Room| {
        let is_wanted = |id: FrameworkId, name: &str| {
            is(&filter, "framework_id", &id) && matches(&filter, "name", name)
        };
        if let Some(last) = token.strip_prefix('~') {
            let last = last.parse().unwrap_or(FrameworkId(0));
            let mut removed: Vec<_> = view.registry.finished_frameworks().collect();
            // They are in the order in which they were removed.
            removed.sort_unstable_by_key(|framework| framework.id);
            let removed = removed.into_iter().filter(|removed| removed.id > last);
            return gather(
                removed,
                room,
                |framework| format!("~{}", framework.id),
                |framework| {
                    is_wanted(framework.id, &framework.info.name)
                        .then(|| views::finished_framework(framework))
                },
            );
        }
        let after = token.parse().unwrap_or(FrameworkId(0));
        let frameworks = view.registry.frameworks_after(after);
        let mut part = gather(
            frameworks,
            room,
            |framework| framework.id.to_string(),
            |framework| {
                is_wanted(framework.id, &framework.info.name)
                    .then(|| views::framework(view, framework))
            },
        );
        if ended && part.next.is_none() {
            part.next = Some(format!("~{}", FrameworkId(0)));
        }
        part
    };
    let (frameworks, next_page_token, revision) =
        collect(desk, index, (size, request.page_token), part).await?;
    Ok(v1::FrameworkPage {
        frameworks,
        next_page_token,
        revision: Some(revision),
    })
}

/// Open offers: only the leader has them.
pub(crate) async fn list_offers(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::OfferPage, Status> {
    settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "agent_id", "role"])?;
    let size = size(&request)?;
    if !request.page_token.is_empty() && request.page_token.parse::<OfferId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = choices::filter(request.filter)?;
    let part = move |facts: &Facts<'_>, token: &str, room: Room| {
        let after = token.parse().unwrap_or_default();
        let book = facts.leader.map(Leader::book);
        let offers = book.into_iter().flat_map(|book| book.after(after));
        gather(
            offers,
            room,
            |promise| promise.id.to_string(),
            |promise| {
                let is_wanted = is(&filter, "framework_id", &promise.framework)
                    && is(&filter, "agent_id", &promise.agent)
                    && is(&filter, "role", &promise.role);
                is_wanted
                    .then(|| views::offer(facts.registry, promise))
                    .flatten()
            },
        )
    };
    let mut making = Making::begin(desk, size, request.page_token).await?;
    let mut first = None;
    loop {
        let (part, token, room) = (part.clone(), making.token.clone(), making.room());
        let look = move |facts: &Facts<'_>| (part(facts, &token, room), here(facts.registry));
        let (found, revision) = desk.look(look).await?;
        first.get_or_insert(revision);
        if !making.add(found) {
            break;
        }
    }
    let (offers, next_page_token, revision) = making.end(first.unwrap_or_default());
    if !desk.office.borrow().here {
        // The last looks may have seen no book any more.
        return Err(unavailable("leadership has just moved"));
    }
    Ok(v1::OfferPage {
        offers,
        next_page_token,
        revision: Some(revision),
    })
}
