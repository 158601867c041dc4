//! Fingerprints of requests: a repeated request has the fingerprint of the first one, and any other
//! request a different one.
//!
//! The hashed bytes are a canonical encoding, independent of the storage format and of protobuf. A
//! field is a number, a length and contents; a field with its default value is omitted. So a field
//! that a later release adds does not change the fingerprints of requests that do not use it. A
//! field number is never given another meaning.
//!
//! Values that change between repeats (`lowest_unanswered`, wall time, the hash itself) are never
//! included.

use sha2::{Digest, Sha256};

use crate::actor::Actor;
use crate::codec::canonical::CanonicalWriter;
use crate::command::{
    Accept, Call, CallAction, Command, OfferOperation, OfferTerms, Operate, OperatorOperation,
    ProposedCommand,
};
use crate::encode;
use crate::framework::FrameworkInfo;
use crate::ids::{Role, Ticket};
use crate::level::Level;
use crate::resources::Resource;
use crate::task::TaskSpec;

/// The prefix that identifies the meaning of the following bytes.
const CALL: &[u8] = b"argosy call 1";
const BATCH: &[u8] = b"argosy batch 1";

/// Returns the fingerprint of a numbered call. The `filter_ms` of an acceptance belongs to the
/// request, but not to the command.
#[must_use]
pub fn call(call: &Call, filter_ms: u64) -> u64 {
    hash(&call_bytes(call, filter_ms))
}

/// Returns the fingerprint of an operator's batch.
#[must_use]
pub fn batch(operate: &Operate) -> u64 {
    hash(&batch_bytes(operate))
}

/// Returns the hash that release 0.1.0 stored for the same call. It covers protobuf bytes that name
/// the storage format, and not `filter_ms`. It is accepted for one release, for repeats of calls
/// that were answered before an upgrade.
#[must_use]
pub fn call_of_0_1_0(call: &Call) -> u64 {
    let mut same = Call {
        lowest_unanswered: 0,
        hash: 0,
        ..call.clone()
    };
    match &mut same.action {
        CallAction::Accept(accept) => {
            accept.wall_ms = 0;
            let operations = accept.operations.iter_mut();
            let tasks = operations.flat_map(OfferOperation::tasks_mut);
            tasks.for_each(TaskSpec::reduce_to_0_1_0);
        }
        CallAction::Update(info) => info.capabilities.clear(),
        CallAction::Kill { .. }
        | CallAction::UpdateLimits { .. }
        | CallAction::Suppress(_)
        | CallAction::Revive(_)
        | CallAction::Teardown => {}
    }
    hash_of_0_1_0(Command::Call(same))
}

/// Returns the hash that release 0.1.0 stored for the same batch. It is accepted for one release.
#[must_use]
pub fn batch_of_0_1_0(operate: &Operate) -> u64 {
    hash_of_0_1_0(Command::Operate(Operate {
        hash: 0,
        wall_ms: 0,
        ..operate.clone()
    }))
}

fn hash_of_0_1_0(command: Command) -> u64 {
    let ticket = Ticket::default();
    let proposed = ProposedCommand {
        ticket,
        actor: Actor::default(),
        command,
    };
    hash(&encode::command(&proposed, Level::RELEASE_0_1))
}

fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}

fn call_bytes(call: &Call, filter_ms: u64) -> Vec<u8> {
    let Call {
        framework,
        session,
        number,
        lowest_unanswered: _,
        hash: _,
        action,
    } = call;
    let mut out = CanonicalWriter::new(CALL);
    out.number(1, framework.0);
    out.number(2, *session);
    out.number(3, *number);
    match action {
        CallAction::Accept(accept) => out.chosen(4, |out| accept_fields(out, accept, filter_ms)),
        CallAction::Kill { task, grace_ms } => out.chosen(5, |out| {
            out.text(1, task.as_str());
            out.optional(2, *grace_ms);
        }),
        CallAction::UpdateLimits { task, limits } => out.chosen(6, |out| {
            out.text(1, task.as_str());
            out.part(2, |out| limits.fingerprint(out));
        }),
        CallAction::Suppress(names) => out.chosen(7, |out| roles(out, 1, names)),
        CallAction::Revive(names) => out.chosen(8, |out| roles(out, 1, names)),
        CallAction::Update(info) => out.chosen(9, |out| framework_info(out, info)),
        CallAction::Teardown => out.chosen(10, |_| ()),
    }
    out.finish()
}

fn accept_fields(out: &mut CanonicalWriter, accept: &Accept, filter_ms: u64) {
    let Accept {
        offers,
        operations,
        all_or_nothing,
        wall_ms: _,
    } = accept;
    out.list(1, offers, offer_terms);
    let is_one_launch = match operations.as_slice() {
        [OfferOperation::Launch(tasks)] if !tasks.is_empty() => {
            out.list(2, tasks, task);
            true
        }
        _ => false,
    };
    out.flag(3, *all_or_nothing);
    out.number(4, filter_ms);
    if !is_one_launch {
        out.list(5, operations, offer_operation);
    }
}

fn offer_operation(out: &mut CanonicalWriter, operation: &OfferOperation) {
    match operation {
        OfferOperation::Launch(tasks) => out.chosen(1, |out| out.list(1, tasks, task)),
        OfferOperation::LaunchGroup(tasks) => out.chosen(2, |out| out.list(1, tasks, task)),
    }
}

fn task(out: &mut CanonicalWriter, spec: &TaskSpec) {
    spec.fingerprint(out);
}

fn offer_terms(out: &mut CanonicalWriter, terms: &OfferTerms) {
    let OfferTerms {
        id,
        framework,
        session,
        agent,
        role,
        resources,
        offer_revision,
        expires,
    } = terms;
    out.number(1, id.epoch.0);
    out.number(2, id.serial);
    out.number(3, framework.0);
    out.number(4, *session);
    out.number(5, agent.0);
    out.text(6, role.as_str());
    out.list(7, resources, |out, one: &Resource| one.fingerprint(out));
    out.number(8, offer_revision.index);
    out.number(9, offer_revision.position.into());
    out.number(10, expires.0);
}

fn framework_info(out: &mut CanonicalWriter, info: &FrameworkInfo) {
    let FrameworkInfo {
        name,
        user,
        roles: names,
        failover_timeout_ms,
        principal,
        labels,
        detached,
        offer_timeout_ms,
        web_url,
        capabilities,
    } = info;
    out.text(1, name);
    out.text(2, user);
    roles(out, 3, names);
    out.number(4, *failover_timeout_ms);
    out.text(5, principal);
    out.texts(6, labels);
    out.flag(7, *detached);
    out.number(8, *offer_timeout_ms);
    out.text(9, web_url);
    out.list(50, capabilities, |out, name: &String| out.text(1, name));
}

fn roles<'a>(out: &mut CanonicalWriter, field: u16, names: impl IntoIterator<Item = &'a Role>) {
    out.list(field, names, |out, role| out.text(1, role.as_str()));
}

fn batch_bytes(operate: &Operate) -> Vec<u8> {
    let Operate {
        request,
        hash: _,
        operations,
        wall_ms: _,
    } = operate;
    let mut out = CanonicalWriter::new(BATCH);
    if let Some((principal, id)) = request {
        out.text(1, principal);
        out.text(2, id);
    }
    out.list(3, operations, |out, one: &OperatorOperation| {
        one.fingerprint(out);
    });
    out.finish()
}

#[cfg(test)]
mod tests;
