//! The rates of calls: a token bucket for each account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::server::call_rate::TokenBucket;
use argosy_state::access::{AccessFacts, GroupName, Policy, RateLimit, Subject};
use argosy_state::persistent::Map;

use super::account::Account;

/// The limits of a cluster by subject, and the default limit.
#[derive(Debug, Clone)]
pub(super) struct RateLimits {
    /// The limits that operators have set.
    configured: Map<Subject, RateLimit>,
    /// The limits of groups, the lowest first.
    of_groups: Vec<(RateLimit, GroupName)>,
    /// The members of groups.
    policy: Arc<Policy>,
    /// The limit of an account without one; `None`: there is none.
    default: Option<RateLimit>,
}

impl RateLimits {
    pub(super) fn new(facts: &AccessFacts, default: Option<RateLimit>) -> Self {
        let of_groups = facts.limits.iter().filter_map(|(subject, limit)| {
            let Subject::Group(name) = subject else {
                return None;
            };
            Some((*limit, name.clone()))
        });
        let mut of_groups: Vec<_> = of_groups.collect();
        of_groups.sort_by_key(|(limit, _)| (limit.calls_per_second, limit.burst));
        Self {
            configured: facts.limits.clone(),
            of_groups,
            policy: Arc::clone(&facts.policy),
            default,
        }
    }

    /// Returns whether these are the limits of other facts.
    pub(super) fn differ_from(&self, facts: &AccessFacts) -> bool {
        !Arc::ptr_eq(&self.policy, &facts.policy) || self.configured != facts.limits
    }

    /// Returns the limit of an account: that of its principal, else the lowest of its groups, else
    /// that of its kind or of callers without an identity, else of all callers, else the default.
    fn of(&self, account: &Account) -> Option<RateLimit> {
        if self.configured.is_empty() {
            return self.default;
        }
        let of = |subject: &Subject| self.configured.get(subject).copied();
        let (own, kind) = match account {
            Account::Principal(principal) => (
                of(&Subject::Principal(principal.clone())),
                Subject::Kind(principal.kind),
            ),
            Account::Address(_) | Account::Unknown | Account::Others => (None, Subject::Anonymous),
        };
        own.or_else(|| self.of_groups(account))
            .or_else(|| of(&kind))
            .or_else(|| of(&Subject::Everyone))
            .or(self.default)
    }

    fn of_groups(&self, account: &Account) -> Option<RateLimit> {
        let actor = account.actor();
        let mut groups = self.of_groups.iter();
        let lowest = groups.find(|(_, name)| self.policy.is_member(name, &actor));
        lowest.map(|(limit, _)| *limit)
    }
}

/// The buckets of all accounts. A full bucket needs no record.
#[derive(Debug)]
pub(super) struct CallRates {
    limits: RateLimits,
    buckets: BTreeMap<Account, TokenBucket>,
    /// The time at which buckets without a record were empty; `None`: they are full.
    empty_at: Option<u64>,
    /// The time of the last search for full buckets.
    swept_at: u64,
    max_accounts: usize,
}

/// The maximum number of accounts that are distinguished.
pub(super) const MAX_ACCOUNTS: usize = 16_384;
/// The minimum interval of searches for full buckets, in nanoseconds.
const SWEEP_INTERVAL: u64 = 1_000_000_000;

