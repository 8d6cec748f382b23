//! Thaws frozen periods for which events arrived later: a correction that an operator made weeks later, or usage that was stuck in
//! a gateway. They are counted and carried, and freeze again.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};
use clickhouse::Row;
use protocol::reports::identifier::LineId;
use schema::period::instant;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;
use uuid::Uuid;

use super::{Reporter, count};

/// How far back late events are looked for. After a longer absence `reconcile --recount` finds them.
const LOOK_BACK: i64 = 3 * 24 * 3_600;
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum number of periods per step; the next step finds the others.
const PERIODS_MAX: usize = 500;

#[derive(Row, Deserialize)]
struct Late {
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    /// Unix seconds.
    start: i64,
}

/// Returns how many periods were thawed.
pub async fn step(reporter: &Reporter, now: i64) -> Result<u64> {
    let late = late(reporter, now).await.context("looking for late events")?;
    let (accounts, starts): (Vec<_>, Vec<_>) = late.iter().map(|late| (late.account_id, instant(late.start))).unzip();
    let frozen = sqlx::query!(
        r#"select l.account_id, l.period_start, l.usage_type, l.frozen_units as "frozen_units!"
           from unnest($1::uuid[], $2::timestamptz[]) as p (account_id, period_start)
               join meter_ledger l on l.account_id = p.account_id and l.period_start = p.period_start
           where l.frozen_units is not null"#,
        &accounts,
        &starts
    )
    .fetch_all(&reporter.db)
    .await
    .context("reading frozen periods")?;
    // Lines without units are left out on both sides.
    let mut kept: HashMap<count::AccountPeriod, HashMap<LineId, i64>> = HashMap::new();
    for row in frozen {
        let id = LineId::of_row(row.account_id, row.period_start, row.usage_type);
        let lines = kept.entry((id.account, id.start)).or_default();
        if row.frozen_units != 0 {
            lines.insert(id, row.frozen_units);
        }
    }
    let kept: HashMap<_, _> = kept.into_iter().take(PERIODS_MAX).collect();
    let periods: Vec<_> = kept.keys().copied().collect();
    let mut counted: HashMap<count::AccountPeriod, HashMap<LineId, i64>> = HashMap::new();
    for (id, units) in count::sums(&reporter.clickhouse, &periods).await? {
        if units != 0 {
            counted.entry((id.account, id.start)).or_default().insert(id, units);
        }
    }
    let mut thawed = 0;
    for (period, lines) in kept {
        if counted.remove(&period).unwrap_or_default() != lines {
            thaw(reporter, period).await.context("thawing a period")?;
            thawed += 1;
        }
    }
    Ok(thawed)
}

/// Periods with events that were stored recently but happened so long ago that the period may be frozen. `ingested_at` prunes
/// all parts but the latest.
async fn late(reporter: &Reporter, now: i64) -> Result<Vec<Late>> {
    let margin = i64::try_from(reporter.settings.freeze_after.as_secs()).unwrap_or(0);
    let query = format!(
        "select account_id, toInt64(period_start) as start from usage_events
         where ingested_at >= toDateTime64({}, 3, 'UTC') and ts < toDateTime64({}, 3, 'UTC')
         group by account_id, period_start",
        now - LOOK_BACK,
        now - margin / 2
    );
    let rows = reporter.clickhouse.query_raw(&query).fetch_all::<Late>();
    Ok(timeout(PATIENCE, rows)
        .await
        .with_context(|| format!("no answer from ClickHouse within {PATIENCE:?}"))??)
}

async fn thaw(reporter: &Reporter, (account, start): count::AccountPeriod) -> sqlx::Result<()> {
    sqlx::query!(
        "with period as (
             update billing_periods set frozen_at = null where account_id = $1 and period_start = $2
         )
         update meter_ledger set frozen_units = null where account_id = $1 and period_start = $2",
        account.0,
        instant(start)
    )
    .execute(&reporter.db)
    .await?;
    warn!(account.id = %account, period.start = %instant(start), "events arrived after the period was frozen: it is counted again");
    Ok(())
}
