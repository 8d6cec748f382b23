//! An account in the gateway: its rows, and the plan that they give at a moment.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use protocol::doubt::Doubt;
use schema::{
    AccountId, Burst, Catalogue, CurrentPlan, PoolType, SpendCap, Terms, UsageType,
    subscription::{Entitlement, Subscription},
};
use time::OffsetDateTime;

use super::spend::Spend;

/// One account; shared by all its cached keys.
pub struct Account {
    pub id: AccountId,
    catalogue: Arc<Catalogue>,
    state: ArcSwap<AccountState>,
    /// Plans of earlier states. Requests that were admitted without a lease keep theirs until they are recorded.
    earlier: Mutex<Vec<Weak<CurrentPlan>>>,
    /// Of the rows. In doubt, none of its keys is served.
    pub(super) doubt: Doubt,
    /// How many announcements had been heard before its rows were read for the first time.
    pub(super) read_after: u64,
}

/// An account's rows, from which its current plan is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub suspended: bool,
    pub subscription: Option<Subscription>,
    /// When the subscription's row last changed. PostgreSQL uses it to detect a plan that was computed from an older row.
    pub subscription_changed: Option<OffsetDateTime>,
    /// The page on which the invoice that the account owes can be paid.
    pub owed_invoice_url: Option<String>,
    /// Limits agreed with this account, indexed by [`UsageType::index`].
    pub overrides: Box<[Option<i64>]>,
    pub spend_cap: Option<SpendCap>,
}

/// The state that is valid until `current_plan.valid_until`.
pub(crate) struct AccountState {
    pub facts: Facts,
    pub current_plan: Arc<CurrentPlan>,
    terms: Box<[Terms]>,
    /// `None`: the account has no spend cap.
    spend: Option<Spend>,
    burst: Option<Burst>,
    /// When it was computed.
    at_s: i64,
}

impl Account {
    /// `read_after`: how many announcements had been heard before `facts` were read.
    pub fn new(id: AccountId, facts: Facts, catalogue: &Arc<Catalogue>, now_s: i64, read_after: u64) -> Self {
        Self {
            id,
            state: ArcSwap::from_pointee(AccountState::at(facts, catalogue, now_s)),
            catalogue: Arc::clone(catalogue),
            earlier: Mutex::default(),
            doubt: Doubt::new(),
            read_after,
        }
    }

    /// The plan at `now` (Unix seconds). It is computed again only when it has expired or a change was announced.
    pub fn current_plan(&self, now: i64) -> Arc<CurrentPlan> {
        Arc::clone(&self.state(now).current_plan)
    }

    /// How quickly each key of the account may send requests.
    pub(crate) fn burst(&self, now_s: i64) -> Option<Burst> {
        self.state(now_s).burst
    }

    /// The state does not follow small steps back in time: once a request has opened a new period, a request that read the clock
    /// just before the period's end uses the new period, too. The state goes back only when a clock that was ahead is corrected.
    pub(crate) fn state(&self, now_s: i64) -> Guard<Arc<AccountState>> {
        /// The longest time between two readings of the clock.
        const AHEAD_MAX_S: i64 = 60;
        let holds = |state: &AccountState| {
            now_s < state.current_plan.valid_until && now_s >= state.at_s.saturating_sub(AHEAD_MAX_S)
        };
        let state = self.state.load();
        if holds(&state) {
            return state;
        }
        // First, so that no plan is missed in between.
        self.replaces(&state);
        self.state.rcu(|state| {
            if holds(state) {
                Arc::clone(state)
            } else {
                Arc::new(AccountState::at(state.facts.clone(), &self.catalogue, now_s))
            }
        });
        self.state.load()
    }

