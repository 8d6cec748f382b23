//! Closes days: once nothing can fall on a day any more, its sums are copied into `usage_daily` and compared with the rows,
//! and the day is recorded as closed. From then on sums of that day are read from the copy, and its rows may be deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clickhouse::{Client, Row};
use schema::Manifest;
use serde::Deserialize;
use time::{Date, OffsetDateTime, ext::NumericalDuration};
use tracing::info;
use uuid::Uuid;

/// `bill_day` lies at most so many days before the sealing of its range (see `usage_events`).
const LATEST_DAYS: i64 = 5;

/// A range sealed from now on may carry a time that lies so far back: an ingestor's clock that is behind, an ingestor that
/// was paused between reading its clock and writing its manifest. All it costs is that days close a day later.
const SEAL_MARGIN: time::Duration = time::Duration::DAY;

/// Days closed by one call at the most: the rest waits for the next.
const DAYS_AT_ONCE: usize = 31;

/// One statement, at the most. An attempt that ClickHouse goes on with after it is never recorded, so it counts for nothing.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// What a day comes to. Equal fingerprints: equal sums for every account, usage type and period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
struct Totals {
    fingerprint: u64,
    all_units: i64,
    all_events: u64,
}

#[derive(Row, Deserialize)]
struct Open {
    #[serde(with = "clickhouse::serde::time::date")]
    open_from: Date,
    #[serde(with = "clickhouse::serde::time::date")]
    first_row: Date,
    rows: u64,
}

/// Closes the days that can be closed, the oldest first, and returns them.
///
/// `manifests` are the entries of all shards, read for this call; a shard that has none yet has nothing pending. To be
/// called about once an hour by one ingestor; two at once do no harm, the day counts as the first has closed it. An error
/// leaves the day open, and the next call tries it again.
pub async fn close_days(
    client: &Client,
    manifests: impl IntoIterator<Item = Manifest>,
    now: OffsetDateTime,
) -> Result<Vec<Date>> {
    let limit = closable_before(now, manifests);
    let open = client
        .query(
            "select assumeNotNull((select open_from from usage_open_from)) as open_from, min(bill_day) as first_row, count() as rows
             from usage_events",
        )
        .fetch_one::<Open>();
    let open = bounded(open).await.context("reading which days are open")?;

    let days = days_to_close(&open, limit);
    for day in &days {
        close(client, *day).await.with_context(|| format!("closing {day}"))?;
    }
    check_closed(client).await?;
    Ok(days)
}

/// The first day that cannot be closed: on every day before it nothing can fall any more, neither of the ranges that are
/// sealed from now on nor of those that are sealed and not verified.
fn closable_before(now: OffsetDateTime, manifests: impl IntoIterator<Item = Manifest>) -> Date {
    manifests
        .into_iter()
        .filter_map(|manifest| manifest.pending)
        // A time that is no time cannot be compared: it holds everything open.
        .map(|pending| OffsetDateTime::from_unix_timestamp(pending.sealed_at_ms.div_euclid(1_000)))
        .map(|sealed| sealed.unwrap_or(OffsetDateTime::UNIX_EPOCH))
        .fold(now - SEAL_MARGIN, OffsetDateTime::min)
        .date()
        .saturating_sub(LATEST_DAYS.days())
}

/// The days from the first open one, or from the first that has rows, up to `limit`. Days without rows are closed too: the
/// closed days have no gap.
fn days_to_close(open: &Open, limit: Date) -> Vec<Date> {
    const NONE_CLOSED: Date = time::macros::date!(1970 - 01 - 02);
    let first = match (open.open_from, open.rows) {
        (NONE_CLOSED, 0) => return Vec::new(),
        (NONE_CLOSED, _) => open.first_row,
        (open_from, _) => open_from,
    };
    std::iter::successors(Some(first), |day| day.next_day())
        .take_while(|day| *day < limit)
        .take(DAYS_AT_ONCE)
        .collect()
}

