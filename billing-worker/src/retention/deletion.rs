//! The statements of retention. Each partition (a month of `ingested_at`) is deleted from by one mutation. A deleted row is first
//! masked; it leaves the disk in the next merge, or when a fifth of its partition is masked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clickhouse::{Client, Row};
use serde::Deserialize;
use time::{Date, OffsetDateTime};
use tracing::info;
use uuid::Uuid;

/// For one statement. If ClickHouse continues a mutation after the time-out, it still deletes only the right rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Maximum number of partitions per call: each is read and its projections are rewritten (17 M rows: 3.5 s).
const PARTITIONS_AT_ONCE: usize = 24;

/// Maximum number of different `keep_from` in one statement. There is about one per plan.
const DAYS_IN_A_STATEMENT: usize = 32;

/// The result of a deletion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deleted {
    pub rows: u64,
    pub more: bool,
}

#[derive(Row, Deserialize)]
struct PartitionRows {
    partition: String,
    rows: u64,
}

/// Fingerprints of the sums of all accounts, read in the same way as other readers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
struct Sums {
    /// For days whose rows may be deleted. Equal fingerprints mean equal sums for every account, usage type, period and day.
    fingerprint: u64,
    closed_units: i64,
    closed_events: u64,
    /// For the other days, where events arrive meanwhile.
    open_events: u64,
}

/// How long the rows of a day stay after it was closed. A query that began while the day was open still finds them.
/// Several hours, because the clocks of two machines are compared.
const SETTLING: time::Duration = time::Duration::hours(6);

/// Returns the first day whose rows must stay; `None`: all days.
pub(super) async fn closed_before(clickhouse: &Client, now: OffsetDateTime) -> Result<Option<Date>> {
    let day = clickhouse
        .query(
            "select toString(max(bill_day) + 1) from usage_closed_days
             where closed_at < fromUnixTimestamp64Milli(toInt64(?)) having count() > 0",
        )
        .bind(schema::clock::unix_ms(now - SETTLING))
        .fetch_optional::<String>();
    let day = bounded(day).await.context("reading the closed days")?;
    day.map(|day| parse(&day)).transpose()
}

/// Deletes rows of days before `closed_before` according to this push.
pub(super) async fn delete(clickhouse: &Client, push: Uuid, closed_before: Date) -> Result<Deleted> {
    let before = sums(clickhouse, closed_before).await?;
    let days = clickhouse
        .query(
            "select distinct toString(keep_from) as day from account_retention where push_id = toUUID(?) order by day",
        )
        .bind(push.to_string())
        .fetch_all::<String>();
    let days = bounded(days).await.context("reading the pushed retention")?;
    let days = days.iter().map(|day| parse(day)).collect::<Result<Vec<_>>>()?;

    let mut deleted = Deleted::default();
    let mut partitions_left = PARTITIONS_AT_ONCE;
    for days in days.chunks(DAYS_IN_A_STATEMENT) {
        let condition = condition(push, days, closed_before);
        let partitions = clickhouse
            .query_raw(&format!(
                "select _partition_id as partition, count() as rows from usage_events
                 where {condition} group by partition order by partition"
            ))
            .fetch_all::<PartitionRows>();
        let partitions = bounded(partitions).await.context("counting the rows to delete")?;
        for PartitionRows { partition, rows } in partitions {
            if partitions_left == 0 {
                deleted.more = true;
                break;
            }
            partitions_left -= 1;
            let delete = clickhouse
                .query_raw(&format!(
                    "delete from usage_events in partition id '{partition}' where {condition}"
                ))
                .with_setting("lightweight_deletes_sync", "2")
                // On replicas: the condition reads a push that never changes, so all replicas delete the same rows.
                .with_setting("allow_nondeterministic_mutations", "1");
            bounded(delete.execute())
                .await
                .with_context(|| format!("deleting from partition {partition}"))?;
            deleted.rows += rows;
            info!(partition, rows, "deleted rows whose retention is over");
        }
    }

    let after = sums(clickhouse, closed_before).await?;
    ensure!(
        read_the_same(&before, &after),
        "sums changed while rows were deleted: before {before:?}, after {after:?}"
    );
    free_disk(clickhouse).await?;
    Ok(deleted)
}

