//! Pages of records, read from a copy of the facts, outside the owner's turns.
//!
//! A page is bounded in records and in bytes; records are filtered before they are converted. A
//! page is built in parts on the readers' thread, and other readers run between two parts. Records
//! are encoded once for all readers (`encodings`). Open offers, which only the leader has, are read
//! in queries of one part each.

mod page;
mod serving;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::trace;
use argosy_proto::v1;
use argosy_state::access::Action;
use argosy_state::agent::Agent;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Revision};
use argosy_state::registry::Registry;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{denied, filter_values, malformed, views};
use crate::access::{Reader, Sight};
use crate::inbox::{OwnerState, StateView};
use crate::leader::Leader;
use crate::owner_handle::{OwnerHandle, unavailable};

pub(crate) use page::EncodedPage;
use page::EncodedRecords;
pub(crate) use serving::{ListKind, routes};
use tasks::list_tasks;

/// Records that one part of a page scans.
const PART: usize = 500;
/// Bytes that one part converts, unless a single record takes more.
const PART_BYTES: usize = 256 << 10;
/// Parts of one page: a filter that few records match continues with the next page.
const PARTS: usize = 200;
/// Default size of a page in records.
const PAGE: usize = 1_000;
/// Maximum size of a page in records.
const LARGEST_PAGE: usize = 10_000;
/// Maximum bytes of a page, as [`EncodedRecords::cost`] counts them: a message takes 4 MiB at most.
const PAGE_BYTES: usize = 3 << 20;
/// Memory overhead of a record for its readers.
const RECORD_BYTES: usize = 1_024;

/// Waits until the read has the requested consistency and revision. Returns the log index that a
/// view must include. Rejects an unknown consistency.
pub(super) async fn settle(
    owner: &OwnerHandle,
    consistency: i32,
    min_revision: u64,
) -> Result<u64, Status> {
    let index = match v1::Consistency::try_from(consistency) {
        // Everything that was answered here before is visible.
        Ok(v1::Consistency::Local) => *owner.applied.borrow(),
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => owner.confirm().await?,
        Err(_) => {
            let text = format!("{consistency} is unknown: 1 is linearizable, 2 is local");
            return Err(malformed(&InvalidMessage::new("consistency", text)));
        }
    };
    owner.wait_applied(min_revision).await?;
    Ok(index.max(min_revision))
}

fn page_size(request: &v1::ListRequest) -> Result<usize, Status> {
    match request.page_size as usize {
        0 => Ok(PAGE),
        size if size <= LARGEST_PAGE => Ok(size),
        size => Err(malformed(&InvalidMessage::new(
            "page_size",
            format!("{size} is above {LARGEST_PAGE}"),
        ))),
    }
}

/// Rejects a field that cannot be filtered by.
fn check_filter(filter: &HashMap<String, String>, known: &[&str]) -> Result<(), Status> {
    match filter.keys().find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(malformed(&InvalidMessage::new(
            "filter",
            format!("{field:?} is none of {}", known.join(", ")),
        ))),
        None => Ok(()),
    }
}

fn matches(filter: &HashMap<String, String>, field: &str, value: &str) -> bool {
    filter.get(field).is_none_or(|wanted| wanted == value)
}

/// As [`matches`], for a value that is a text only on the wire.
fn is(filter: &HashMap<String, String>, field: &str, value: &dyn Display) -> bool {
    filter
        .get(field)
        .is_none_or(|wanted| *wanted == value.to_string())
}

