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
    /// Recorded, moved here from an earlier period, and billed apart from the period because they came late.
    units: i64,
}

#[derive(Row, Deserialize)]
struct Sum {
    usage_type: String,
    /// Of the segment, in Unix seconds.
    start: i64,
    units: i64,
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
        let starts = used.starts();
        for sum in sums(
            admin,
            "sum(cost_units) as units from usage where true",
            account,
            &starts,
        )
        .await?
        {
            if let Some(line) = used.lines.get_mut(&(sum.start, sum.usage_type)) {
                line.units = line.units.saturating_add(sum.units);
            }
        }
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

    fn starts(&self) -> Vec<i64> {
        let mut starts: Vec<i64> = self.lines.keys().map(|(segment, _)| *segment).collect();
        starts.dedup();
        starts
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
               coalesce(l.carried_in - l.carried_out, 0) + (select coalesce(sum(c.units), 0)::bigint from meter_carries c
                   where c.account_id = s.account_id and c.from_period = s.period_start and c.usage_type = s.usage_type
                       and c.to_period is null) as "carried!"
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
        let unit_price_micros = admin.catalogue.unit_price_micros(current_plan, *usage_type);
        let line = UsedLine {
            included: terms.limit,
            unit_price_micros: unit_price_micros.filter(|_| terms.mode != schema::Mode::Limited)?,
            ..UsedLine::default()
        };
        Some(((current_plan.segment, usage_type.name().to_owned()), line))
    });
    let stored = rows.into_iter().map(|row| {
        let line = UsedLine {
            included: row.included,
            unit_price_micros: row.micros,
            units: row.carried,
        };
        ((row.period_start.unix_timestamp(), row.usage_type), line)
    });
    Ok(of_plan.chain(stored).collect())
}

/// The units that were admitted without a lease. Their corrections are in PostgreSQL, which lowers the pools by them.
pub async fn unleased(admin: &Administration, account: AccountId, used: &Used) -> Result<Vec<Unleased>, Error> {
    let rows = format!(
        "sum(cost_units) as units from usage_events where lease_id = toUUID('{nil}') and corrects = toUUID('{nil}')",
        nil = LeaseId::NIL
    );
    let sums = sums(admin, &rows, account, &used.starts()).await?;
    let units = |key: &LineKey| {
        let of = sums.iter().find(|sum| (sum.start, &sum.usage_type) == (key.0, &key.1));
        of.map_or(0, |sum| sum.units)
    };
    let unleased = used.lines.iter().map(|(key, line)| Unleased {
        segment: key.0,
        usage_type: key.1.clone(),
        line: line.with(units(key)),
    });
    Ok(unleased.collect())
}

/// Sums by segment and usage type. `rows`: a sum, a table, and the first condition.
async fn sums(admin: &Administration, rows: &str, account: AccountId, starts: &[i64]) -> Result<Vec<Sum>, Error> {
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let query = format!(
        "select toString(usage_type) as usage_type, toInt64(period_start) as start, {rows}
             and account_id = toUUID(?) and period_start in ? group by usage_type, period_start"
    );
    let query = admin.clickhouse.query(&query).bind(account.to_string()).bind(starts);
    let sums = query
        .with_setting("select_sequential_consistency", "1")
        .fetch_all::<Sum>()
        .await;
    sums.map_err(|error| Error::ClickHouse(error.to_string()))
}
