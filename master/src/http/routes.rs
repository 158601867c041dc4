//! The table of all paths, from which the routes and the index of paths are made.

use argosy_proto::server::callers::{ApiAccess, ApiPart};
use argosy_state::access::Action;
use axum::Router;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::{Http, access, discovery, events, exec, index, snapshot, writes};
use crate::access::{Check, check_of_call};

/// A method of a path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) serves: Served,
    pub(crate) answer: &'static str,
    handler: fn() -> MethodRouter<Http>,
}

/// The kind of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// This call of `Operator`.
    Call(&'static str),
    /// This operation of `WriteOperation`.
    Operation(&'static str),
    /// A part of the API to which the access is restricted.
    Restricted(ApiPart, Check),
    /// Something that is no call.
    Other(Check),
}

use Served::{Call, Operation, Other, Restricted};

impl Served {
    /// Returns how a request is authorized; `None` if the table of calls has no row for it.
    fn check(self) -> Option<Check> {
        match self {
            Call(name) => check_of_call(&format!("/argosy.v1.Operator/{name}")),
            Operation(_) => Some(Check::Operations),
            Restricted(_, check) | Other(check) => Some(check),
        }
    }
}

/// Returns how a request is authorized; `None` if no path matches. `/` and `/v1` list the paths.
pub(crate) fn check_of(method: &str, path: &str) -> Option<Check> {
    if ["/", "/v1"].contains(&path) {
        return Some(Check::Open);
    }
    route_of(method, path)?.serves.check()
}

/// Whether a request is one operation of `WriteOperation`.
pub(crate) fn is_operation(method: &str, path: &str) -> bool {
    route_of(method, path).is_some_and(|route| matches!(route.serves, Operation(_)))
}

fn route_of(method: &str, path: &str) -> Option<&'static Route> {
    let mut routes = ROUTES.iter();
    // The answer to HEAD is that to GET, without its body.
    let method = if method == "HEAD" { "GET" } else { method };
    routes.find(|route| route.method == method && is_at(route.path, path))
}

const fn route(
    method: &'static str,
    path: &'static str,
    serves: Served,
    answer: &'static str,
    handler: fn() -> MethodRouter<Http>,
) -> Route {
    Route {
        method,
        path,
        serves,
        answer,
        handler,
    }
}

