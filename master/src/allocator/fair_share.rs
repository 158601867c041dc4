//! The order of clients: a tree of roles with frameworks as its leaves. Each level is ordered by
//! weighted dominant share.
//!
//! Roles are flat today; a role of several levels only adds nodes. The amounts come from the cache;
//! this module reads no facts.

use std::collections::BTreeSet;

use argosy_state::registry::DEFAULT_WEIGHT_MILLI;

use super::share::{AmountLimit, Amounts, DominantShare, ResourceKinds};

/// The root of all roles.
pub(super) const ROOT: u32 = 0;

/// The account that a node represents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccountKind {
    /// A role: listed while any node below it is listed.
    Role,
    /// A framework in a role: listed while it takes offers.
    Client,
}

#[derive(Debug)]
struct ShareNode {
    parent: u32,
    account: AccountKind,
    /// Amounts of the node itself, without the nodes below.
    own: Amounts,
    /// Amounts of the node and, for a role, of the roles below. Amounts of clients are included in
    /// `own` of their role.
    allocated: Amounts,
    weight_milli: u64,
    served: u64,
    active: bool,
    limit: Option<AmountLimit>,
    /// The share under which its parent lists it.
    listed_share: Option<DominantShare>,
    stale: bool,
    /// The number of direct children, listed or not.
    child_count: usize,
    children: BTreeSet<(DominantShare, u32)>,
}

impl ShareNode {
    fn new(parent: u32, account: AccountKind) -> Self {
        Self {
            parent,
            account,
            own: Amounts::default(),
            allocated: Amounts::default(),
            weight_milli: DEFAULT_WEIGHT_MILLI,
            served: 0,
            active: false,
            limit: None,
            listed_share: None,
            stale: false,
            child_count: 0,
            children: BTreeSet::new(),
        }
    }
}

/// The tree. Changes mark nodes; [`ShareTree::settle`] lists each marked node again, once.
#[derive(Debug)]
pub(super) struct ShareTree {
    nodes: Vec<ShareNode>,
    free_slots: Vec<u32>,
    stale: Vec<u32>,
    served: u64,
}

/// Amounts that are left below some limits; see [`ShareTree::headroom`].
#[derive(Debug, Clone)]
pub(super) struct LimitHeadroom {
    /// Each limit with the amounts allocated below it.
    limits: Vec<(AmountLimit, Amounts)>,
}

impl LimitHeadroom {
    pub(super) fn has(&self, amounts: &Amounts) -> bool {
        let mut limits = self.limits.iter();
        limits.all(|(limit, allocated)| limit.allows(allocated, amounts))
    }
}

