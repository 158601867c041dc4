//! Pages of records: collected in bounded looks, so that no list holds up the owner.
//!
//! A page is bounded in records and in bytes; records are filtered before they are converted.

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
use crate::inbox::View;
use crate::leader::Leader;

pub(crate) use tasks::list_tasks;

/// Records that one look goes through.
const LOOK: usize = 500;
/// Bytes that one look converts, unless a single record takes more.
const LOOK_BYTES: usize = 256 << 10;
/// Looks of one page: a filter that few records pass goes on with the next page.
const LOOKS: usize = 200;
/// Records of a page unless asked otherwise.
const PAGE: usize = 1_000;
/// Records of the largest page.
const LARGEST_PAGE: usize = 10_000;
/// Bytes of the largest page, as [`cost`] counts them: a message takes 4 MiB at most.
const PAGE_BYTES: usize = 3 << 20;
/// Overhead of a record in memory.
const RECORD_BYTES: usize = 1_024;

/// Waits until the read has the consistency and the revision that were asked for. Refuses an unknown consistency.
pub(super) async fn settle(desk: &Desk, consistency: i32, min_revision: u64) -> Result<(), Status> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Local) => {}
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => desk.confirm().await?,
        Err(_) => {
            let text = format!("{consistency} is unknown: 1 is linearizable, 2 is local");
            return Err(malformed(&Malformed::new("consistency", text)));
        }
    }
    desk.wait_applied(min_revision).await
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

/// What a look may still add to its page.
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

/// Goes through records until the look is over. Each says where it stands and, if it is wanted,
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
        let is_full = seen == LOOK
            || part.found.len() >= room.records
            || part.bytes >= room.bytes.min(LOOK_BYTES);
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

/// Looks until the page is full or the end is reached.
async fn collect<T: Send + 'static>(
    desk: &Desk,
    size: usize,
    token: String,
    look: impl Fn(&View<'_>, &str, Room) -> Part<T> + Clone + Send + Sync + 'static,
) -> Result<Page<T>, Status> {
    // The records, and once more what they are encoded to.
    let likely = (size * RECORD_BYTES).min(PAGE_BYTES);
    let mut share = desk.reserve(2 * PAGE_BYTES, likely).await?;
    let mut page = Part::default();
    let mut token = token;
    let mut first = None;
    for _ in 0..LOOKS {
        let room = Room {
            records: size - page.found.len(),
            bytes: PAGE_BYTES - page.bytes,
        };
        let look = look.clone();
        let (mut part, revision) = desk
            .read(move |view| (look(view, &token, room), here(view.registry)))
            .await?;
        first.get_or_insert(revision);
        page.found.append(&mut part.found);
        page.bytes += part.bytes;
        page.next = part.next;
        token = match &page.next {
            Some(next) if page.found.len() < size && page.bytes < PAGE_BYTES => next.clone(),
            Some(_) | None => break,
        };
    }
    share.fit(2 * page.bytes);
    share.leave_to_answer();
    let revision = convert::revision(first.unwrap_or_default());
    Ok((page.found, page.next.unwrap_or_default(), revision))
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
    settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["agent_id", "host_name", "mode"])?;
    let size = size(&request)?;
    if !request.page_token.is_empty() && request.page_token.parse::<AgentId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = choices::filter(request.filter)?;
    let look = move |view: &View<'_>, token: &str, room: Room| {
        let after = token.parse().unwrap_or(AgentId(0));
        let agents = view.registry.agents_after(after);
        gather(
            agents,
            room,
            |agent| agent.id.to_string(),
            |agent| {
                let mode = || convert::mode_from(agent.mode).as_str_name();
                let is_wanted = is(&filter, "agent_id", &agent.id)
                    && matches(&filter, "host_name", &agent.info.host_name)
                    && (!filter.contains_key("mode")
                        || matches(&filter, "mode", &plain(mode(), "AGENT_MODE_")));
                is_wanted.then(|| views::agent(view, agent))
            },
        )
    };
    let (agents, next_page_token, revision) = collect(desk, size, request.page_token, look).await?;
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
    settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "name"])?;
    let size = size(&request)?;
    let (filter, ended) = (choices::filter(request.filter)?, request.include_ended);
    let id = request.page_token.trim_start_matches('~');
    if !request.page_token.is_empty() && id.parse::<FrameworkId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let look = move |view: &View<'_>, token: &str, room: Room| {
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
        collect(desk, size, request.page_token, look).await?;
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
    let look = move |view: &View<'_>, token: &str, room: Room| {
        let after = token.parse().unwrap_or_default();
        let book = view.leader.map(Leader::book);
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
                    .then(|| views::offer(view.registry, promise))
                    .flatten()
            },
        )
    };
    let (offers, next_page_token, revision) = collect(desk, size, request.page_token, look).await?;
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
