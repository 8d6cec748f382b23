//! What the usage of the running period costs so far, by its lines on the invoice: one for each segment and billed usage type.

use std::collections::BTreeMap;

use clickhouse::Row;
use protocol::spend::{self, Line};
use quota_store::caps::Unleased;
use schema::{AccountId, CurrentPlan, LeaseId, Period, period::instant};
use serde::Deserialize;

use crate::{administration::Administration, error::Error, subscriptions::current};

/// The billed usage of the running period.
#[derive(Clone, Debug)]
pub struct Used {
    pub period: Period,
    /// The start of the running segment.
    pub segment: i64,
    lines: BTreeMap<LineKey, UsedLine>,
}

/// The first second of a segment, and a usage type.
type LineKey = (i64, String);

#[derive(Clone, Copy, Debug, Default)]
struct UsedLine {
    included: i64,
    unit_price_micros: i64,
    /// Recorded, without corrections, and moved here from an earlier period.
    units: i64,
    /// Of the recorded units: those without a lease, before corrections.
    unleased: i64,
}

#[derive(Row, Deserialize)]
struct Sum {
    usage_type: String,
    /// Of the segment, in Unix seconds.
    start: i64,
    units: i64,
    unleased: i64,
}

/// Reads the usage that ClickHouse has. Usage of the last second may be missing.
pub async fn read(admin: &Administration, account: AccountId, now: i64) -> Result<Used, Error> {
    let current_plan = current::plan(&admin.db, account, now).await?;
    let mut used = Used {
        period: current_plan.period,
        segment: current_plan.segment,
        lines: BTreeMap::new(),
    };
    // What nobody pays for is not billed.
    if current_plan.unbilled.is_none() {
        used.lines = prices(admin, account, &current_plan).await?;
        count(admin, account, &mut used.lines).await?;
    }
    Ok(used)
}

impl Used {
    /// In the currency's smallest unit, before discounts and tax.
    pub fn cents(&self) -> i64 {
        let lines: Vec<Line> = self.lines.values().map(|line| line.with(line.units)).collect();
        spend::cents(&lines)
    }

    /// The usage types that the running segment bills.
    pub fn usage_types(&self) -> Vec<String> {
        let running = self.lines.keys().filter(|(segment, _)| *segment == self.segment);
        running.map(|(_, usage_type)| usage_type.clone()).collect()
    }

    /// The units that no lease paid for.
    pub fn unleased(&self) -> Vec<Unleased> {
        let unleased = self.lines.iter().map(|((segment, usage_type), line)| Unleased {
            segment: *segment,
            usage_type: usage_type.clone(),
            line: line.with(line.unleased),
        });
        unleased.collect()
    }
}

impl UsedLine {
    fn with(&self, units: i64) -> Line {
        Line {
            units,
            included: self.included,
            unit_price_micros: self.unit_price_micros,
        }
    }
}

/// The lines of the period, with what was moved to them. The running segment may not be stored yet: then the plan says what it costs.
async fn prices(
    admin: &Administration,
    account: AccountId,
    current_plan: &CurrentPlan,
) -> Result<BTreeMap<LineKey, UsedLine>, Error> {
    let rows = sqlx::query!(
        r#"select p.period_start, s.usage_type, s.included_units as "included!", s.unit_price_micros as "micros!",
               coalesce(l.carried_in - l.carried_out, 0) as "carried!"
           from billing_periods p
               join segment_prices s on s.account_id = p.account_id and s.period_start = p.period_start
               left join meter_ledger l on l.account_id = s.account_id and l.period_start = s.period_start
                   and l.usage_type = s.usage_type
           where p.account_id = $1 and (p.period_start = $2 or p.quota_start = $2)
               and s.included_units is not null and s.unit_price_micros > 0"#,
        account.0,
        instant(current_plan.period.start)
    )
    .fetch_all(&admin.db)
    .await?;
    let of_plan = admin.catalogue.usage_types().iter().filter_map(|usage_type| {
        let terms = admin.catalogue.terms(current_plan, *usage_type, None);
        let unit_price_micros = admin.catalogue.terms_of(current_plan, *usage_type).unit_price_micros;
        let is_paid = terms.mode != schema::Mode::Limited && unit_price_micros > 0;
        let line = UsedLine {
            included: terms.limit,
            unit_price_micros,
            ..UsedLine::default()
        };
        is_paid.then(|| ((current_plan.segment, usage_type.name().to_owned()), line))
    });
    let stored = rows.into_iter().map(|row| {
        let line = UsedLine {
            included: row.included,
            unit_price_micros: row.micros,
            units: row.carried,
            unleased: 0,
        };
        ((row.period_start.unix_timestamp(), row.usage_type), line)
    });
    Ok(of_plan.chain(stored).collect())
}

/// Adds what is recorded. Corrections of units without a lease are in PostgreSQL, where their pools are.
async fn count(
    admin: &Administration,
    account: AccountId,
    lines: &mut BTreeMap<LineKey, UsedLine>,
) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut starts: Vec<i64> = lines.keys().map(|(segment, _)| *segment).collect();
    starts.dedup();
    let sums = admin
        .clickhouse
        .query(
            "select toString(usage_type) as usage_type, toInt64(period_start) as start, sum(cost_units) as units,
                 sumIf(cost_units, lease_id = toUUID(?) and corrects = toUUID(?)) as unleased
             from usage_events where account_id = toUUID(?) and period_start in ? group by usage_type, period_start",
        )
        .bind(LeaseId::NIL.to_string())
        .bind(LeaseId::NIL.to_string())
        .bind(account.to_string())
        .bind(&starts)
        .with_setting("select_sequential_consistency", "1")
        .fetch_all::<Sum>()
        .await
        .map_err(|error| Error::ClickHouse(error.to_string()))?;
    for sum in sums {
        if let Some(line) = lines.get_mut(&(sum.start, sum.usage_type)) {
            line.units = line.units.saturating_add(sum.units);
            line.unleased = sum.unleased;
        }
    }
    Ok(())
}
