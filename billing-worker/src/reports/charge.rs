//! Late usage as invoice items, and corrections of billed usage as credit notes. An item is on the customer's next invoice, or on
//! one of its own if none follows. Units that still wait for a next period are only priced, so that it is known how much money is
//! open. The usage of subscriptions that are paid per year is charged in the same way, a month at a time, on invoices of its own.
//!
//! It guarantees one charge or credit for each carry. An attempt is in the database before it is made, under a key of its own.
//! After an attempt with an unknown outcome, its result is looked for in Stripe before the next attempt.

mod credit;
mod item;
mod late;
mod settle;

use std::time::Instant;

use anyhow::{Context, Result};
use protocol::reports::{money, period::BilledBy};
use schema::AccountId;
use stripe_product::price::RetrievePrice;

use self::{
    late::{Charged, Late, before, claim},
    settle::{begin, postpone, priced, settle, wait},
};
use super::{Reporter, tiers};
use crate::stripe::StripeError;

/// Bills the waiting carries of a page of accounts; returns how many were settled.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], now: i64) -> Result<u64> {
    let (mut settled, began) = (0, Instant::now());
    // Billing them one after the other takes a while.
    let at = || now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
    let mut apart = Vec::new();
    for late in claim(reporter, accounts, now).await.context("claiming late usage")? {
        let charged = match &late.item {
            Some(made) => Ok(Some(made.clone())),
            None => make(&reporter.of(late.account), &late, at()).await,
        };
        match charged {
            Ok(Some(Charged::Item { id, amount, currency })) if late.is_invoiced_apart() => {
                apart.push((late, (id, amount, currency)));
            }
            charged => settled += conclude(reporter, &late, charged, at()).await?,
        }
    }
    // After all items are made: the first invoice of a customer has all of them.
    for (late, (id, amount, currency)) in apart {
        let invoiced = item::invoice(&reporter.of(late.account), &late, &id).await;
        let charged = invoiced.map(|()| Some(Charged::Item { id, amount, currency }));
        settled += conclude(reporter, &late, charged, at()).await?;
    }
    Ok(settled)
}

/// Stores what became of a carry; returns how many carries that settled. A [`StripeError`] concerns this carry only, and postpones
/// it. `None`: another worker has it.
async fn conclude(reporter: &Reporter, late: &Late, charged: Result<Option<Charged>>, now: i64) -> Result<u64> {
    match charged {
        Ok(Some(worth)) if late.waits => priced(reporter, late, worth).await.context("pricing late usage")?,
        // Our claim ended before this carry was reached, and another worker has it.
        Ok(None) => {}
        Ok(Some(Charged::NotYet { why })) => wait(reporter, late, why, now).await.context("postponing a credit")?,
        Ok(Some(charged)) => {
            settle(reporter, late, charged, now)
                .await
                .context("storing an invoice item")?;
            return Ok(1);
        }
        // Any other failure is the database's.
        Err(failure) => postpone(reporter, late, failure.downcast::<StripeError>()?, now)
            .await
            .context("postponing an invoice item")?,
    }
    Ok(0)
}

/// Makes the item and stores its id, or gives the credit.
async fn make(reporter: &Reporter, late: &Late, now: i64) -> Result<Option<Charged>> {
    let nothing = |why| Ok(Some(Charged::Nothing { why }));
    if late.is_trial {
        return nothing("usage of a trial is free");
    }
    let rate = match (&late.rate, &late.price) {
        (Some((price, currency)), _) => Rate::Ours(*price, currency.clone()),
        (None, Some(price)) if late.billed_by == BilledBy::Invoice => {
            let retrieve = RetrievePrice::new(price.as_str()).expand(vec!["tiers".to_owned()]);
            Rate::Stripe(reporter.stripe.read(&retrieve).await?)
        }
        (None, _) => return nothing("the plan has no metered price for it"),
    };
    let before = before(reporter, late)
        .await
        .context("finding the place of late usage")?;
    let Some(amount) = rate.difference(before, late.units) else {
        return nothing("its price is neither per unit nor graduated: bill it manually");
    };
    let currency = rate.into_currency();
    if amount == 0 {
        return nothing("it costs nothing by the price's tiers");
    }
    if late.waits {
        return Ok(Some(Charged::Worth { amount, currency }));
    }
    if late.units < 0 {
        return credit::give(reporter, late, amount, currency, now).await;
    }
    let found = match late.first_sent_at {
        Some(first) => item::find(reporter, late, first).await?,
        None => None,
    };
    let id = match found {
        Some(id) => id,
        None if !begin(reporter, late, amount, &currency, now).await? => return Ok(None),
        None => item::create(reporter, late, amount, &currency).await?,
    };
    sqlx::query!(
        "update meter_carries set invoice_item_id = $2 where id = $1",
        late.id,
        id
    )
    .execute(&reporter.db)
    .await
    .context("storing an invoice item")?;
    Ok(Some(Charged::Item { id, amount, currency }))
}

/// What units cost.
enum Rate {
    /// By the account's version of the plan.
    Ours(money::Price, String),
    /// By a metered price in Stripe.
    Stripe(tiers::Price),
}

impl Rate {
    fn difference(&self, before: i64, units: i64) -> Option<i64> {
        match self {
            Self::Ours(price, _) => Some(price.difference(before, units)),
            Self::Stripe(price) => price.difference(before, units),
        }
    }

    fn into_currency(self) -> String {
        match self {
            Self::Ours(_, currency) => currency,
            Self::Stripe(price) => price.currency,
        }
    }
}
