//! The recalls that one request makes before it is refused.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use schema::{
    AccountId, Period, PoolType, RunId,
    recall::{Recall, RecallOutcome},
};
use tokio::time::Instant;

use super::Recalls;
use crate::quota::{
    leases::Others,
    refusals::{REMEMBERED_FOR, UNSURE_FOR},
};

/// One recall is enough, unless another gateway took the returned units, or a lease, during the recall.
const RECALLS_MAX: u8 = 3;

/// The recalls of one request. They may take [`Recalls::patience`] from the first one.
pub(crate) struct Attempt<'a> {
    recalls: &'a Recalls,
    deadline: Option<Instant>,
    made: u8,
    /// The last answer of each holder that answered.
    outcomes: BTreeMap<RunId, RecallOutcome>,
    /// The last recall returned units.
    brought: bool,
    asked: Vec<RunId>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(recalls: &'a Recalls) -> Self {
        Self {
            recalls,
            deadline: None,
            made: 0,
            outcomes: BTreeMap::new(),
            brought: false,
            asked: Vec::new(),
        }
    }

    /// Whether a recall may bring the units that PostgreSQL has just refused.
    pub(crate) fn is_worthwhile(&self, others: &Others) -> bool {
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() < deadline);
        let news = self.made == 0 || self.brought || others.runs.iter().any(|run| !self.asked.contains(run));
        !others.runs.is_empty() && self.made < RECALLS_MAX && in_time && news && self.recalls.is_connected()
    }

    /// `pools`: those of the period whose units make room.
    pub(crate) async fn recall(&mut self, account: AccountId, pools: &[PoolType], period: &Period, others: Others) {
        let deadline = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + self.recalls.patience);
        let recall = |pool: &PoolType| Recall {
            account_id: account,
            usage_type: pool.name(),
            period_start: period.start,
            holders: others.runs.clone(),
        };
        let recalls: Vec<_> = pools.iter().map(recall).collect();
        let asking = recalls.iter().map(|recall| self.recalls.ask(recall, deadline));
        let outcomes: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
        self.made += 1;
        self.brought = outcomes.iter().any(|(_, outcome)| *outcome == RecallOutcome::Returned);
        self.outcomes.extend(outcomes);
        self.asked.extend(others.runs);
    }

    /// How many recalls were made.
    pub(crate) fn made(&self) -> u8 {
        self.made
    }

    /// Every gateway that holds leases has answered that it holds no units.
    pub(crate) fn is_complete(&self, others: &Others) -> bool {
        let answered = |run: &RunId| {
            let outcome = self.outcomes.get(run);
            outcome.is_some_and(|outcome| *outcome != RecallOutcome::Cannot)
        };
        !others.out_of_reach && others.runs.iter().all(answered)
    }

    /// How long a refusal holds, if no units come back.
    pub(crate) fn memory(&self, others: &Others) -> Duration {
        if self.is_complete(others) && self.recalls.is_connected() {
            REMEMBERED_FOR
        } else {
            UNSURE_FOR
        }
    }
}