/// All routes, except `/` and `/v1`, which list them.
#[rustfmt::skip]
pub(crate) const ROUTES: &[Route] = &[
    route("GET", "/v1/cluster", Call("GetCluster"), "masters, leader, counts, resources", || get(super::cluster)),
    route("GET", "/v1/agents", Call("ListAgents"), "agents, a page at a time", || get(super::agents)),
    route("GET", "/v1/agents/{agent_id}", Call("GetAgent"), "one agent", || get(super::agent)),
    route("PUT", "/v1/agents/{agent_id}/attributes/{name}", Operation("set_attribute"), "sets an attribute: {\"value\": \"…\"}", || put(writes::set_attribute)),
    route("DELETE", "/v1/agents/{agent_id}/attributes/{name}", Operation("set_attribute"), "removes an attribute", || delete(writes::remove_attribute)),
    route("POST", "/v1/agents/{agent_id}/deactivate", Operation("deactivate_agent"), "stops offers of its resources; its tasks continue", || post(writes::deactivate)),
    route("POST", "/v1/agents/{agent_id}/reactivate", Operation("reactivate_agent"), "ends a deactivation", || post(writes::reactivate)),
    route("POST", "/v1/agents/{agent_id}/gone", Operation("mark_agent_gone"), "declares that the agent never returns: its tasks end", || post(writes::mark_gone)),
    route("GET", "/v1/agents/{agent_id}/files/{verb}", Restricted(ApiPart::Files, Check::Task(Action::ReadSandbox)), "files of its tasks; verbs are browse, read and download", || get(super::agent_files)),
    route("GET", "/v1/agents/{agent_id}/preparation", Other(Check::Task(Action::ViewTask)), "what it fetches for a task that is not started yet: task=FRAMEWORK/TASK", || get(super::agent_preparation)),
    route("GET", "/v1/agents/{agent_id}/exec", Restricted(ApiPart::Exec, Check::Task(Action::Exec)), "a command in a task, over a WebSocket", || get(exec::exec)),
    route("GET", "/v1/agents/{agent_id}/attach", Restricted(ApiPart::Exec, Check::Task(Action::Attach)), "a task's own terminal, over a WebSocket", || get(exec::attach)),
    route("POST", "/v1/agents/{agent_id}/tickets", Call("IssueTickets"), "issues tickets for its API: {\"verb\": \"…\", \"targets\": […]}", || post(writes::issue_tickets)),
    route("GET", "/v1/frameworks", Call("ListFrameworks"), "frameworks, a page at a time", || get(super::frameworks)),
    route("GET", "/v1/frameworks/{framework_id}", Call("GetFramework"), "one framework", || get(super::framework)),
    route("DELETE", "/v1/frameworks/{framework_id}", Operation("teardown_framework"), "ends its tasks and removes it", || delete(writes::teardown)),
    route("GET", "/v1/frameworks/{framework_id}/explain", Call("Explain"), "why its work does not run", || get(super::explain)),
    route("GET", "/v1/tasks", Call("ListTasks"), "tasks, a page at a time", || get(super::tasks)),
    route("GET", "/v1/tasks/{framework_id}/{task_id}", Call("GetTask"), "one task", || get(super::task)),
    route("DELETE", "/v1/tasks/{framework_id}/{task_id}", Operation("kill_task"), "kills a task", || delete(writes::kill)),
    route("PUT", "/v1/tasks/{framework_id}/{task_id}/limits", Operation("update_limits"), "replaces the limits of a task: Limits", || put(writes::update_limits)),
    route("GET", "/v1/offers", Call("ListOffers"), "open offers, a page at a time", || get(super::offers)),
    route("PUT", "/v1/roles/{role}/weight", Operation("set_weight"), "sets the weight of a role: {\"weightMilli\": \"…\"}", || put(writes::set_weight)),
    route("GET", "/v1/secrets", Call("ListSecrets"), "names and versions of secrets, without values", || get(super::secrets)),
    route("POST", "/v1/write", Call("WriteOne"), "a batch of operations: WriteBatch", || post(writes::batch)),
    route("GET", "/v1/policy", Call("GetPolicy"), "rules and groups of access", || get(access::policy)),
    route("PUT", "/v1/policy", Operation("set_policy"), "replaces rules and groups: SetPolicy", || put(access::set_policy)),
    route("GET", "/v1/tokens", Call("ListTokens"), "tokens without their secrets, a page at a time", || get(access::tokens)),
    route("POST", "/v1/tokens", Operation("create_token"), "creates a token: CreateToken", || post(access::create_token)),
    route("DELETE", "/v1/tokens/{token_id}", Operation("revoke_token"), "revokes a token", || delete(access::revoke_token)),
    route("GET", "/v1/revoked-keys", Call("ListRevokedKeys"), "revoked keys, a page at a time", || get(access::revoked_keys)),
    route("PUT", "/v1/revoked-keys/{key_hash}", Operation("revoke_key"), "revokes a key", || put(access::revoke_key)),
    route("GET", "/v1/rate-limits", Call("ListRateLimits"), "limits of rate, a page at a time", || get(access::rate_limits)),
    route("PUT", "/v1/rate-limits", Operation("set_rate_limit"), "sets or removes a limit of rate: SetRateLimit", || put(access::set_rate_limit)),
    route("POST", "/v1/masters", Call("JoinMaster"), "adds a running, empty master: {\"raftAddress\": \"…\"}", || post(writes::join)),
    route("DELETE", "/v1/masters/{node_id}", Call("RemoveMaster"), "removes a master from the group", || delete(writes::remove)),
    route("POST", "/v1/masters/transfer", Call("TransferLeader"), "transfers leadership: {\"nodeId\": \"…\"}", || post(writes::transfer)),
    route("POST", "/v1/level", Call("RaiseLevel"), "raises the feature level: {\"level\": …}", || post(writes::raise_level)),
    route("POST", "/v1/log-filter", Call("SetLogFilter"), "changes the log filter of this master or of an agent: {\"filter\": \"…\", \"agentId\": \"…\"}", || post(writes::set_log_filter)),
    route("GET", "/v1/snapshot", Call("SaveSnapshot"), "a copy of the whole registry, as a file", || get(snapshot::save)),
    route("GET", "/v1/events", Call("Watch"), "changes, as server-sent events", || get(events::events)),
    route("GET", "/v1/sd/prometheus", Other(Check::Records), "masters, agents and tasks with metrics, for the service discovery of Prometheus", || get(discovery::prometheus)),
    route("GET", "/healthz", Other(Check::Open), "whether this process is alive", || get(|| async { "ok\n" })),
    route("GET", "/readyz", Other(Check::Open), "whether this master can answer: a quorum has confirmed a leader just now", || get(super::ready)),
    route("GET", "/metrics", Other(Check::Local(Action::ViewMetrics)), "figures for Prometheus", || get(super::show_metrics)),
];