    /// Keeps track of requests that were admitted in this state, until they are recorded.
    fn replaces(&self, old: &AccountState) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|plan| plan.strong_count() > 0);
        earlier.push(Arc::downgrade(&old.current_plan));
    }

    /// Whether the account has this revision of its spend cap, and everything that was admitted before is recorded.
    pub(crate) fn knows_cap(&self, revision: i64) -> bool {
        let cap = self.state.load().facts.spend_cap;
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|plan| plan.strong_count() > 0);
        cap.is_some_and(|cap| cap.revision == revision) && earlier.is_empty()
    }

    /// Takes over rows from PostgreSQL, and returns the pools whose limit, mode, plan, period, entitlement or cap changed. The
    /// caller closes their counters afterwards, so that no lease of the old state is kept.
    pub(crate) fn apply(&self, facts: Facts, now_s: i64) -> Vec<PoolType> {
        let old = self.state.load_full();
        if old.facts == facts {
            return Vec::new();
        }
        let new = Arc::new(AccountState::at(facts, &self.catalogue, now_s));
        self.replaces(&old);
        // A request may have computed another state meanwhile.
        self.replaces(&self.state.swap(Arc::clone(&new)));
        let differs = |usage_type: &UsageType| {
            let seen = |state: &AccountState| {
                (
                    state.current_plan.period,
                    state.current_plan.entitlement,
                    state.terms(*usage_type),
                )
            };
            seen(&old) != seen(&new) || old.current_plan.name != new.current_plan.name
        };
        let usage_types = self.catalogue.usage_types();
        let limited = usage_types.iter().filter(|usage_type| differs(usage_type));
        let billed = usage_types.iter().filter(|_| old.spend != new.spend);
        let limited = limited.copied().map(PoolType::Limited);
        limited.chain(billed.copied().map(PoolType::Billed)).collect()
    }

    /// In the catalogue's order.
    pub(crate) fn usage_types(&self) -> &[UsageType] {
        self.catalogue.usage_types()
    }

    pub(crate) fn usage_type(&self, name: &str) -> Option<UsageType> {
        self.catalogue.usage_type(name)
    }
}

impl AccountState {
    /// Whether an operator suspended the account. A payment does not end this.
    pub(crate) fn is_suspended(&self) -> bool {
        self.facts.suspended
    }

    /// The page on which the invoice that the account owes can be paid.
    pub(crate) fn owed_invoice_url(&self) -> Option<&str> {
        self.facts.owed_invoice_url.as_deref()
    }

    fn at(facts: Facts, catalogue: &Catalogue, now_s: i64) -> Self {
        let mut current_plan = CurrentPlan::at(facts.subscription.as_ref(), now_s);
        if facts.suspended {
            current_plan.entitlement = Entitlement::PaymentRequired;
        }
        let terms = |usage_type: &UsageType| {
            let agreed = facts.overrides.get(usage_type.index()).copied().flatten();
            catalogue.terms(&current_plan, *usage_type, agreed)
        };
        let terms: Box<[Terms]> = catalogue.usage_types().iter().map(terms).collect();
        Self {
            spend: facts
                .spend_cap
                .map(|cap| Spend::of(cap, catalogue, &current_plan, &terms)),
            burst: catalogue.burst(&current_plan),
            current_plan: Arc::new(current_plan),
            facts,
            terms,
            at_s: now_s,
        }
    }

    pub(crate) fn terms(&self, usage_type: UsageType) -> Terms {
        self.terms[usage_type.index()]
    }

    /// The cap that limits the usage type. `None`: none does.
    pub(crate) fn spend(&self, usage_type: UsageType) -> Option<&Spend> {
        self.spend.as_ref().filter(|spend| spend.rate(usage_type).is_some())
    }
}

#[cfg(test)]
mod tests {
    use schema::{Currency, Period, SubscriptionId, subscription::SubscriptionStatus};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn free() -> Facts {
        Facts {
            suspended: false,
            subscription: None,
            subscription_changed: None,
            owed_invoice_url: None,
            overrides: vec![None; 3].into(),
            spend_cap: None,
        }
    }

