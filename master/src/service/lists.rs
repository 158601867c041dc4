//! Pages of records: collected in bounded looks, so that no list holds up the owner.

use std::collections::HashMap;
use std::fmt::Display;

use argosy_proto::convert::{self, Malformed};
use argosy_proto::v1;
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Revision, TaskId, TaskKey};
use tonic::Status;

use super::{choices, malformed, views};
use crate::desk::{Desk, unavailable};
use crate::inbox::View;
use crate::leader::Leader;

/// Records of one look.
const LOOK: usize = 500;
/// Records of a page unless asked otherwise.
const PAGE: usize = 1_000;
/// Records of the largest page.
const LARGEST_PAGE: usize = 10_000;

/// Makes what is read as fresh as was asked.
pub(super) async fn settle(desk: &Desk, consistency: i32, min_revision: u64) -> Result<(), Status> {
    if consistency != i32::from(v1::Consistency::Local) {
        desk.confirm().await?;
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

/// A part of a page: what was found, and where to go on.
type Part<T> = (Vec<T>, Option<String>, Revision);

/// Looks until the page is full or the end is reached.
async fn collect<T: Send + 'static>(
    desk: &Desk,
    size: usize,
    token: String,
    look: impl Fn(&View<'_>, &str) -> Part<T> + Clone + Send + Sync + 'static,
) -> Result<(Vec<T>, String, v1::Revision), Status> {
    let mut all = Vec::new();
    let mut token = token;
    let mut first = None;
    loop {
        let look = look.clone();
        let from = token.clone();
        let (mut part, next, revision) = desk.read(move |view| look(view, &from)).await?;
        let revision = *first.get_or_insert(revision);
        all.append(&mut part);
        match next {
            Some(next) if all.len() < size => token = next,
            next => return Ok((all, next.unwrap_or_default(), convert::revision(revision))),
        }
    }
}

fn here(view: &View<'_>) -> Revision {
    Revision {
        index: view.registry.applied(),
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
    let look_size = LOOK.min(size);
    if !request.page_token.is_empty() && request.page_token.parse::<AgentId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = choices::filter(request.filter)?;
    let look = move |view: &View<'_>, token: &str| {
        let after = token.parse().unwrap_or(AgentId(0));
        let seen: Vec<_> = view.registry.agents_after(after).take(look_size).collect();
        let next = if seen.len() == look_size {
            seen.last().map(|agent| agent.id.to_string())
        } else {
            None
        };
        let wanted = seen
            .into_iter()
            .map(|agent| views::agent(view, agent))
            .filter(|agent| {
                let mode = agent
                    .mode()
                    .as_str_name()
                    .trim_start_matches("AGENT_MODE_")
                    .to_ascii_lowercase();
                matches(&filter, "agent_id", &agent.agent_id)
                    && matches(
                        &filter,
                        "host_name",
                        agent.info.as_ref().map_or("", |info| &info.host_name),
                    )
                    && matches(&filter, "mode", &mode)
            });
        (wanted.collect(), next, here(view))
    };
    let (agents, next_page_token, revision) = collect(desk, size, request.page_token, look).await?;
    Ok(v1::AgentPage {
        agents,
        next_page_token,
        revision: Some(revision),
    })
}

pub(crate) async fn list_frameworks(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::FrameworkPage, Status> {
    settle(desk, request.consistency, request.min_revision).await?;
    check_filter(&request.filter, &["framework_id", "name"])?;
    let size = size(&request)?;
    let look_size = LOOK.min(size);
    if !request.page_token.is_empty() && request.page_token.parse::<FrameworkId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let (filter, ended) = (request.filter, request.include_ended);
    let look = move |view: &View<'_>, token: &str| {
        let after = token.parse().unwrap_or(FrameworkId(0));
        let seen: Vec<_> = view
            .registry
            .frameworks_after(after)
            .take(look_size)
            .collect();
        let next = if seen.len() == look_size {
            seen.last().map(|framework| framework.id.to_string())
        } else {
            None
        };
        let mut all: Vec<_> = seen
            .into_iter()
            .map(|framework| views::framework(view, framework))
            .collect();
        if ended && next.is_none() {
            all.extend(
                view.registry
                    .finished_frameworks()
                    .take(LOOK)
                    .map(views::finished_framework),
            );
        }
        all.retain(|framework| {
            matches(&filter, "framework_id", &framework.framework_id)
                && matches(
                    &filter,
                    "name",
                    framework.info.as_ref().map_or("", |info| &info.name),
                )
        });
        (all, next, here(view))
    };
    let (frameworks, next_page_token, revision) =
        collect(desk, size, request.page_token, look).await?;
    Ok(v1::FrameworkPage {
        frameworks,
        next_page_token,
        revision: Some(revision),
    })
}

/// Tasks ascend by framework and id; behind them, if wanted, finished ones, oldest first. A token
/// names the last task seen, or `~` and the last serial of the history.
pub(crate) async fn list_tasks(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::TaskPage, Status> {
    settle(desk, request.consistency, request.min_revision).await?;
    check_filter(
        &request.filter,
        &["framework_id", "agent_id", "task_id", "state", "name"],
    )?;
    let size = size(&request)?;
    let look_size = LOOK.min(size);
    if !request.page_token.is_empty() && Place::read(&request.page_token).is_none() {
        return Err(bad_token(&request.page_token));
    }
    let (filter, ended) = (choices::filter(request.filter)?, request.include_ended);
    let look = move |view: &View<'_>, token: &str| {
        let (seen, next) = match Place::read(token).unwrap_or(Place::Start) {
            Place::History(serial) => history(view, serial, look_size),
            place => live(view, &place, look_size, ended),
        };
        let wanted = seen.into_iter().filter(|task: &v1::Task| {
            let state = task
                .state()
                .as_str_name()
                .trim_start_matches("TASK_STATE_")
                .to_ascii_lowercase();
            matches(&filter, "framework_id", &task.framework_id)
                && matches(&filter, "agent_id", &task.agent_id)
                && matches(&filter, "task_id", &task.task_id)
                && matches(&filter, "state", &state)
                && matches(
                    &filter,
                    "name",
                    task.spec.as_ref().map_or("", |spec| &spec.name),
                )
        });
        (wanted.collect(), next, here(view))
    };
    let (tasks, next_page_token, revision) = collect(desk, size, request.page_token, look).await?;
    Ok(v1::TaskPage {
        tasks,
        next_page_token,
        revision: Some(revision),
    })
}

enum Place {
    Start,
    Behind(TaskKey),
    History(u64),
}

impl Place {
    fn read(token: &str) -> Option<Self> {
        if token.is_empty() {
            return Some(Self::Start);
        }
        if let Some(serial) = token.strip_prefix('~') {
            return serial.parse().ok().map(Self::History);
        }
        let (framework, task) = token.split_once('/')?;
        Some(Self::Behind(TaskKey {
            framework: framework.parse().ok()?,
            task: TaskId::new(task).ok()?,
        }))
    }
}

fn live(
    view: &View<'_>,
    place: &Place,
    size: usize,
    ended: bool,
) -> (Vec<v1::Task>, Option<String>) {
    let seen: Vec<_> = match place {
        Place::Behind(key) => view.registry.tasks_after(key).take(size).collect(),
        Place::Start | Place::History(_) => view.registry.tasks().take(size).collect(),
    };
    let next = match seen.last() {
        Some(last) if seen.len() == size => Some(last.key.to_string()),
        _ if ended => Some("~0".to_owned()),
        _ => None,
    };
    (
        seen.into_iter()
            .map(|task| views::task(view.registry, task))
            .collect(),
        next,
    )
}

fn history(view: &View<'_>, serial: u64, size: usize) -> (Vec<v1::Task>, Option<String>) {
    let seen: Vec<_> = view
        .registry
        .finished_tasks_after(serial)
        .take(size)
        .collect();
    let next = if seen.len() == size {
        seen.last().map(|(serial, _)| format!("~{serial}"))
    } else {
        None
    };
    (
        seen.into_iter()
            .map(|(_, finished)| views::task(view.registry, &finished.task))
            .collect(),
        next,
    )
}

/// Open offers: only the leader has them.
pub(crate) async fn list_offers(
    desk: &Desk,
    request: v1::ListRequest,
) -> Result<v1::OfferPage, Status> {
    check_filter(&request.filter, &["framework_id", "agent_id", "role"])?;
    let size = size(&request)?;
    let look_size = LOOK.min(size);
    if !request.page_token.is_empty() && request.page_token.parse::<OfferId>().is_err() {
        return Err(bad_token(&request.page_token));
    }
    let filter = request.filter;
    let look = move |view: &View<'_>, token: &str| {
        let after = token.parse().unwrap_or_default();
        let book = view.leader.map(Leader::book);
        let seen: Vec<_> = book
            .into_iter()
            .flat_map(|book| book.after(after))
            .take(look_size)
            .collect();
        let next = if seen.len() == look_size {
            seen.last().map(|promise| promise.id.to_string())
        } else {
            None
        };
        let is = |field: &str, value: &dyn Display| {
            filter
                .get(field)
                .is_none_or(|wanted| *wanted == value.to_string())
        };
        let wanted = seen.into_iter().filter(|promise| {
            is("framework_id", &promise.framework)
                && is("agent_id", &promise.agent)
                && is("role", &promise.role)
        });
        let offers = wanted.filter_map(|promise| views::offer(view.registry, promise));
        (offers.collect(), next, here(view))
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
