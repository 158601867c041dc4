//! Requests that bypass the SDK: an acceptance of used offers, and a reconciliation of tasks in
//! flight.

use std::time::Duration;

use argosy_client::resources::Remainder;
use argosy_proto::v1;

use super::SimFramework;
use crate::history::Operation;
use crate::sim::system::early_reconcile::EarlyReconcile;
use crate::sim::system::stale_accept::StaleAccept;

/// First number of the calls that bypass the SDK.
const OFF_SDK_CALLS: u64 = 1_000_000;

impl SimFramework {
    /// Accepts a used offer, of any master and without the SDK.
    pub(super) fn accept_again(&mut self) {
        let used: Vec<_> = self.used_offers.iter().cloned().collect();
        let Some(offer) = self.rng.pick(&used).cloned() else {
            return;
        };
        let Some(task) = self.new_task(&mut Remainder::of(&offer)) else {
            return;
        };
        let masters = self.world.masters();
        let (Some(master), Some(id)) = (self.rng.pick(&masters).cloned(), self.id) else {
            return;
        };
        self.off_sdk_calls += 1;
        let number = OFF_SDK_CALLS + self.off_sdk_calls;
        let launches = [task.clone()];
        let task_id = task.task_id.clone();
        let mut operation = self.accept_operation(&offer, &launches);
        if let Some(Operation::Accept { name, .. }) = &mut operation {
            name.number = number;
        }
        let call = v1::CallId {
            framework_id: id.to_string(),
            session: self.incarnation,
            number,
            lowest_unanswered: 0,
        };
        let launch = v1::operation::Operation::Launch(v1::Launch { tasks: vec![task] });
        let request = v1::AcceptRequest {
            call: Some(call),
            offers: vec![v1::HeldOffer { offer: Some(offer) }],
            operations: vec![v1::Operation {
                operation: Some(launch),
            }],
            filter_ms: Some(0),
            all_or_nothing: false,
        };
        let again = StaleAccept {
            invoked: operation.map(|operation| self.invoke(operation)),
            world: self.world.clone(),
            host: self.name.clone(),
            index: self.index,
            task: task_id,
            master,
            request,
        };
        tokio::spawn(again.send());
    }

    /// Reconciles a task whose acceptance has just been sent, without the SDK.
    pub(super) fn reconcile_early(&mut self, task: &str) {
        let (Some(framework), Some(key)) = (self.id, self.key(task)) else {
            return;
        };
        let request = v1::ReconcileRequest {
            framework_id: framework.to_string(),
            session: self.incarnation,
            task_ids: vec![task.to_owned()],
            next_number: self.sdk_calls + 1,
            ..v1::ReconcileRequest::default()
        };
        let question = EarlyReconcile {
            world: self.world.clone(),
            host: self.name.clone(),
            request,
            task: key,
            delay: Duration::from_millis(self.rng.between(0, 12)),
        };
        question.send_to_all();
    }
}
