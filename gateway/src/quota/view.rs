//! What may be shown of a counter, and what it is computed from.

use protocol::grant::Pool;
use schema::{Mode, Period, catalogue::Allowance};

/// What may be shown of a counter, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaView {
    pub mode: Mode,
    /// Units a period; 0 where the mode is metered.
    pub limit: i64,
    /// A lower bound of what can still be spent. Where nothing is refused (overage, metered) it is the limit.
    pub remaining: i64,
    /// Granted to gateways less what this one holds unspent; what others hold counts as used until they give it back.
    /// 0 where the mode is not limited: ClickHouse knows it.
    pub current_usage: i64,
    pub period: Period,
}

/// What this gateway sees of a counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its own unspent units.
    pub held: i64,
    /// As Postgres last said.
    pub pool: Pool,
    /// Nobody can have taken of the pool since: Postgres said it just now, or no other gateway lived then.
    pub is_current: bool,
}

/// What may be shown of a counter. What other gateways hold counts as used until they give it back; what remained in the
/// pool is promised only if no other can have taken it since.
pub fn view(allowance: Allowance, period: Period, seen: Seen) -> QuotaView {
    let free = if seen.is_current { seen.pool.remaining() } else { 0 };
    QuotaView {
        mode: allowance.mode,
        limit: allowance.limit,
        remaining: seen.held.saturating_add(free),
        current_usage: seen.pool.granted.saturating_sub(seen.held).max(0),
        period,
    }
}

/// What may be shown of a usage type that is never refused: ClickHouse knows its usage, so 0 stands here.
pub fn unlimited_view(allowance: Allowance, period: Period) -> QuotaView {
    QuotaView {
        mode: allowance.mode,
        limit: allowance.limit,
        remaining: allowance.limit,
        current_usage: 0,
        period,
    }
}
