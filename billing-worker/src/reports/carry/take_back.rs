//! Corrections that arrived too late for their period's invoice.

use protocol::reports::{identifier::LineId, late::Place};
use schema::period::instant;
use sqlx::{Postgres, Transaction};

use super::{Late, Part};
use crate::reports::page::Page;

/// A correction. Units that came late themselves, and wait for the invoice of a later period, are taken back from that period. The
/// others were billed: they become a credit.
pub(super) async fn take_back(
    tx: &mut Transaction<'_, Postgres>,
    page: &Page,
    late: &Late<'_>,
    now: i64,
) -> sqlx::Result<Option<Vec<Part>>> {
    let (mut units, mut parts) = (late.units, Vec::new());
    for (start, carried) in carried_out(tx, late.line).await? {
        let to = LineId {
            start,
            ..late.line.clone()
        };
        match page.is_open(&to, now) {
            Err(()) => return Ok(None),
            Ok(false) => continue,
            Ok(true) => {}
        }
        let back = units.max(-carried);
        if back < 0 {
            units -= back;
            parts.push(Part {
                units: back,
                place: Place::NextPeriod,
                to: Some(to),
            });
        }
    }
    if units < 0 {
        parts.push(Part {
            units,
            place: Place::Credit,
            to: None,
        });
    }
    Ok(Some(parts))
}

/// The units that left this line for other periods, by period, latest first.
async fn carried_out(tx: &mut Transaction<'_, Postgres>, line: &LineId) -> sqlx::Result<Vec<(i64, i64)>> {
    let rows = sqlx::query!(
        r#"select to_period as "to_period!", sum(units)::bigint as "units!" from meter_carries
           where account_id = $1 and from_period = $2 and usage_type = $3 and to_period is not null
           group by to_period having sum(units) > 0 order by to_period desc"#,
        line.account.0,
        instant(line.start),
        line.usage_type
    )
    .fetch_all(&mut **tx)
    .await?;
    let carried = rows.into_iter().map(|row| (row.to_period.unix_timestamp(), row.units));
    Ok(carried.collect())
}
