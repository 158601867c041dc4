//! Numbered calls that are not answered yet: each keeps its number and its content until it is.
//!
//! Pure. This module decides which calls may be in flight at the same time. A kill or
//! reconciliation must not overtake, and thereby cancel, a launch that was requested earlier, nor
//! may changes of limits overtake each other.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;

use super::driver::CallKey;

/// Maximum number of calls in flight. Further ones wait.
const IN_FLIGHT: usize = 64;
/// Maximum distance from the lowest unanswered number to the highest sent: half of what masters
/// remember.
const WINDOW: u64 = 512;

/// The request of a call, with its `CallId` once it was sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallRequest {
    Accept(v1::AcceptRequest),
    Kill(v1::KillRequest),
    UpdateLimits(v1::UpdateLimitsRequest),
    Suppress(v1::SuppressRequest),
    Revive(v1::ReviveRequest),
    UpdateFramework(v1::UpdateFrameworkRequest),
    Teardown(v1::TeardownRequest),
}

/// The ordering of a kind of call relative to earlier and later calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallOrdering {
    /// Concurrent with others.
    Free,
    /// After every earlier accept is answered.
    BehindAccepts,
    /// Alone: after all earlier ones, before all later ones.
    Alone,
}

impl CallRequest {
    fn order(&self) -> CallOrdering {
        match self {
            Self::Accept(_) => CallOrdering::Free,
            Self::Kill(_) => CallOrdering::BehindAccepts,
            Self::UpdateLimits(_) => CallOrdering::Alone,
            Self::Suppress(_) | Self::Revive(_) | Self::UpdateFramework(_) | Self::Teardown(_) => {
                CallOrdering::Alone
            }
        }
    }

    fn sign(&mut self, id: v1::CallId) {
        let call = match self {
            Self::Accept(request) => &mut request.call,
            Self::Kill(request) => &mut request.call,
            Self::UpdateLimits(request) => &mut request.call,
            Self::Suppress(request) => &mut request.call,
            Self::Revive(request) => &mut request.call,
            Self::UpdateFramework(request) => &mut request.call,
            Self::Teardown(request) => &mut request.call,
        };
        *call = Some(id);
    }
}

#[derive(Debug, Clone)]
pub(crate) struct OpenCall {
    pub(crate) key: CallKey,
    pub(crate) request: CallRequest,
    /// A master may have applied an earlier attempt that was not answered.
    pub(crate) may_be_applied: bool,
    /// The serial number of the last decline before it, if it waits for declines.
    after_decline: u64,
    is_signed: bool,
    is_in_flight: bool,
}

/// The open calls of one session, by number.
#[derive(Debug, Default)]
pub(crate) struct OpenCalls {
    pending: BTreeMap<u64, OpenCall>,
    last_number: u64,
    in_flight: usize,
    // Numbers of pending accepts, for which kills wait.
    accepts: BTreeSet<u64>,
}

impl OpenCalls {
    /// Adds a call under the next number.
    pub(crate) fn add(&mut self, key: CallKey, request: CallRequest) -> u64 {
        self.add_after(key, request, 0)
    }