/// Both days of a row must be before `keep_from`: the day of the request, and the first day of its period. A gateway whose clock
/// is fast may stamp a period before it begins.
fn condition(push: Uuid, days: &[Date], closed_before: Date) -> String {
    let terms: Vec<_> = days
        .iter()
        .map(|day| {
            format!(
                "(bill_day < toDate('{day}') and period_start < toDateTime('{day} 00:00:00', 'UTC') and account_id in \
                 (select account_id from account_retention where push_id = toUUID('{push}') and keep_from = toDate('{day}')))"
            )
        })
        .collect();
    // A row is sealed at most 5 days after its bill_day, so later partitions need not be read.
    format!(
        "bill_day < toDate('{closed_before}') and toDate(ingested_at) < toDate('{closed_before}') + 5 and ({})",
        terms.join(" or ")
    )
}

async fn sums(clickhouse: &Client, closed_before: Date) -> Result<Sums> {
    let sums = clickhouse
        .query(
            "with toDate(?) as closed_before
             select sumIf(cityHash64(account_id, usage_type, period_start, bill_day, cost_units, events),
                     bill_day < closed_before) as fingerprint,
                 sumIf(cost_units, bill_day < closed_before) as closed_units,
                 sumIf(events, bill_day < closed_before) as closed_events,
                 sumIf(events, bill_day >= closed_before) as open_events
             from usage",
        )
        .bind(closed_before.to_string())
        .fetch_one::<Sums>();
    bounded(sums).await.context("summing usage")
}

fn read_the_same(before: &Sums, after: &Sums) -> bool {
    after.open_events >= before.open_events
        && Sums {
            open_events: before.open_events,
            ..*after
        } == *before
}

/// Rewrites partitions in which at least a fifth of the rows is masked.
async fn free_disk(clickhouse: &Client) -> Result<()> {
    let partitions = clickhouse
        .query(
            "select partition_id as partition, toUInt64(physical - visible) as rows
             from
             (
                 select partition_id, toInt64(sum(rows)) as physical, max(has_lightweight_delete) as masked
                 from system.parts
                 where active and database = currentDatabase() and table = 'usage_events' group by partition_id
             ) as parts
             left join
             (
                 select _partition_id as partition_id, toInt64(count()) as visible
                 from usage_events group by partition_id
             ) as stored using partition_id
             where masked > 0 and visible * 5 <= physical * 4 order by partition limit ?",
        )
        .bind(PARTITIONS_AT_ONCE as u64)
        .fetch_all::<PartitionRows>();
    for PartitionRows { partition, rows } in bounded(partitions).await.context("reading masked rows")? {
        let apply = format!("alter table usage_events apply deleted mask in partition id '{partition}'");
        let apply = clickhouse.query_raw(&apply).with_setting("mutations_sync", "2");
        bounded(apply.execute())
            .await
            .with_context(|| format!("rewriting partition {partition}"))?;
        info!(partition, rows, "freed the disk of deleted rows");
    }
    Ok(())
}

fn parse(day: &str) -> Result<Date> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    Date::parse(day, format).with_context(|| format!("ClickHouse returned `{day}`, which is not a valid day"))
}

async fn bounded<T>(statement: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(STATEMENT_TIMEOUT, statement).await;
    Ok(answer.with_context(|| format!("no answer from ClickHouse in {STATEMENT_TIMEOUT:?}"))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_sum_is_noticed_and_new_events_are_ignored() {
        let before = Sums {
            fingerprint: 1,
            closed_units: 10,
            closed_events: 5,
            open_events: 3,
        };
        let arrived = Sums {
            open_events: 9,
            ..before
        };
        assert!(read_the_same(&before, &before) && read_the_same(&before, &arrived));
        assert!(!read_the_same(&arrived, &before), "rows of an open day went");
        assert!(!read_the_same(
            &before,
            &Sums {
                fingerprint: 2,
                ..arrived
            }
        ));
        assert!(!read_the_same(
            &before,
            &Sums {
                closed_events: 4,
                ..before
            }
        ));
    }
}