/// Returns the routes; restricted ones reject other callers.
pub(super) fn guarded(access: ApiAccess) -> Router<Http> {
    let routes = |wanted: fn(Served) -> bool| {
        let wanted = ROUTES.iter().filter(|route| wanted(route.serves));
        wanted.fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
    };
    let commands = routes(|serves| matches!(serves, Restricted(ApiPart::Exec, _)));
    let files = routes(|serves| matches!(serves, Restricted(ApiPart::Files, _)));
    routes(|serves| !matches!(serves, Restricted(..)))
        .merge(access.exec.guard_master(ApiPart::Exec, commands))
        .merge(access.files.guard_master(ApiPart::Files, files))
        .route("/", get(index::page))
        .route("/v1", get(index::list))
}

/// Returns whether a path has a route, of any method.
pub(crate) fn is_known(path: &str) -> bool {
    ["/", "/v1"].contains(&path) || ROUTES.iter().any(|route| is_at(route.path, path))
}

/// Returns the methods of a path.
pub(super) fn methods(path: &str) -> Vec<&'static str> {
    let routes = ROUTES.iter().filter(|route| is_at(route.path, path));
    let methods: Vec<_> = routes.map(|route| route.method).collect();
    // `/` and `/v1` are not in the table.
    if methods.is_empty() {
        vec!["GET"]
    } else {
        methods
    }
}

/// Returns whether a path matches the pattern of a route.
fn is_at(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == found || wanted.starts_with('{') => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PROTOCOL: &str = include_str!("../../../proto/proto/argosy/v1/operator.proto");

    /// Returns the text between a line that begins with `from` and the next line `}`.
    fn section(from: &str) -> &'static str {
        let begin = PROTOCOL.find(from).expect("it is in the protocol");
        let rest = &PROTOCOL[begin..];
        &rest[..rest.find("\n}").expect("it ends")]
    }

    fn served(pick: fn(Served) -> Option<&'static str>) -> BTreeSet<&'static str> {
        ROUTES
            .iter()
            .filter_map(|route| pick(route.serves))
            .collect()
    }

    #[test]
    fn every_call_of_operators_has_a_route() {
        let calls = section("service Operator {").lines();
        let calls = calls.filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        // A stream of batches; a client sends them one by one.
        let calls: BTreeSet<_> = calls.filter(|call| *call != "Write").collect();
        assert!(calls.len() >= 15, "{calls:?}");
        let routed = served(|serves| match serves {
            Call(name) => Some(name),
            Operation(_) | Restricted(..) | Other(_) => None,
        });
        assert_eq!(routed, calls);
    }

    #[test]
    fn a_path_of_an_operation_names_one_of_the_protocol() {
        let fields = section("message WriteOperation {").lines();
        let fields = fields.filter_map(|line| line.trim().split_once(" = ")?.0.split(' ').nth(1));
        let fields: BTreeSet<_> = fields.collect();
        assert!(fields.len() >= 8, "{fields:?}");
        let routed = served(|serves| match serves {
            Operation(name) => Some(name),
            Call(_) | Restricted(..) | Other(_) => None,
        });
        assert!(routed.len() >= 8 && routed.is_subset(&fields), "{routed:?}");
    }

    #[test]
    fn the_methods_of_a_path_are_those_of_the_table() {
        assert_eq!(methods("/v1/tasks/framework-1/web"), ["GET", "DELETE"]);
        assert_eq!(methods("/v1/write"), ["POST"]);
        assert_eq!(methods("/"), ["GET"]);
        let changes = ROUTES.iter().filter(|route| route.method != "GET");
        for route in changes {
            assert!(
                matches!(route.serves, Call(_) | Operation(_)),
                "{}",
                route.path
            );
        }
    }
}
