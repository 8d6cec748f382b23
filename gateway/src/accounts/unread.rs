//! Keys and accounts whose announced changes wait to be read.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use schema::{AccountId, KeyId};
use tokio::sync::Notify;

/// The row that an announcement names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Key(KeyId),
    Account(AccountId),
}

/// Each row is in it once. Rows that a request waits for come first, because an announcement can name all accounts.
#[derive(Debug, Default)]
pub(super) struct Unread {
    rows: Mutex<Rows>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Rows {
    wanted: BTreeSet<Row>,
    others: BTreeSet<Row>,
}

impl Unread {
    pub(super) fn note(&self, rows: impl IntoIterator<Item = Row>) {
        self.rows().others.extend(rows);
        self.noted.notify_one();
    }

    /// A request waits for these.
    pub(super) fn want(&self, rows: impl IntoIterator<Item = Row>) {
        self.rows().wanted.extend(rows);
        self.noted.notify_one();
    }

    /// Takes up to `max` rows. Waits until there is one.
    pub(super) async fn take(&self, max: usize) -> Vec<Row> {
        loop {
            let taken = self.rows().take(max);
            if !taken.is_empty() {
                return taken;
            }
            self.noted.notified().await;
        }
    }

    pub(super) fn len(&self) -> i64 {
        let rows = self.rows();
        i64::try_from(rows.wanted.union(&rows.others).count()).unwrap_or(i64::MAX)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn take(&mut self, max: usize) -> Vec<Row> {
        let first = std::iter::from_fn(|| self.wanted.pop_first());
        let mut taken: Vec<Row> = first.take(max).collect();
        for row in &taken {
            self.others.remove(row);
        }
        let rest = std::iter::from_fn(|| self.others.pop_first());
        let room = max.saturating_sub(taken.len());
        taken.extend(rest.take(room));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn account(n: u128) -> Row {
        Row::Account(AccountId(Uuid::from_u128(n)))
    }

    #[tokio::test]
    async fn rows_that_requests_wait_for_come_first_and_each_comes_once() {
        let unread = Unread::default();
        unread.note((0..5).map(account));
        unread.want([account(3)]);
        assert_eq!(unread.take(2).await, [account(3), account(0)]);
        unread.note([account(1)]);
        assert_eq!(unread.take(9).await, [account(1), account(2), account(4)]);
    }
}