impl ShareTree {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![ShareNode::new(ROOT, AccountKind::Role)],
            free_slots: Vec::new(),
            stale: Vec::new(),
            served: 0,
        }
    }

    /// Returns one more than the largest index of a node.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn add(&mut self, parent: u32, account: AccountKind) -> u32 {
        self.node_mut(parent).child_count += 1;
        let node = ShareNode::new(parent, account);
        if let Some(at) = self.free_slots.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Removes a client, or a role without children.
    pub(super) fn remove(&mut self, at: u32) {
        debug_assert!(self.is_empty(at), "clients go before their role");
        self.node_mut(at).active = false;
        self.relist(at, None);
        let parent = self.parent(at);
        self.node_mut(parent).child_count -= 1;
        self.free_slots.push(at);
    }

    /// Returns whether a node has no children.
    pub(super) fn is_empty(&self, at: u32) -> bool {
        self.node(at).child_count == 0
    }

    pub(super) fn parent(&self, at: u32) -> u32 {
        self.node(at).parent
    }

    pub(super) fn is_client(&self, at: u32) -> bool {
        self.node(at).account == AccountKind::Client
    }

    pub(super) fn is_active(&self, at: u32) -> bool {
        self.node(at).active
    }

    pub(super) fn share(&self, at: u32, kinds: &ResourceKinds) -> DominantShare {
        let node = self.node(at);
        kinds.share(&node.allocated, node.weight_milli, node.served)
    }

    pub(super) fn set_active(&mut self, at: u32, active: bool) {
        if self.node(at).active != active {
            self.node_mut(at).active = active;
            self.mark(at);
        }
    }

    pub(super) fn set_weight(&mut self, at: u32, weight_milli: u64) {
        if self.node(at).weight_milli != weight_milli {
            self.node_mut(at).weight_milli = weight_milli;
            self.mark(at);
        }
    }

    pub(super) fn set_limit(&mut self, at: u32, limit: Option<AmountLimit>) {
        self.node_mut(at).limit = limit;
    }

    /// Sets the amounts of the node itself to the current values of registry and book.
    pub(super) fn set_own(&mut self, at: u32, own: Amounts) {
        if self.node(at).own != own {
            let by = own.minus(&self.node(at).own);
            self.node_mut(at).own = own;
            self.move_allocated(at, &by);
        }
    }

    /// Charges a client and its roles for an offer of `amounts`, and marks them as served last.
    pub(super) fn charge(&mut self, client: u32, amounts: &Amounts) {
        self.served += 1;
        let role = self.parent(client);
        for at in [client, role] {
            let node = self.node_mut(at);
            node.own.add(amounts);
            self.move_allocated(at, amounts);
        }
        let mut at = client;
        while at != ROOT {
            let served = self.served;
            self.node_mut(at).served = served;
            at = self.parent(at);
        }
    }

    /// Returns whether the limits of all roles above a client leave room for `amounts`.
    pub(super) fn has_room(&self, client: u32, amounts: &Amounts) -> bool {
        let mut at = self.parent(client);
        while at != ROOT {
            let node = self.node(at);
            let limit = node.limit.as_ref();
            if limit.is_some_and(|limit| !limit.allows(&node.allocated, amounts)) {
                return false;
            }
            at = node.parent;
        }
        true
    }

    /// Returns a copy of the headroom below the limits above a client.
    pub(super) fn headroom(&self, client: u32) -> LimitHeadroom {
        let mut limits = Vec::new();
        let mut at = self.parent(client);
        while at != ROOT {
            let node = self.node(at);
            let limit = node.limit.clone();
            limits.extend(limit.map(|limit| (limit, node.allocated.clone())));
            at = node.parent;
        }
        LimitHeadroom { limits }
    }

    /// Marks all nodes after every share has changed.
    pub(super) fn mark_all(&mut self) {
        for at in 1..self.nodes.len() as u32 {
            self.mark(at);
        }
    }

    /// Lists each node that has changed since the last call under its current share.
    pub(super) fn settle(&mut self, kinds: &ResourceKinds) {
        while let Some(at) = self.stale.pop() {
            self.node_mut(at).stale = false;
            let wanted = self.should_be_listed(at).then(|| self.share(at, kinds));
            self.relist(at, wanted);
        }
    }

    /// Returns the first client in fair order for which `probe` returns a result.
    pub(super) fn first<T>(&self, probe: &mut impl FnMut(u32) -> Option<T>) -> Option<(u32, T)> {
        debug_assert!(self.stale.is_empty(), "settle comes first");
        self.first_below(ROOT, probe)
    }

    fn first_below<T>(
        &self,
        at: u32,
        probe: &mut impl FnMut(u32) -> Option<T>,
    ) -> Option<(u32, T)> {
        self.node(at)
            .children
            .iter()
            .find_map(|(_, child)| match self.node(*child).account {
                AccountKind::Client => probe(*child).map(|found| (*child, found)),
                AccountKind::Role => self.first_below(*child, probe),
            })
    }

    fn node(&self, at: u32) -> &ShareNode {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut ShareNode {
        &mut self.nodes[at as usize]
    }

    fn mark(&mut self, at: u32) {
        if at != ROOT && !std::mem::replace(&mut self.node_mut(at).stale, true) {
            self.stale.push(at);
        }
    }

    fn move_allocated(&mut self, from: u32, by: &Amounts) {
        let mut at = from;
        while at != ROOT {
            let node = self.node_mut(at);
            node.allocated.add(by);
            let (account, parent) = (node.account, node.parent);
            self.mark(at);
            if account == AccountKind::Client {
                return;
            }
            at = parent;
        }
    }

    fn should_be_listed(&self, at: u32) -> bool {
        let node = self.node(at);
        match node.account {
            AccountKind::Client => node.active,
            AccountKind::Role => !node.children.is_empty(),
        }
    }

    fn relist(&mut self, at: u32, wanted: Option<DominantShare>) {
        let parent = self.parent(at);
        let former = std::mem::replace(&mut self.node_mut(at).listed_share, wanted);
        let children = &mut self.node_mut(parent).children;
        let was_empty = children.is_empty();
        if let Some(share) = former {
            children.remove(&(share, at));
        }
        if let Some(share) = wanted {
            children.insert((share, at));
        }
        if was_empty != children.is_empty() {
            self.mark(parent);
        }
    }
}

#[cfg(test)]
impl ShareTree {
    pub(super) fn own(&self, at: u32) -> Amounts {
        self.node(at).own.clone()
    }
}
