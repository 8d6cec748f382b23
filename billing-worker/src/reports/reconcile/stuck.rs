//! Units that should have been reported by now. Units are pending until the next report, so those that stay pending for much longer need
//! somebody to look.

use std::collections::HashSet;

use anyhow::Result;
use protocol::reports::{identifier::LineId, period::BilledBy};

use super::{LineState, Row, rows::Period};
use crate::reports::{Reporter, count};

/// Writes into each pending row how many of its units are in ClickHouse for longer than they should be pending.
pub(super) async fn mark(reporter: &Reporter, periods: &[Period], rows: &mut [Row], now: i64) -> Result<()> {
    // The billing worker charges the others at their time, and reports none of them.
    let reported: HashSet<count::AccountPeriod> = periods
        .iter()
        .map(|period| &period.period)
        .filter(|period| period.billed_by == BilledBy::Invoice)
        .map(|period| (period.account, period.start))
        .collect();
    let of = |row: &Row| (row.account_id, row.period_start.unix_timestamp());
    let is_pending = |row: &Row| row.state == LineState::Pending && reported.contains(&of(row));
    let pending: HashSet<_> = rows.iter().filter(|row| is_pending(row)).map(of).collect();
    if pending.is_empty() {
        return Ok(());
    }
    let pending: Vec<_> = pending.into_iter().collect();
    let before = now - reporter.settings.pending_for_s();
    let sums = count::sums_before(&reporter.clickhouse, &pending, before).await?;
    for row in rows.iter_mut().filter(|row| is_pending(row)) {
        let id = LineId::of_row(row.account_id.0, row.period_start, row.usage_type.clone());
        row.stuck_units = row.numbers.stuck(sums.get(&id).copied().unwrap_or(0));
        if row.stuck_units != 0 {
            let minutes = reporter.settings.pending_for_s() / 60;
            let stuck = format!("{} units are not reported after {minutes} minutes", row.stuck_units);
            row.note = Some(match row.note.take() {
                Some(note) => format!("{note}; {stuck}"),
                None => stuck,
            });
        }
    }
    Ok(())
}