/// Returns a name in the form of filters: `running` for `TASK_STATE_RUNNING`.
pub(super) fn plain(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

/// The room that a part has left on its page.
#[derive(Debug, Clone, Copy)]
struct PageCapacity {
    records: usize,
    bytes: usize,
}

/// A part of a page: the records that were found, and the position at which to continue.
#[derive(Debug, Default)]
struct PagePart {
    found: EncodedRecords,
    next: Option<String>,
}

impl EncodedRecords {
    /// Returns the bytes that these records take of a page.
    fn cost(&self) -> usize {
        self.count * RECORD_BYTES + self.bytes.len()
    }
}

/// Scans records until the part is complete. `token_of` returns the token of the position after a
/// record; `show` adds a record that matches, and only then converts it.
fn gather<R>(
    records: impl Iterator<Item = R>,
    room: PageCapacity,
    token_of: impl Fn(&R) -> String,
    mut show: impl FnMut(&R, &mut EncodedRecords),
) -> PagePart {
    let mut part = PagePart::default();
    let mut last = None;
    for (seen, record) in records.enumerate() {
        let is_full = seen == PART
            || part.found.count >= room.records
            || part.found.cost() >= room.bytes.min(PART_BYTES);
        if is_full {
            part.next = last.as_ref().map(&token_of);
            return part;
        }
        show(&record, &mut part.found);
        last = Some(record);
    }
    part
}

/// A page in progress.
#[derive(Debug)]
struct PageBuilder {
    page: PagePart,
    size: usize,
    token: String,
    parts: usize,
    most_parts: usize,
}

impl PageBuilder {
    /// Begins a page of the records that `sight` includes. Only for a reader of all records is its
    /// number of parts bounded: the token of the next page names the last record that was read,
    /// which others may not see unless it is on the page.
    fn new(size: usize, token: String, sight: &Sight) -> Self {
        Self {
            page: PagePart::default(),
            size,
            token,
            parts: 0,
            most_parts: if sight.is_all() { PARTS } else { usize::MAX },
        }
    }

    fn room(&self) -> PageCapacity {
        PageCapacity {
            records: self.size - self.page.found.count,
            bytes: PAGE_BYTES - self.page.found.cost(),
        }
    }

    /// Appends the next part; returns whether the page continues.
    fn add(&mut self, mut part: PagePart) -> bool {
        self.parts += 1;
        self.page.found.append(&mut part.found);
        self.page.next = part.next;
        let has_room = self.page.found.count < self.size && self.page.found.cost() < PAGE_BYTES;
        match &self.page.next {
            Some(next) if has_room && self.parts < self.most_parts => {
                self.token.clone_from(next);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns the page at `revision`, of the kind that `end` makes of the token of the next page
    /// and the revision.
    fn end<T: prost::Message>(
        self,
        revision: Revision,
        end: impl FnOnce(String, Option<v1::Revision>) -> T,
    ) -> BuiltPage {
        let next = self.page.next.unwrap_or_default();
        let end = end(next, Some(convert::revision(revision)));
        BuiltPage {
            cost: self.page.found.cost(),
            page: self.page.found.page(&end),
        }
    }
}

/// A page, and the memory that its records take in a reader. This process is such a reader when it
/// converts a page to JSON.
struct BuiltPage {
    page: EncodedPage,
    cost: usize,
}

/// Builds a page within its share of the budget for answers. `size` is the page size in records.
async fn within_share(
    owner: &OwnerHandle,
    size: usize,
    made: impl Future<Output = Result<BuiltPage, Status>>,
) -> Result<EncodedPage, Status> {
    // The records, and once more their serialized form.
    let likely = (size * RECORD_BYTES).min(PAGE_BYTES);
    let mut share = owner.reserve(2 * PAGE_BYTES, likely).await?;
    let BuiltPage { page, cost } = made.await?;
    share.resize(2 * cost);
    share.attach_to_answer();
    Ok(page)
}

/// Reads parts of a view until the page is full or the end is reached. `part` gets what the reader
/// may see of it.
async fn collect<T: prost::Message>(
    owner: &OwnerHandle,
    (reader, action): (Reader, Action),
    view: impl Future<Output = Result<Arc<StateView>, Status>>,
    (size, token): (usize, String),
    part: impl Fn(&StateView, &Sight, &str, PageCapacity) -> PagePart + Send + 'static,
    end: impl FnOnce(String, Option<v1::Revision>) -> T + Send + 'static,
) -> Result<EncodedPage, Status> {
    let made = async {
        let view = view.await?;
        let sight = reader.sight(&view.registry, action);
        sight.some().map_err(|denial| denied(&denial))?;
        spawn_reader(owner, async move {
            let mut making = PageBuilder::new(size, token, &sight);
            loop {
                let found = part(&view, &sight, &making.token, making.room());
                if !making.add(found) {
                    return making.end(revision_of(&view.registry), end);
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };
    within_share(owner, size, made).await
}

/// Computes with lower priority than everything else in this process, with the id of the present
/// request. Ends with the reader that requested it.
pub(crate) async fn spawn_reader<T: Send + 'static>(
    owner: &OwnerHandle,
    computed: impl Future<Output = T> + Send + 'static,
) -> Result<T, Status> {
    let computed = trace::scope(trace::current(), computed);
    let task = AbortOnDropHandle::new(owner.readers.spawn(computed));
    task.await
        .map_err(|why| Status::internal(format!("a page could not be built: {why}")))
}

fn revision_of(registry: &Registry) -> Revision {
    Revision {
        index: registry.applied(),
        position: 0,
    }
}

fn bad_token(token: &str) -> Status {
    malformed(&InvalidMessage::new(
        "page_token",
        format!("{token:?} is not the token of a previous page"),
    ))
}

async fn list_agents(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<EncodedPage, Status> {
    let index = settle(owner, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["agent_id", "host_name", "mode"])?;
    let size = page_size(&request)?;
    if !request.page_token.is_empty() && request.page_token.parse::<AgentId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let (filter, consistency) = (filter_values::filter(request.filter)?, request.consistency);
    let encodings = owner.encodings.clone();
    let part = move |view: &StateView, sight: &Sight, token: &str, room: PageCapacity| {
        let after = token.parse().unwrap_or(AgentId(0));
        let mut kept = encodings.lock();
        gather(
            view.registry.shared_agents_after(after),
            room,
            |agent| agent.id.to_string(),
            |agent, found| {
                if sight.agent(agent.id) && matches_filter(&filter, agent) {
                    let record = kept.encoded(agent, views::agent_record);
                    found.add_with(&record, &views::agent_now(view, agent));
                }
            },
        )
    };
    let end = |next_page_token, revision| v1::AgentPage {
        next_page_token,
        revision,
        ..Default::default()
    };
    let view = async {
        let view = owner.view(index).await?;
        views::check_connections(&view, consistency).map(|()| view)
    };
    let reader = (reader, Action::ViewAgent);
    collect(owner, reader, view, (size, request.page_token), part, end).await
}

fn matches_filter(filter: &HashMap<String, String>, agent: &Agent) -> bool {
    let mode = || convert::mode_from(agent.mode()).as_str_name();
    is(filter, "agent_id", &agent.id)
        && matches(filter, "host_name", &agent.report.info.host_name)
        && (!filter.contains_key("mode") || matches(filter, "mode", &plain(mode(), "AGENT_MODE_")))
}

/// Lists frameworks ascending by id, followed on request by removed ones, oldest first. A token is
/// the last id seen, or `~` and the last id of the history.
async fn list_frameworks(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<EncodedPage, Status> {
    let index = settle(owner, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "name"])?;
    let size = page_size(&request)?;
    let (filter, ended) = (
        filter_values::filter(request.filter)?,
        request.include_ended,
    );
    let id = request.page_token.trim_start_matches('~');
    if !request.page_token.is_empty() && id.parse::<FrameworkId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let part = move |view: &StateView, sight: &Sight, token: &str, room: PageCapacity| {
        let is_wanted = |id: FrameworkId, info: &FrameworkInfo| {
            is(&filter, "framework_id", &id)
                && matches(&filter, "name", &info.name)
                && sight.framework(id, info)
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
                |framework, found| {
                    if is_wanted(framework.id, &framework.info) {
                        found.add(&views::finished_framework(framework));
                    }
                },
            );
        }
        let after = token.parse().unwrap_or(FrameworkId(0));
        let frameworks = view.registry.frameworks_after(after);
        let mut part = gather(
            frameworks,
            room,
            |framework| framework.id.to_string(),
            |framework, found| {
                if is_wanted(framework.id, &framework.info) {
                    found.add(&views::framework(view, framework));
                }
            },
        );
        if ended && part.next.is_none() {
            part.next = Some(format!("~{}", FrameworkId(0)));
        }
        part
    };
    let end = |next_page_token, revision| v1::FrameworkPage {
        next_page_token,
        revision,
        ..Default::default()
    };
    let view = owner.view(index);
    let reader = (reader, Action::ViewFramework);
    collect(owner, reader, view, (size, request.page_token), part, end).await
}

/// Lists open offers, which only the leader has.
async fn list_offers(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<EncodedPage, Status> {
    settle(owner, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "agent_id", "role"])?;
    let size = page_size(&request)?;
    if !request.page_token.is_empty() && request.page_token.parse::<OfferId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = Arc::new(filter_values::filter(request.filter)?);
    let read = async {
        let view_offers = || {
            let policy = Arc::clone(&owner.access.borrow().policy);
            reader.sight_by(&policy, Action::ViewOffer)
        };
        let mut making = PageBuilder::new(size, request.page_token, &view_offers());
        let mut first = None;
        loop {
            let (filter, token, room) = (filter.clone(), making.token.clone(), making.room());
            let sight = view_offers();
            sight.some().map_err(|denial| denied(&denial))?;
            let look = move |facts: &OwnerState<'_>| {
                let found = open_offers(facts, &sight, &filter, &token, room);
                (found, revision_of(facts.registry))
            };
            let (found, revision) = owner.query(look).await?;
            first.get_or_insert(revision);
            if !making.add(found) {
                break;
            }
        }
        let end = |next_page_token, revision| v1::OfferPage {
            next_page_token,
            revision,
            ..Default::default()
        };
        Ok(making.end(first.unwrap_or_default(), end))
    };
    let page = within_share(owner, size, read).await?;
    if !owner.leader_status.borrow().is_local {
        // The last queries may have found no book any more.
        return Err(unavailable("leadership has just moved"));
    }
    Ok(page)
}

/// Returns a part of a page of offers, within a query.
fn open_offers(
    facts: &OwnerState<'_>,
    sight: &Sight,
    filter: &HashMap<String, String>,
    token: &str,
    room: PageCapacity,
) -> PagePart {
    let after = token.parse().unwrap_or_default();
    let book = facts.leader.map(Leader::book);
    gather(
        book.into_iter().flat_map(|book| book.after(after)),
        room,
        |terms| terms.id.to_string(),
        |terms, found| {
            let is_wanted = is(filter, "framework_id", &terms.framework)
                && is(filter, "agent_id", &terms.agent)
                && is(filter, "role", &terms.role)
                && sight.offer(terms);
            if is_wanted && let Some(offer) = views::offer(facts.registry, terms) {
                found.add(&offer);
            }
        },
    )
}