    fn pro() -> Facts {
        let period = Period::anchored_month(NOW - 100, NOW);
        Facts {
            subscription: Some(Subscription {
                id: SubscriptionId::new(),
                plan: "pro".into(),
                version: None,
                status: SubscriptionStatus::Active,
                period,
                segment_start: None,
                anchor: NOW - 100,
                ends_at: None,
                then_plan: None,
                then_version: None,
                grace_until: None,
                paid_until: None,
                in_stripe: true,
                currency: Some(Currency::USD),
            }),
            ..free()
        }
    }

    fn account(facts: Facts) -> (Account, [UsageType; 3]) {
        let catalogue = Arc::new(Catalogue::built_in());
        let types = catalogue.usage_types().try_into().unwrap();
        (Account::new(AccountId::new(), facts, &catalogue, NOW, 0), types)
    }

    #[test]
    fn a_current_plan_that_ran_out_is_computed_again_and_goes_back_only_with_the_clock() {
        let (account, _) = account(pro());
        let first = account.current_plan(NOW);
        assert!(Arc::ptr_eq(&first, &account.current_plan(first.valid_until - 1)));
        let second = account.current_plan(first.valid_until);
        assert_eq!(second.period.start, first.period.end);
        assert!(Arc::ptr_eq(&second, &account.current_plan(first.valid_until - 1)));
        // The clock was ahead and has been corrected.
        let right = account.current_plan(NOW);
        assert_eq!(right.period, first.period);
        assert!(Arc::ptr_eq(&right, &account.current_plan(NOW + 1)));
    }

    #[test]
    fn the_same_facts_change_nothing() {
        let facts = pro();
        let (account, _) = account(facts.clone());
        let current_plan = account.current_plan(NOW);
        assert!(account.apply(facts, NOW + 50).is_empty());
        assert!(Arc::ptr_eq(&current_plan, &account.current_plan(NOW)));
    }

    #[test]
    fn an_override_changes_its_usage_type_alone() {
        let (account, [call, export, _]) = account(free());
        let overridden = Facts {
            overrides: [None, Some(7), None].into(),
            ..free()
        };
        assert_eq!(account.apply(overridden, NOW), [PoolType::Limited(export)]);
        assert_eq!(account.state(NOW).terms(export).limit, 7);
        assert_eq!(account.state(NOW).terms(call).limit, 100);
    }

    #[test]
    fn a_plan_a_suspension_and_a_status_change_every_usage_type() {
        let (account, usage_types) = account(free());
        let types = usage_types.map(PoolType::Limited);
        let pro = pro();
        assert_eq!(account.apply(pro.clone(), NOW), types);
        assert_eq!(account.state(NOW).terms(usage_types[0]).limit, 10_000);
        let suspended = Facts {
            suspended: true,
            ..pro.clone()
        };
        assert_eq!(account.apply(suspended, NOW), types);
        assert_eq!(account.current_plan(NOW).entitlement, Entitlement::PaymentRequired);
        assert_eq!(account.apply(pro.clone(), NOW), types);
        let mut unpaid = pro;
        let subscription = unpaid.subscription.as_mut().unwrap();
        (subscription.status, subscription.grace_until) = (SubscriptionStatus::Unpaid, Some(NOW));
        assert_eq!(account.apply(unpaid, NOW), types);
        assert_eq!(account.current_plan(NOW).entitlement, Entitlement::PaymentRequired);
    }

    #[test]
    fn a_cap_is_known_once_everything_that_was_admitted_before_is_recorded() {
        let (account, usage_types) = account(pro());
        let admitted = account.current_plan(NOW);
        let capped = |revision| Facts {
            spend_cap: Some(SpendCap { cents: 500, revision }),
            ..account.state(NOW).facts.clone()
        };
        assert!(!account.knows_cap(1));
        assert_eq!(account.apply(capped(1), NOW), usage_types.map(PoolType::Billed));
        assert!(!account.knows_cap(1), "a request is not recorded yet");
        assert_eq!(account.apply(capped(2), NOW).len(), 3);
        drop(admitted);
        assert!(account.knows_cap(2) && !account.knows_cap(1));
        // The built-in plans bill no usage.
        assert_eq!(account.state(NOW).spend(usage_types[0]), None);
    }
}
