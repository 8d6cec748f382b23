//! What is known of segments: their plan, their prices, and whether somebody pays for them.

use std::collections::HashMap;

use protocol::reports::money::Price;
use schema::{AccountId, period::instant};
use sqlx::PgPool;

/// By account and first second.
pub(super) type Segments = HashMap<(AccountId, i64), Segment>;

#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Start of the whole period.
    pub quota_start: i64,
    pub plan: Option<String>,
    /// Its prices are known, also that a usage type has none.
    pub has_prices: bool,
    pub is_trial: bool,
    /// Its subscription runs.
    pub is_running: bool,
    /// Price of its version of the plan, for the time that the plan was paid for. `None`: not known.
    pub price_cents: Option<i64>,
    /// The time that the plan was paid for, if the segment is a month of it.
    pub paid: Option<(i64, i64)>,
    /// All invoices of the account are copied.
    pub is_copied: bool,
}

impl Segment {
    /// The time that the plan was paid for, in Unix seconds. `ends_at`: when the invoice of the segment is made.
    pub(super) fn paid_for(&self, ends_at: i64) -> (i64, i64) {
        self.paid.unwrap_or((self.quota_start, ends_at))
    }
}

/// The price of a usage type in a segment.
#[derive(Clone, Debug)]
pub(super) struct SegmentPrice {
    pub account: AccountId,
    pub start: i64,
    pub bills_at: i64,
    pub usage_type: String,
    /// `None`: the billing worker charges the units, no price in Stripe bills them.
    pub price_id: Option<String>,
    /// `None`: this service did not make it.
    pub price: Option<Price>,
    pub currency: Option<String>,
}

pub(super) async fn read(db: &PgPool, periods: &[(AccountId, i64)]) -> sqlx::Result<Segments> {
    let (accounts, starts): (Vec<_>, Vec<_>) = periods.iter().map(|(account, at)| (account.0, instant(*at))).unzip();
    let rows = sqlx::query!(
        r#"select p.account_id, p.period_start, coalesce(p.quota_start, p.period_start) as "quota_start!", p.plan_id,
                  p.plan_id is not null or p.prices is not null as "has_prices!",
                  case p.interval_months when 1 then v.price_cents when 12 then (v.prices -> 'year' ->> 'usd')::bigint
                      end as "price_cents?",
                  p.paid_period_start, p.paid_period_end,
                  exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
                      and p.period_end <= s.trial_ends_at) as "is_trial!",
                  exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
                      and s.is_current) as "is_running!",
                  exists (select from stripe_customers c where c.account_id = p.account_id
                      and c.invoices_copied_at is not null) as "is_copied!"
           from unnest($1::uuid[], $2::timestamptz[]) as a (account_id, period_start)
               join billing_periods p on p.account_id = a.account_id and p.period_start = a.period_start
               left join plan_versions v on v.id = p.version_id"#,
        &accounts,
        &starts
    )
    .fetch_all(db)
    .await?;
    let segments = rows.into_iter().map(|row| {
        let segment = Segment {
            quota_start: row.quota_start.unix_timestamp(),
            plan: row.plan_id,
            has_prices: row.has_prices,
            is_trial: row.is_trial,
            is_running: row.is_running,
            price_cents: row.price_cents,
            paid: row
                .paid_period_start
                .zip(row.paid_period_end)
                .map(|(start, end)| (start.unix_timestamp(), end.unix_timestamp())),
            is_copied: row.is_copied,
        };
        ((AccountId(row.account_id), row.period_start.unix_timestamp()), segment)
    });
    Ok(segments.collect())
}

/// The prices of all segments of these accounts that are billed after `since`.
pub(super) async fn prices(db: &PgPool, accounts: &[AccountId], since: i64) -> sqlx::Result<Vec<SegmentPrice>> {
    let rows = sqlx::query!(
        r#"select p.account_id, p.period_start, coalesce(p.bills_at, p.period_end) as "bills_at!", s.usage_type, s.price_id,
                  s.included_units, s.unit_price_micros, s.currency
           from billing_periods p join segment_prices s on s.account_id = p.account_id and s.period_start = p.period_start
           where p.account_id = any($1) and coalesce(p.bills_at, p.period_end) > $2"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(since)
    )
    .fetch_all(db)
    .await?;
    let prices = rows.into_iter().map(|row| SegmentPrice {
        account: AccountId(row.account_id),
        start: row.period_start.unix_timestamp(),
        bills_at: row.bills_at.unix_timestamp(),
        usage_type: row.usage_type,
        price_id: row.price_id,
        price: row
            .included_units
            .zip(row.unit_price_micros)
            .map(|(included, unit_price_micros)| Price {
                included,
                unit_price_micros,
            }),
        currency: row.currency,
    });
    Ok(prices.collect())
}

/// What a whole period costs by the prices of plans, in the smallest unit of the currency. Prices of others are absent.
pub(super) async fn plan_prices(db: &PgPool, price_ids: &[String]) -> sqlx::Result<HashMap<String, i64>> {
    let rows = sqlx::query!(
        r#"select p.price_id, case p.interval_months when 12 then (v.prices -> 'year' ->> 'usd')::bigint else v.price_cents
               end as price_cents
         from plan_version_prices p join plan_versions v on v.id = p.version_id
         where p.usage_type is null and p.price_id = any($1)"#,
        price_ids
    )
    .fetch_all(db)
    .await?;
    let prices = rows.into_iter();
    Ok(prices
        .filter_map(|row| Some((row.price_id, row.price_cents?)))
        .collect())
}
