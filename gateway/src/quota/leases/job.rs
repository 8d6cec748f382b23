//! The work of one counter in a transaction.

use std::sync::Arc;

use schema::PoolType;

use super::Work;
use crate::{accounts::account::Account, quota::counters::AccountCounters};

pub(crate) struct Job {
    pub account: Arc<Account>,
    pub pool_type: PoolType,
    pub work: Work,
    pub counters: Arc<AccountCounters>,
}
