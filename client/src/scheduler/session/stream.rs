//! The stream of events: opened, resumed, read, lost.

use std::collections::BTreeSet;

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_state::capability::FrameworkCapability;

use super::{Effect, Notification, Session, local};
use crate::failure::MasterRejection;
use crate::leader::next_random;
use crate::scheduler::{CallOutcome, SchedulerError, Subscription, is_terminal};

/// Maximum pause between two attempts to subscribe or to acknowledge, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 1_000;

/// Returns the pause after this number of consecutive failures, in milliseconds.
pub(super) fn pause_ms(failures: u32) -> u64 {
    match failures {
        0 => 0,
        failures => (10_u64 << failures.min(10)).min(LONGEST_PAUSE_MS),
    }
}

/// Returns the scheduler's description of its framework, with the capabilities that this SDK
/// implements.
pub(super) fn announcing(info: &v1::FrameworkInfo) -> v1::FrameworkInfo {
    let mut info = info.clone();
    let heartbeats = FrameworkCapability::Heartbeats.name();
    if !info.capabilities.iter().any(|name| name == heartbeats) {
        info.capabilities.push(heartbeats.to_owned());
    }
    info
}

impl Session {
    pub(super) fn subscribe(&mut self, now_ms: u64) {
        self.link += 1;
        self.is_subscribed = false;
        // Includes the offers of an unanswered accept, so that no other framework is offered them
        // in the meantime.
        let (held, left_out) = self.offers.present(self.calls.used_offers());
        for offer_id in left_out {
            self.notify(Notification::Rescinded {
                offer_id,
                reason: "too many offers were held to present them all again".into(),
            });
        }
        // A change that is not answered is announced, or the subscription would undo it. If that is
        // refused, so was the change.
        let open = self.calls.newest_info();
        let open = open.filter(|_| !self.open_info_refused);
        self.announced_open_info = open.is_some();
        let info = open.unwrap_or(&self.identity.info);
        let request = v1::SubscribeRequest {
            protocol: Some(VersionRange::OWN.first_message()),
            info: Some(announcing(info)),
            framework_id: self.identity.framework_id.clone().unwrap_or_default(),
            session: self.identity.session,
            held,
            filters: self.offers.filters(now_ms),
            cluster_id: self.cluster_id.clone(),
            replaces: Some(self.replaces),
        };
        // The first attempt is immediate; the backoff protects a master that accepts streams and
        // drops them.
        let pause_ms = pause_ms(self.failures);
        let jitter = next_random(&mut self.identity.seed) % (pause_ms / 2 + 1);
        self.failures += 1;
        self.effects.push(Effect::Subscribe {
            link: self.link,
            after_ms: pause_ms / 2 + jitter,
            request,
        });
    }

    pub(super) fn closed(&mut self, now_ms: u64, why: String) {
        if self.is_subscribed {
            self.notify(Notification::Disconnected(why));
        }
        self.subscribe(now_ms);
    }

    /// Returns whether a refused subscription is to be repeated: it announced a change of the
    /// description that the masters may refuse. The call itself is answered later.
    fn may_announce_confirmed(&mut self) -> bool {
        let repeats = self.was_registered && self.announced_open_info;
        self.open_info_refused |= repeats;
        repeats
    }

    pub(super) fn handle_rejection(&mut self, now_ms: u64, refusal: MasterRejection) {
        use tonic::Code;
        match refusal.code {
            Code::ResourceExhausted | Code::Aborted | Code::Internal | Code::Unknown
                // The same subscription would be as large again.
                if refusal.reason != "message-too-large" =>
            {
                self.closed(now_ms, refusal.message);
            }
            _ => {
                let error = match refusal.reason.as_str() {
                    "superseded" => SchedulerError::Superseded(refusal.message),
                    "framework-removed" | "unknown-framework" => {
                        SchedulerError::Removed(refusal.message)
                    }
                    _ if self.may_announce_confirmed() => {
                        return self.closed(now_ms, refusal.message);
                    }
                    _ => SchedulerError::Refused(refusal),
                };
                self.end_or_torn_down(error);
            }
        }
    }

