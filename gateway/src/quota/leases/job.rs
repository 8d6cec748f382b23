//! The work of one counter in a transaction.

use std::sync::Arc;

use schema::UsageType;

use super::Work;
use crate::{accounts::account::Account, quota::counters::AccountCounters};

pub(crate) struct Job {
    pub account: Arc<Account>,
    pub usage_type: UsageType,
    pub work: Work,
    pub counters: Arc<AccountCounters>,
}