impl CallRates {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self {
            limits,
            buckets: BTreeMap::new(),
            empty_at: None,
            swept_at: 0,
            max_accounts: MAX_ACCOUNTS,
        }
    }

    pub(super) fn limits(&self) -> &RateLimits {
        &self.limits
    }

    /// Replaces the limits. Accounts keep what is left in their buckets, up to their new bursts.
    pub(super) fn set_limits(&mut self, limits: RateLimits) {
        self.limits = limits;
    }

    /// Empties all buckets, also those of accounts that call later: from now on each account has
    /// its rate, and its burst only once it has accumulated again. `now` is in nanoseconds.
    pub(super) fn empty(&mut self, now: u64) {
        self.buckets.clear();
        self.empty_at = Some(now);
    }

    /// Takes one call of an account.
    ///
    /// # Errors
    /// The time after which its next call is admitted.
    pub(super) fn take(&mut self, account: &Account, now: u64) -> Result<(), Duration> {
        let Some(rate) = self.limits.of(account) else {
            return Ok(());
        };
        let account = match self.buckets.contains_key(account) || self.has_room(now) {
            true => account,
            false => &Account::Others,
        };
        let first = match self.empty_at {
            Some(at) => TokenBucket::empty(at),
            None => TokenBucket::full(rate, now),
        };
        let bucket = match self.buckets.get_mut(account) {
            Some(bucket) => bucket,
            None => self.buckets.entry(account.clone()).or_insert(first),
        };
        bucket.take(rate, now).map_err(Duration::from_nanos)
    }

    /// Returns whether there may be a bucket of another account.
    fn has_room(&mut self, now: u64) -> bool {
        if self.buckets.len() < self.max_accounts {
            return true;
        }
        if now.saturating_sub(self.swept_at) >= SWEEP_INTERVAL {
            self.swept_at = now;
            let limits = &self.limits;
            self.buckets.retain(|account, bucket| {
                limits
                    .of(account)
                    .is_some_and(|rate| !bucket.is_full(rate, now))
            });
        }
        self.buckets.len() < self.max_accounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TEN: RateLimit = RateLimit {
        calls_per_second: 10,
        burst: 30,
    };

    fn principal(text: &str) -> Account {
        Account::Principal(text.parse().unwrap())
    }

    fn facts(configured: &[(Subject, u32)]) -> AccessFacts {
        let mut facts = AccessFacts::default();
        for (subject, calls_per_second) in configured {
            let limit = RateLimit {
                calls_per_second: *calls_per_second,
                burst: 1,
            };
            facts.limits.insert(subject.clone(), limit);
        }
        facts
    }

    fn limits(configured: &[(Subject, u32)]) -> RateLimits {
        RateLimits::new(&facts(configured), None)
    }

    fn only(rate: RateLimit) -> CallRates {
        CallRates::new(RateLimits::new(&AccessFacts::default(), Some(rate)))
    }

    fn admitted(rates: &mut CallRates, account: &Account, now: u64) -> u32 {
        let calls = std::iter::repeat_with(|| rates.take(account, now));
        calls.take(1_000).filter(Result::is_ok).count() as u32
    }

    #[test]
    fn the_nearest_limit_applies() {
        let web = "framework/web".parse().unwrap();
        let all = limits(&[
            (Subject::Principal(web), 1),
            (
                Subject::Kind(argosy_state::actor::PrincipalKind::Framework),
                2,
            ),
            (Subject::Anonymous, 3),
            (Subject::Everyone, 4),
        ]);
        let rate = |account: &Account| all.of(account).unwrap().calls_per_second;
        assert_eq!(rate(&principal("framework/web")), 1);
        assert_eq!(rate(&principal("framework/db")), 2);
        assert_eq!(rate(&Account::Unknown), 3);
        assert_eq!(rate(&principal("operator/alice")), 4);
        assert_eq!(limits(&[]).of(&Account::Unknown), None);
    }

    #[test]
    fn the_lowest_limit_of_the_groups_of_a_principal_applies() {
        let group = |name: &str| format!("group:{name}").parse().unwrap();
        let mut facts = facts(&[
            (group("batch"), 5),
            (group("ops"), 9),
            (group("others"), 1),
            (Subject::Everyone, 50),
        ]);
        let (web, db) = ("framework/web", "framework/db");
        let members = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        facts.policy = Arc::new(Policy {
            rules: Vec::new(),
            groups: [
                ("batch".parse().unwrap(), members(&[web])),
                ("ops".parse().unwrap(), members(&[web, "operator/alice"])),
            ]
            .into(),
        });
        let all = RateLimits::new(&facts, None);
        let rate = |account: &str| all.of(&principal(account)).unwrap().calls_per_second;
        assert_eq!((rate(web), rate("operator/alice"), rate(db)), (5, 9, 50));
    }

    #[test]
    fn an_account_costs_no_other_one_anything() {
        let mut rates = only(TEN);
        let (one, other) = (principal("framework/a"), principal("framework/b"));
        assert_eq!(admitted(&mut rates, &one, 0), 30);
        assert_eq!(rates.take(&one, 0), Err(Duration::from_millis(100)));
        assert_eq!(admitted(&mut rates, &other, 0), 30);
        assert_eq!(admitted(&mut rates, &one, SECOND), 10);
    }

    #[test]
    fn emptied_buckets_grant_no_burst() {
        let mut rates = only(TEN);
        let (known, unknown) = (principal("framework/a"), principal("framework/b"));
        assert_eq!(rates.take(&known, 0), Ok(()));
        rates.empty(SECOND);
        for account in [&known, &unknown] {
            assert_eq!(admitted(&mut rates, account, SECOND), 0);
            assert_eq!(admitted(&mut rates, account, SECOND * 3 / 2), 5);
        }
        // An account that calls later has accumulated as much as a known one.
        let later = principal("framework/c");
        assert_eq!(admitted(&mut rates, &later, 3 * SECOND), 20);
    }

    #[test]
    fn accounts_beyond_the_bound_share_one() {
        let mut rates = only(TEN);
        rates.max_accounts = 2;
        for name in ["framework/a", "framework/b"] {
            assert_eq!(admitted(&mut rates, &principal(name), SECOND), 30);
        }
        let (third, fourth) = (principal("framework/c"), principal("framework/d"));
        assert_eq!(admitted(&mut rates, &third, SECOND), 30);
        assert_eq!(admitted(&mut rates, &fourth, SECOND), 0);
        assert_eq!(rates.buckets.len(), 3);
        // Full buckets are removed when another account needs room.
        assert_eq!(admitted(&mut rates, &fourth, 10 * SECOND), 30);
        assert_eq!(rates.buckets.len(), 1);
    }

    #[test]
    fn a_new_limit_applies_to_the_next_call() {
        let mut rates = only(TEN);
        let one = principal("framework/a");
        assert_eq!(admitted(&mut rates, &one, 0), 30);
        let changed = facts(&[(Subject::Everyone, 500)]);
        assert!(rates.limits().differ_from(&changed));
        rates.set_limits(RateLimits::new(&changed, None));
        assert!(!rates.limits().differ_from(&changed));
        assert_eq!(admitted(&mut rates, &one, 0), 0);
        assert_eq!(admitted(&mut rates, &one, SECOND / 500), 1);
    }
}