    /// Ends the run; a requested removal is no error.
    fn end_or_torn_down(&mut self, error: SchedulerError) {
        let is_removed = matches!(error, SchedulerError::Removed(_));
        let teardowns = match is_removed {
            true => self.calls.take_teardowns(),
            false => Vec::new(),
        };
        let is_wanted = !teardowns.is_empty();
        for call in teardowns {
            // The stream reported it before the answer came.
            self.answer(
                call.key,
                Vec::new(),
                CallOutcome::Done {
                    revision: v1::Revision::default(),
                    refused: Vec::new(),
                },
            );
        }
        self.end(if is_wanted { Ok(()) } else { Err(error) });
    }

    pub(super) fn event(&mut self, now_ms: u64, event: v1::event::Event) {
        use v1::event::Event;
        match event {
            Event::Subscribed(subscribed) => self.subscribed(subscribed),
            Event::Offers(offers) => {
                let used = self.used_ids();
                let new = self.offers.receive(offers.offers, &used);
                if !new.is_empty() {
                    self.notify(Notification::Offers(new));
                }
            }
            Event::Rescind(rescind) => {
                if self.offers.rescind(&rescind.offer_id) {
                    self.notify(Notification::Rescinded {
                        offer_id: rescind.offer_id,
                        reason: rescind.reason,
                    });
                }
            }
            Event::Update(status) => {
                if self.updates.receive(&status, is_terminal(status.state())) {
                    self.notify(Notification::Update(status));
                }
            }
            Event::Failure(failure) => self.notify(Notification::AgentLost {
                agent_id: failure.agent_id,
                reason: failure.reason,
            }),
            Event::DemandUnmet(demand) => self.notify(Notification::DemandUnmet(demand)),
            Event::Message(message) => self.notify(Notification::Message(message)),
            Event::Heartbeat(_) => {}
            Event::Error(error) if error.code == "session-present" && !self.was_registered => {
                // The stream ends now, and the next subscription names the session. The first one
                // follows at once.
                if self.replaces != error.session {
                    self.failures = 0;
                }
                self.replaces = error.session;
            }
            Event::Error(error) => {
                let error = match error.code.as_str() {
                    // Its own session was committed, and is not the present one.
                    "superseded" | "session-present" => SchedulerError::Superseded(error.message),
                    "removed" => SchedulerError::Removed(error.message),
                    _ if self.may_announce_confirmed() => {
                        return self.closed(now_ms, error.message);
                    }
                    _ => SchedulerError::Refused(local(&error.code, error.message)),
                };
                self.end_or_torn_down(error);
            }
        }
    }

    fn subscribed(&mut self, subscribed: v1::Subscribed) {
        let protocol = subscribed.protocol.as_ref();
        let agreed = protocol.map(|output| VersionRange::OWN.negotiate("the master", output));
        if let Some(Err(why)) = agreed {
            let refusal = MasterRejection::of_versions(&why);
            return self.end(Err(SchedulerError::Refused(refusal)));
        }
        self.is_subscribed = true;
        self.open_info_refused = false;
        self.failures = 0;
        self.identity.framework_id = Some(subscribed.framework_id.clone());
        self.cluster_id = subscribed.cluster_id.clone();
        let kept: BTreeSet<&str> = subscribed.kept_offers.iter().map(String::as_str).collect();
        for offer_id in self.offers.keep_only(&kept) {
            self.notify(Notification::Rescinded {
                offer_id,
                reason: "it was not good any more when the stream was resumed".into(),
            });
        }
        let subscription = Subscription {
            framework_id: subscribed.framework_id,
            cluster_id: subscribed.cluster_id,
            epoch: subscribed.epoch,
            leader_address: subscribed.leader_address,
            kept_offers: subscribed.kept_offers,
        };
        if self.was_registered {
            self.notify(Notification::Reconnected(subscription));
        } else {
            self.was_registered = true;
            self.notify(Notification::Registered(subscription));
        }
    }

    fn used_ids(&self) -> BTreeSet<String> {
        let offers = self
            .calls
            .used_offers()
            .filter_map(|held| held.offer.as_ref());
        offers.map(|offer| offer.offer_id.clone()).collect()
    }
}
