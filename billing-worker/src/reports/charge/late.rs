//! Late usage and corrections to bill, as PostgreSQL has them. Claims end by the database's clock, like those of reports.

use protocol::reports::{money::Price, period::BilledBy, report::CLAIM};
use schema::{AccountId, period::instant};
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::reports::Reporter;

/// The most items that one step makes for a page of accounts.
const ITEMS_MAX: i64 = 100;
pub(super) struct Late {
    pub(super) id: Uuid,
    pub(super) account: AccountId,
    pub(super) usage_type: String,
    pub(super) from_period: i64,
    pub(super) period_end: i64,
    /// The end of the period whose invoice bills it.
    pub(super) bills_at: i64,
    pub(super) customer: String,
    pub(super) subscription: String,
    pub(super) units: i64,
    /// The metered price in Stripe that bills its usage type.
    pub(super) price: Option<String>,
    /// Of usage that no invoice of the subscription bills: what units cost, and in which currency.
    pub(super) rate: Option<(Price, String)>,
    pub(super) billed_by: BilledBy,
    pub(super) attempts: i32,
    pub(super) first_sent_at: Option<i64>,
    /// The item, once it exists.
    pub(super) item: Option<Charged>,
    /// No subscription will produce another invoice.
    pub(super) is_over: bool,
    /// Usage of a trial.
    pub(super) is_trial: bool,
    /// It waits for a next period: it is only priced.
    pub(super) waits: bool,
}

impl Late {
    /// Its item needs an invoice of its own: none of a subscription will have it, or only in a year.
    pub(super) fn is_invoiced_apart(&self) -> bool {
        self.is_over || self.billed_by == BilledBy::Charge
    }
}

#[derive(Clone)]
pub(super) enum Charged {
    Item {
        id: String,
        amount: i64,
        currency: String,
    },
    /// What units cost that still wait for a next period.
    Worth {
        amount: i64,
        currency: String,
    },
    /// Returned to the customer.
    Credit {
        notes: Vec<String>,
        amount: i64,
        currency: String,
        /// Why it is less than the units cost.
        short: Option<&'static str>,
    },
    /// It cannot be credited before the invoice that bills it is final.
    NotYet {
        why: &'static str,
    },
    Nothing {
        why: &'static str,
    },
}

pub(super) async fn claim(reporter: &Reporter, accounts: &[AccountId], now: i64) -> sqlx::Result<Vec<Late>> {
    let rows = sqlx::query!(
        r#"with claimed as (
               select c.id from meter_carries c
               where c.settled_at is null and (c.policy <> 'next_period' or c.amount is null) and c.account_id = any($1)
                   and (c.claimed_until is null or c.claimed_until <= now()) and c.next_attempt_at <= $2
               order by c.id limit $3 for update skip locked
           )
           update meter_carries c set claimed_until = now() + $4::bigint * interval '1 second'
           from claimed
               join meter_carries late on late.id = claimed.id
               join billing_periods p on p.account_id = late.account_id and p.period_start = late.from_period
           where c.id = claimed.id
           returning c.id, c.account_id, c.usage_type, c.from_period, c.units, c.customer_id, c.attempts, c.first_sent_at,
               p.period_end, coalesce(p.bills_at, p.period_end) as "bills_at!", p.stripe_subscription_id, p.billed_by,
               case when p.plan_id is not null or p.prices is not null then coalesce(
                   (select s.price_id from segment_prices s where s.account_id = c.account_id
                       and s.period_start = c.from_period and s.usage_type = c.usage_type), p.prices ->> c.usage_type) else
                   (select i.price_id from subscription_items i join subscriptions s on s.id = i.subscription_id
                    where s.stripe_subscription_id = p.stripe_subscription_id and i.usage_type = c.usage_type
                    limit 1) end as price_id,
               (select jsonb_build_array(s.included_units, s.unit_price_micros, s.currency) from segment_prices s
                where p.billed_by = 'charge' and s.account_id = c.account_id and s.period_start = c.from_period
                    and s.usage_type = c.usage_type and s.included_units is not null and s.unit_price_micros is not null
                    and s.currency is not null) as "rate: Json<(i64, i64, String)>",
               c.invoice_item_id, c.amount, c.currency, c.policy = 'next_period' as "waits!",
               exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
                   and p.period_end <= s.trial_ends_at) as "is_trial!",
               not exists (select from subscriptions s where s.account_id = c.account_id and s.is_current
                   and s.stripe_subscription_id is not null) as "is_over!""#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now),
        ITEMS_MAX,
        CLAIM
    )
    .fetch_all(&reporter.db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Late {
            id: row.id,
            account: AccountId(row.account_id),
            usage_type: row.usage_type,
            from_period: row.from_period.unix_timestamp(),
            period_end: row.period_end.unix_timestamp(),
            bills_at: row.bills_at.unix_timestamp(),
            customer: row.customer_id,
            subscription: row.stripe_subscription_id,
            units: row.units,
            price: row.price_id,
            rate: row.rate.map(|Json((included, unit_price_micros, currency))| {
                let price = Price {
                    included,
                    unit_price_micros,
                };
                (price, currency)
            }),
            billed_by: BilledBy::from_stored(&row.billed_by),
            attempts: row.attempts,
            first_sent_at: row.first_sent_at.map(OffsetDateTime::unix_timestamp),
            item: row.invoice_item_id.map(|id| Charged::Item {
                id,
                amount: row.amount.unwrap_or(0),
                currency: row.currency.unwrap_or_default(),
            }),
            is_over: row.is_over,
            is_trial: row.is_trial,
            waits: row.waits,
        })
        .collect())
}

/// The units of the line that were reported, charged or credited before: there the price of the carry begins. Each carry that is
/// billed apart has a place of its own behind the others, and keeps it. So all of them together cost what all units cost. One
/// that only waits has no place yet.
pub(super) async fn before(reporter: &Reporter, late: &Late) -> sqlx::Result<i64> {
    let mut tx = reporter.db.begin().await?;
    let line = (late.account.0, instant(late.from_period));
    // Two carries of a line do not get the same place.
    let reported = sqlx::query_scalar!(
        "select reported_units from meter_ledger where account_id = $1 and period_start = $2 and usage_type = $3 for update",
        line.0,
        line.1,
        late.usage_type
    )
    .fetch_one(&mut *tx)
    .await?;
    let earlier = sqlx::query_scalar!(
        r#"select coalesce(sum(units), 0)::bigint as "units!" from meter_carries
           where account_id = $1 and from_period = $2 and usage_type = $3 and policy <> 'next_period' and id <> $4
               and (units_before is not null or settled_at is not null)"#,
        line.0,
        line.1,
        late.usage_type,
        late.id
    )
    .fetch_one(&mut *tx)
    .await?;
    let before = reported.saturating_add(earlier);
    if late.waits {
        return Ok(before);
    }
    let before = sqlx::query_scalar!(
        r#"update meter_carries set units_before = coalesce(units_before, $2) where id = $1 returning units_before as "before!""#,
        late.id,
        before
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(before)
}

/// The charges for late usage of the same line, latest first: the carry and the invoice item.
pub(super) async fn charges(db: &PgPool, late: &Late) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"select id, invoice_item_id as "item!" from meter_carries
           where account_id = $1 and from_period = $2 and usage_type = $3 and units > 0 and invoice_item_id is not null
           order by id desc"#,
        late.account.0,
        instant(late.from_period),
        late.usage_type
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id.to_string(), row.item)).collect())
}
