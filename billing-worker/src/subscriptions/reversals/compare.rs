//! Finds credit notes, refunds and disputes that no event reported.

use std::collections::{BTreeMap, HashMap};

use schema::{AccountId, period::instant};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use super::{
    copy, customer,
    reversal::{Named, ReversalKind},
};
use crate::{
    accounts::customers,
    error::Error,
    stripe::{Raw, Stripe, StripeError},
    subscriptions::{billing::Billing, invoices::READ_MAX, refresh},
};

/// Those that Stripe made in this time. Disputes that are not decided are read whenever they were made.
const LOOK_BACK_S: i64 = 35 * 86_400;
/// Pages of a hundred of one kind.
const PAGES_MAX: usize = 100;
/// Disputes and refunds without an outcome.
const UNDECIDED_MAX: i64 = 1_000;

/// What lists of Stripe show of each.
#[derive(Deserialize)]
struct Seen {
    id: String,
    status: Option<String>,
}

/// Copies what is missing or has changed. Returns how many these were. One that cannot be copied does not stop the others.
pub async fn compare(billing: &Billing) -> Result<usize, Error> {
    let stripe = billing.stripe()?;
    let since = billing.clock.now_s() - LOOK_BACK_S;
    let mut missed: Vec<Named> = Vec::new();
    for kind in [ReversalKind::CreditNote, ReversalKind::Refund, ReversalKind::Dispute] {
        let seen = seen(stripe, kind, since).await?;
        let known = known(billing, &seen).await?;
        let is_missed = |one: &Seen| known.get(&one.id).is_none_or(|status| *status != one.status);
        missed.extend(seen.into_iter().filter(is_missed).map(|one| Named { kind, id: one.id }));
    }
    missed.extend(undecided(billing, since).await?);
    let mut by_account: BTreeMap<AccountId, Vec<Named>> = BTreeMap::new();
    for one in missed {
        let Some(customer) = customer(billing, std::slice::from_ref(&one)).await? else {
            continue;
        };
        // Customers of others have no account here.
        if let Some(account) = customers::account_of(&billing.admin.db, &customer, stripe.is_live()).await? {
            by_account.entry(account).or_default().push(one);
        }
    }
    let mut copied = 0;
    for (account, missed) in by_account {
        match copy_missed(billing, account, &missed).await {
            Ok(()) => {
                copied += missed.len();
                warn!(account.id = %account, ids = ?missed.iter().map(|one| &one.id).collect::<Vec<_>>(), "copied what no event had reported");
            }
            Err(failure) => warn!(account.id = %account, "could not copy a credit note, refund or dispute: {failure}"),
        }
    }
    Ok(copied)
}

/// Their invoices have changed too.
async fn copy_missed(billing: &Billing, account: AccountId, missed: &[Named]) -> Result<(), Error> {
    let mut invoices = copy(billing, account, missed).await?;
    invoices.sort_unstable();
    invoices.dedup();
    let billing = &billing.of(account);
    for invoices in invoices.chunks(READ_MAX) {
        refresh::refresh_with(billing, account, invoices).await?;
    }
    Ok(())
}

async fn seen(stripe: &Stripe, kind: ReversalKind, since: i64) -> Result<Vec<Seen>, StripeError> {
    let path = match kind {
        ReversalKind::CreditNote => "/credit_notes",
        ReversalKind::Refund => "/refunds",
        ReversalKind::Dispute => "/disputes",
    };
    let page = |after: Option<String>| {
        let mut query = json!({ "limit": 100, "created": { "gte": since } });
        if let Some(after) = after {
            query["starting_after"] = after.into();
        }
        Raw::get(path, query)
    };
    stripe.pages(PAGES_MAX, page, |seen: &Seen| &seen.id).await
}

/// The status of those that are here. A credit note of an earlier version lacks its subtotal: it is copied again.
async fn known(billing: &Billing, seen: &[Seen]) -> Result<HashMap<String, Option<String>>, Error> {
    let ids: Vec<_> = seen.iter().map(|one| one.id.clone()).collect();
    let rows = sqlx::query!(
        "select id, status from stripe_reversals where id = any($1) and (kind <> 'credit_note' or subtotal is not null)",
        &ids
    )
    .fetch_all(&billing.admin.db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, Some(row.status))).collect())
}

async fn undecided(billing: &Billing, before: i64) -> Result<Vec<Named>, Error> {
    let rows = sqlx::query!(
        "select id, kind from stripe_reversals
         where livemode = $1 and created_at < $2 and (kind = 'refund' and status in ('pending', 'requires_action')
             or kind = 'dispute' and status not in ('won', 'lost', 'warning_closed', 'prevented'))
         order by fetched_at limit $3",
        billing.stripe()?.is_live(),
        instant(before),
        UNDECIDED_MAX
    )
    .fetch_all(&billing.admin.db)
    .await?;
    let named = rows.into_iter().filter_map(|row| {
        let kind = ReversalKind::from_stored(&row.kind)?;
        Some(Named { kind, id: row.id })
    });
    Ok(named.collect())
}