async fn close(client: &Client, day: Date) -> Result<()> {
    // The attempt: what an earlier one has copied, or one beside us copies, counts for nothing unless it is recorded.
    let attempt = Uuid::now_v7();
    let date = day.to_string();
    let copy = client
        .query(
            "insert into usage_daily (bill_day, close_id, account_id, usage_type, period_start, cost_units, events)
             select bill_day, toUUID(?), account_id, usage_type, period_start, sum(cost_units), count()
             from usage_events where bill_day = toDate(?)
             group by account_id, usage_type, period_start, bill_day",
        )
        .bind(attempt.to_string())
        .bind(&date);
    bounded(copy.execute()).await.context("copying the sums")?;

    let copied = client
        .query(
            "select sum(cityHash64(account_id, usage_type, period_start, cost_units, events)) as fingerprint,
                 sum(cost_units) as all_units, sum(events) as all_events
             from usage_daily where bill_day = toDate(?) and close_id = toUUID(?)",
        )
        .bind(&date)
        .bind(attempt.to_string())
        .fetch_one::<Totals>();
    let copied = bounded(copied).await.context("summing the copy")?;

    // Of the rows themselves: the projection was copied, and is checked with it. The partitions that the day can be in.
    let rows = client
        .query(
            "select sum(cityHash64(account_id, usage_type, period_start, units, rows)) as fingerprint,
                 sum(units) as all_units, sum(rows) as all_events
             from
             (
                 select account_id, usage_type, period_start, sum(cost_units) as units, count() as rows
                 from usage_events
                 where bill_day = toDate(?) and toDate(ingested_at) between toDate(?) and toDate(?) + ?
                 group by account_id, usage_type, period_start
             )",
        )
        .bind(&date)
        .bind(&date)
        .bind(&date)
        .bind(LATEST_DAYS)
        .with_setting("optimize_use_projections", "0")
        .fetch_one::<Totals>();
    let rows = bounded(rows).await.context("summing the rows")?;
    ensure!(
        copied == rows,
        "the copied sums differ from the rows: {copied:?}, not {rows:?}"
    );

    let record = client
        .query(
            "insert into usage_closed_days (bill_day, close_id, cost_units, events, closed_at)
             select toDate(?), toUUID(?), toInt64(?), toUInt64(?), now64(6)",
        )
        .bind(&date)
        .bind(attempt.to_string())
        .bind(rows.all_units)
        .bind(rows.all_events);
    bounded(record.execute()).await.context("recording the day")?;
    info!(day = %date, events = rows.all_events, cost_units = rows.all_units, "closed a day");
    Ok(())
}

/// Rows of closed days only ever become fewer. More of them: an ingestor's clock is behind by more than the margin, and
/// what it stored is in no sum.
async fn check_closed(client: &Client) -> Result<()> {
    let late = client
        .query(
            "select toString(bill_day) as day
             from (select bill_day, count() as rows from usage_events group by bill_day) as stored
             join
             (
                 select bill_day, argMin(events, (closed_at, close_id)) as events
                 from usage_closed_days group by bill_day
             ) as closed using bill_day
             where rows > events order by day limit 10",
        )
        .fetch_all::<String>();
    let late = bounded(late).await.context("comparing closed days with their rows")?;
    ensure!(
        late.is_empty(),
        "rows have come to days that are closed, and are in no sum: {late:?}; is an ingestor's clock behind?"
    );
    Ok(())
}

async fn bounded<T>(statement: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(STATEMENT_TIMEOUT, statement).await;
    Ok(answer.with_context(|| format!("no answer from ClickHouse in {STATEMENT_TIMEOUT:?}"))??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::manifest::Pending;
    use time::macros::{date, datetime};

    fn pending(sealed: OffsetDateTime) -> Manifest {
        Manifest {
            pending: Some(Pending {
                first: 1,
                last: 9,
                rows: 9,
                checksum: 0,
                dropped: Vec::new(),
                sealed_at_ms: schema::clock::unix_ms(sealed),
            }),
            ..Manifest::default()
        }
    }

    #[test]
    fn a_day_closes_when_no_range_can_reach_it_any_more() {
        let now = datetime!(2026-11-23 12:00 UTC);
        assert_eq!(closable_before(now, []), date!(2026 - 11 - 17));
        assert_eq!(closable_before(now, [Manifest::default()]), date!(2026 - 11 - 17));
        // A range sealed at `day` may hold rows of five days before.
        assert_eq!(closable_before(now, [pending(now)]), date!(2026 - 11 - 17));
        let old = pending(datetime!(2026-11-03 23:59:59.999 UTC));
        assert_eq!(closable_before(now, [pending(now), old]), date!(2026 - 10 - 29));
        assert_eq!(
            closable_before(now, [pending(datetime!(1970-01-01 0:00 UTC))]),
            date!(1969 - 12 - 27)
        );
    }

    #[test]
    fn a_sealing_time_out_of_all_range_holds_everything_open() {
        let mut manifest = pending(OffsetDateTime::UNIX_EPOCH);
        manifest.pending.as_mut().unwrap().sealed_at_ms = i64::MAX;
        let limit = closable_before(datetime!(2026-11-23 12:00 UTC), [manifest]);
        assert!(limit < date!(1970 - 01 - 01), "{limit}");
    }

    #[test]
    fn days_close_in_order_without_a_gap_and_a_bounded_number_at_once() {
        let open = |open_from, first_row, rows| Open {
            open_from,
            first_row,
            rows,
        };
        let (none, limit) = (date!(1970 - 01 - 02), date!(2026 - 11 - 17));
        assert_eq!(days_to_close(&open(none, date!(1970 - 01 - 01), 0), limit), []);
        let first = days_to_close(&open(none, date!(2026 - 11 - 15), 7), limit);
        assert_eq!(first, [date!(2026 - 11 - 15), date!(2026 - 11 - 16)]);
        // After a first close, days without rows count too, and rows that were deleted do not bring a day back.
        assert_eq!(
            days_to_close(&open(date!(2026 - 11 - 16), date!(1970 - 01 - 01), 0), limit).len(),
            1
        );
        assert_eq!(days_to_close(&open(limit, date!(2026 - 10 - 01), 7), limit), []);
        assert_eq!(
            days_to_close(&open(date!(2026 - 01 - 01), none, 0), limit).len(),
            DAYS_AT_ONCE
        );
    }
}