    /// As [`Self::add`], for a call that is sent once all declines up to this serial number have
    /// arrived: a revive removes their filters.
    pub(crate) fn add_after(
        &mut self,
        key: CallKey,
        request: CallRequest,
        after_decline: u64,
    ) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        if matches!(request, CallRequest::Accept(_)) {
            self.accepts.insert(number);
        }
        let pending = OpenCall {
            key,
            request,
            may_be_applied: false,
            after_decline,
            is_signed: false,
            is_in_flight: false,
        };
        self.pending.insert(number, pending);
        number
    }

    /// Returns the number that the next call will get.
    pub(crate) fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    /// Returns whether every call below `number` is answered.
    pub(crate) fn is_answered_below(&self, number: u64) -> bool {
        self.pending
            .keys()
            .next()
            .is_none_or(|lowest| *lowest >= number)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Removes and returns the calls that remove the framework; empty if none is open.
    pub(crate) fn take_teardowns(&mut self) -> Vec<OpenCall> {
        let is_teardown = |call: &OpenCall| matches!(call.request, CallRequest::Teardown(_));
        let open = self.pending.iter().filter(|(_, call)| is_teardown(call));
        let numbers: Vec<u64> = open.map(|(number, _)| *number).collect();
        numbers
            .into_iter()
            .filter_map(|number| self.answered(number))
            .collect()
    }

    /// Returns the offers used by accepts that are not answered.
    pub(crate) fn used_offers(&self) -> impl Iterator<Item = &v1::HeldOffer> {
        self.accepts
            .iter()
            .filter_map(|number| match &self.pending.get(number)?.request {
                CallRequest::Accept(request) => Some(&request.offers),
                _ => None,
            })
            .flatten()
    }

    /// Returns the newest description of the framework whose call is not answered.
    pub(crate) fn newest_info(&self) -> Option<&v1::FrameworkInfo> {
        let mut newest_first = self.pending.values().rev();
        newest_first.find_map(|call| match &call.request {
            CallRequest::UpdateFramework(request) => request.info.as_ref(),
            _ => None,
        })
    }

    /// Returns the calls that may be sent now, marked as sent. `teardown_may_go`: a teardown waits
    /// for no acknowledgement. `declined_below`: the lowest serial number of the declines that are
    /// being sent.
    pub(crate) fn send(
        &mut self,
        id: &v1::CallId,
        teardown_may_go: bool,
        declined_below: u64,
    ) -> Vec<(u64, CallRequest)> {
        let Some(lowest) = self.pending.keys().next().copied() else {
            return Vec::new();
        };
        let first_accept = self.accepts.first().copied().unwrap_or(u64::MAX);
        let mut sent = Vec::new();
        for (number, call) in self.pending.range_mut(..lowest.saturating_add(WINDOW)) {
            if self.in_flight >= IN_FLIGHT {
                break;
            }
            let order = call.request.order();
            if !call.is_in_flight {
                let may_go = match order {
                    CallOrdering::Free => true,
                    CallOrdering::BehindAccepts => first_accept > *number,
                    CallOrdering::Alone => *number == lowest,
                };
                let waits = matches!(call.request, CallRequest::Teardown(_)) && !teardown_may_go
                    || call.after_decline >= declined_below;
                if may_go && !waits {
                    if !call.is_signed {
                        // A repeat must equal the original, so the id is created once.
                        call.request.sign(v1::CallId {
                            number: *number,
                            lowest_unanswered: lowest,
                            ..id.clone()
                        });
                        call.is_signed = true;
                    }
                    call.is_in_flight = true;
                    self.in_flight += 1;
                    sent.push((*number, call.request.clone()));
                }
            }
            if order == CallOrdering::Alone {
                break;
            }
        }
        sent
    }

    /// Records that no answer came to a call that was sent: a master may have applied it.
    pub(crate) fn unanswered(&mut self, number: u64) {
        if let Some(call) = self.pending.get_mut(&number) {
            call.may_be_applied = true;
        }
        self.unsent(number);
    }

    /// Records that no master was reached: the call keeps its number and will be sent again.
    pub(crate) fn unsent(&mut self, number: u64) {
        if let Some(call) = self
            .pending
            .get_mut(&number)
            .filter(|call| call.is_in_flight)
        {
            call.is_in_flight = false;
            self.in_flight -= 1;
        }
    }

    /// Removes an answered call. `None` if it was already removed.
    pub(crate) fn answered(&mut self, number: u64) -> Option<OpenCall> {
        let call = self.pending.remove(&number)?;
        self.in_flight -= usize::from(call.is_in_flight);
        self.accepts.remove(&number);
        Some(call)
    }

    /// Removes and returns all open calls.
    pub(crate) fn drain(&mut self) -> Vec<OpenCall> {
        self.in_flight = 0;
        self.accepts.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept() -> CallRequest {
        CallRequest::Accept(v1::AcceptRequest::default())
    }

    fn kill() -> CallRequest {
        CallRequest::Kill(v1::KillRequest::default())
    }

    fn numbers(calls: &mut OpenCalls) -> Vec<u64> {
        let id = v1::CallId::default();
        calls
            .send(&id, true, u64::MAX)
            .into_iter()
            .map(|(number, _)| number)
            .collect()
    }

    fn with(requests: impl IntoIterator<Item = CallRequest>) -> OpenCalls {
        let mut calls = OpenCalls::default();
        for (key, request) in (1..).zip(requests) {
            calls.add(CallKey(key), request);
        }
        calls
    }

    #[test]
    fn a_repeated_call_keeps_its_number_and_content() {
        let mut calls = with([accept(), accept()]);
        let id = v1::CallId::default();
        let first = calls.send(&id, true, u64::MAX);
        assert_eq!(calls.answered(1).unwrap().key, CallKey(1));
        calls.unanswered(2);
        assert_eq!(calls.send(&id, true, u64::MAX), first[1..]);
        assert!(calls.answered(1).is_none(), "an answer counts once");
    }

    #[test]
    fn a_kill_waits_for_earlier_accepts_and_delays_no_later_call() {
        let mut calls = with([accept(), kill(), accept()]);
        assert_eq!(numbers(&mut calls), [1, 3]);
        calls.answered(1);
        assert_eq!(numbers(&mut calls), [2]);
    }

    #[test]
    fn suppress_and_revive_are_ordered_with_all_other_calls() {
        let suppress = CallRequest::Suppress(v1::SuppressRequest::default());
        let mut calls = with([
            accept(),
            suppress,
            CallRequest::Revive(v1::ReviveRequest::default()),
            accept(),
        ]);
        assert_eq!(numbers(&mut calls), [1]);
        calls.answered(1);
        assert_eq!(numbers(&mut calls), [2]);
        calls.answered(2);
        assert_eq!(numbers(&mut calls), [3]);
        calls.answered(3);
        assert_eq!(numbers(&mut calls), [4]);
    }

    #[test]
    fn limit_changes_never_overtake_launches_or_other_limit_changes() {
        let limits = || CallRequest::UpdateLimits(v1::UpdateLimitsRequest::default());
        let mut calls = with([accept(), limits(), limits()]);
        for number in 1..=3 {
            assert_eq!(numbers(&mut calls), [number]);
            calls.answered(number);
        }
    }

    #[test]
    fn the_lowest_unanswered_number_rises_with_the_answers() {
        let mut calls = with([accept(), accept()]);
        numbers(&mut calls);
        calls.answered(1);
        calls.add(CallKey(3), accept());
        let sent = calls.send(&v1::CallId::default(), true, u64::MAX);
        let CallRequest::Accept(third) = &sent[0].1 else {
            panic!("not an accept");
        };
        let id = third.call.as_ref().unwrap();
        assert_eq!((id.number, id.lowest_unanswered), (3, 2));
    }

    #[test]
    fn no_more_calls_than_the_limit_are_in_flight() {
        let mut calls = with((0..1_000).map(|_| accept()));
        assert_eq!(numbers(&mut calls).len(), IN_FLIGHT);
        for number in 2..=64 {
            calls.answered(number);
        }
        let mut highest = 0;
        loop {
            let sent = numbers(&mut calls);
            let Some(last) = sent.last() else { break };
            highest = *last;
            for number in sent {
                calls.answered(number);
            }
        }
        assert_eq!(
            highest, 512,
            "call 1 is still open and the window ends there"
        );
    }
}
