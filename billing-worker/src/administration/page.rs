//! Pagination: a client passes `next` of a page as `after` to get the next page.

use problem::json::Integer;
use schema::AccountId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Maximum number of entries of a page.
pub type PageLimit = Integer<1, 1_000>;

pub const LIMIT_MAX: PageLimit = PageLimit::new(1_000).expect("1,000 is in its bounds");

const LIMIT: i64 = 100;

/// The requested page of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Maximum number of entries.
    pub limit: Option<PageLimit>,
    /// Continue after this entry.
    pub after: Option<Uuid>,
}

/// The requested page of the audit log or of the corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trail {
    /// `None`: all accounts.
    pub account: Option<AccountId>,
    pub limit: Option<PageLimit>,
    pub after: Option<Uuid>,
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// There are more entries after this one.
    pub next: Option<Uuid>,
}

impl Trail {
    pub fn page(&self) -> Page {
        Page {
            limit: self.limit,
            after: self.after,
        }
    }
}

impl Page {
    /// The number of rows to read: one more than shown, to know whether there are more.
    pub fn rows(&self) -> i64 {
        self.limit() + 1
    }

    /// Cuts the read rows down to the page.
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Listed<T> {
        let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(id);
        Listed { items, next }
    }

    fn limit(&self) -> i64 {
        self.limit.map_or(LIMIT, PageLimit::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_with_more_after_it_has_next() {
        let ids: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let page = |limit| Page {
            limit: PageLimit::new(limit),
            after: None,
        };
        for (limit, shown, next) in [(2, 2, Some(ids[1])), (3, 3, None), (4, 3, None)] {
            let rows = usize::try_from(page(limit).rows()).unwrap();
            let found = ids.iter().copied().take(rows).collect();
            let listed = page(limit).cut(found, |id| *id);
            assert_eq!((listed.items.len(), listed.next), (shown, next), "limit {limit}");
        }
    }
}
