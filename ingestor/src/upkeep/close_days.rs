//! Closes days. Once no event can fall on a day any more, its sums are copied into `usage_daily` and compared with its rows, and
//! the day is recorded as closed. From then on, sums of that day are read from the copy, and its rows may be deleted.
//!
//! The ingestor that owns the first shard does this once an hour.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use clickhouse::{Client, Row};
use schema::Manifest;
use serde::Deserialize;
use time::{Date, OffsetDateTime, ext::NumericalDuration};
use tracing::{info, warn};
use uuid::Uuid;

use crate::ingest::Ingest;

const EVERY: Duration = Duration::from_secs(3_600);

/// `bill_day` is at most this many days before the sealing of its range (see `usage_events`).
const LATEST_DAYS: i64 = 5;

/// A range sealed from now on may have a sealing time this far back: the ingestor's clock is slow, or the ingestor was paused
/// between reading its clock and writing its manifest. The only cost is that days close a day later.
const SEAL_MARGIN: time::Duration = time::Duration::DAY;

/// Maximum number of days that one call closes. The next call closes the rest.
const DAYS_AT_ONCE: usize = 31;

/// Limit for one statement. If ClickHouse continues after it, that attempt is never recorded, so it has no effect.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// The sums of a day. Equal fingerprints mean equal sums for every account, usage type and period.
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

/// Runs until the service stops.
pub async fn run(ingest: Arc<Ingest>, client: Client) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        if !ingest.owned.all().contains_key(&0) {
            continue;
        }
        let closed = tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            closed = close_now(&ingest, &client) => closed,
        };
        // The days stay open, and the next hour tries again.
        if let Err(error) = closed {
            warn!("could not close days: {error:#}");
        }
    }
}

async fn close_now(ingest: &Ingest, client: &Client) -> Result<()> {
    let mut manifests = Vec::new();
    for shard in 0..ingest.stream.shards {
        manifests.extend(ingest.manifests.read(shard).await?.0);
    }
    close_days(client, manifests, schema::clock::now()).await?;
    Ok(())
}

/// Closes the days that can be closed, oldest first, and returns them.
///
/// `manifests` are the manifests of all shards, read for this call. A shard without one has nothing pending. Two ingestors may
/// run this at the same time: the first to record a day closes it. After an error the day stays open, and the next call tries
/// again.
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

/// The first day that cannot be closed yet. No event can fall on an earlier day any more: neither from ranges that are sealed
/// from now on, nor from those that are sealed and not verified.
fn closable_before(now: OffsetDateTime, manifests: impl IntoIterator<Item = Manifest>) -> Date {
    manifests
        .into_iter()
        .filter_map(|manifest| manifest.pending)
        // An invalid time cannot be compared, so it keeps every day open.
        .map(|pending| OffsetDateTime::from_unix_timestamp(pending.sealed_at_ms.div_euclid(1_000)))
        .map(|sealed| sealed.unwrap_or(OffsetDateTime::UNIX_EPOCH))
        .fold(now - SEAL_MARGIN, OffsetDateTime::min)
        .date()
        .saturating_sub(LATEST_DAYS.days())
}

/// The days from the first open one, or from the first with rows, up to `limit`. Days without rows are closed, too, so closed
/// days have no gap.
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
    // Identifies this attempt. Copies of an earlier or a concurrent attempt have no effect unless they are recorded.
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

    // Sum the rows themselves, not the projection that was copied, so that this checks the projection, too. Read only the
    // partitions that can have the day.
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

/// Checks that no closed day got new rows. Such rows are in no sum. They mean that an ingestor's clock is slow by more than the
/// margin.
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
        "closed days got new rows, which are in no sum: {late:?}; is the clock of an ingestor slow?"
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
    fn a_day_closes_when_no_range_can_have_its_events() {
        let now = datetime!(2026-11-23 12:00 UTC);
        assert_eq!(closable_before(now, []), date!(2026 - 11 - 17));
        assert_eq!(closable_before(now, [Manifest::default()]), date!(2026 - 11 - 17));
        // A range may hold rows of up to five days before its sealing.
        assert_eq!(closable_before(now, [pending(now)]), date!(2026 - 11 - 17));
        let old = pending(datetime!(2026-11-03 23:59:59.999 UTC));
        assert_eq!(closable_before(now, [pending(now), old]), date!(2026 - 10 - 29));
        assert_eq!(
            closable_before(now, [pending(datetime!(1970-01-01 0:00 UTC))]),
            date!(1969 - 12 - 27)
        );
    }

    #[test]
    fn an_invalid_sealing_time_keeps_every_day_open() {
        let mut manifest = pending(OffsetDateTime::UNIX_EPOCH);
        manifest.pending.as_mut().unwrap().sealed_at_ms = i64::MAX;
        let limit = closable_before(datetime!(2026-11-23 12:00 UTC), [manifest]);
        assert!(limit < date!(1970 - 01 - 01), "{limit}");
    }

    #[test]
    fn days_close_in_order_without_gaps_and_in_bounded_numbers() {
        let open = |open_from, first_row, rows| Open {
            open_from,
            first_row,
            rows,
        };
        let (none, limit) = (date!(1970 - 01 - 02), date!(2026 - 11 - 17));
        assert_eq!(days_to_close(&open(none, date!(1970 - 01 - 01), 0), limit), []);
        let first = days_to_close(&open(none, date!(2026 - 11 - 15), 7), limit);
        assert_eq!(first, [date!(2026 - 11 - 15), date!(2026 - 11 - 16)]);
        // After the first close, days without rows count, too, and deleted rows do not reopen a day.
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
