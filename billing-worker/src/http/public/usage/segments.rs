//! What the usage of each segment of the running period costs so far, as the invoice of the period will bill it, and as `reconcile`
//! expects it there.

use std::collections::BTreeMap;

use protocol::reports::money::{Price, usage::owed};
use schema::{AccountId, CurrentPlan, period::instant};
use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use super::Sum;
use crate::error::Error;

/// A part of the period with one set of usage prices.
#[derive(Serialize)]
pub(super) struct Segment {
    /// `None`: no event of Stripe has told it yet.
    plan: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    end: OffsetDateTime,
    /// The usage types that the plan bills by the unit.
    usage: Vec<Billed>,
}

#[derive(Serialize)]
struct Billed {
    usage_type: String,
    /// Recorded, and moved here from an earlier period.
    units: i64,
    included: i64,
    billed_units: i64,
    unit_price_micros: i64,
    currency: String,
    /// In the currency's smallest unit, before discounts and tax.
    amount_cents: i64,
}

/// The segments of the running period, the oldest first, and what their usage costs.
pub(super) async fn read(
    db: &PgPool,
    account: AccountId,
    current_plan: &CurrentPlan,
    sums: &[Sum],
) -> Result<(Vec<Segment>, i64), Error> {
    let rows = sqlx::query!(
        r#"select p.period_start, p.period_end, p.plan_id, s.usage_type as "usage_type?", s.included_units as "included?",
               s.unit_price_micros as "micros?", s.currency as "currency?",
               coalesce(l.carried_in - l.carried_out, 0) as "carried!",
               (select coalesce(sum(c.units), 0)::bigint from meter_carries c where c.account_id = s.account_id
                   and c.from_period = s.period_start and c.usage_type = s.usage_type and c.to_period is null) as "late!"
           from billing_periods p
               left join segment_prices s on s.account_id = p.account_id and s.period_start = p.period_start
               left join meter_ledger l on l.account_id = s.account_id and l.period_start = s.period_start
                   and l.usage_type = s.usage_type
           where p.account_id = $1 and (p.period_start = $2 or p.quota_start = $2)
           order by p.period_start, s.usage_type"#,
        account.0,
        instant(current_plan.period.start)
    )
    .fetch_all(db)
    .await?;
    let (mut segments, mut total) = (BTreeMap::new(), 0);
    for row in rows {
        let start = row.period_start.unix_timestamp();
        let segment = segments.entry(start).or_insert_with(|| Segment {
            plan: row.plan_id,
            start: row.period_start,
            end: row.period_end,
            usage: Vec::new(),
        });
        let price = || {
            let price = Price {
                included: row.included?,
                unit_price_micros: row.micros?,
            };
            Some((price, row.currency?))
        };
        // What nobody pays for is not billed.
        let (Some(usage_type), Some((price, currency)), None) = (row.usage_type, price(), current_plan.unbilled) else {
            continue;
        };
        let counted = sums
            .iter()
            .find(|sum| sum.usage_type == usage_type && sum.start == start);
        let counted = counted.map_or(0, |sum| sum.cost_units);
        let units = counted + row.carried + row.late;
        let amount_cents = owed(&price, counted, row.carried, row.late);
        total += amount_cents;
        segment.usage.push(Billed {
            usage_type,
            units,
            included: price.included,
            billed_units: (units - price.included).max(0),
            unit_price_micros: price.unit_price_micros,
            currency,
            amount_cents,
        });
    }
    Ok((segments.into_values().collect(), total))
}
