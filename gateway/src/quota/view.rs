//! The quota that a client may see, and the numbers that it is computed from.

use protocol::grant::Pool;
use schema::{Mode, Period, Terms, subscription::Unbilled};

/// The quota of one usage type, as a client may see it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaView {
    pub mode: Mode,
    /// Units for each period; 0 if the mode is metered.
    pub limit: i64,
    /// A lower bound of the units that can still be spent. If nothing is refused (overage, metered), it is the limit.
    pub remaining: i64,
    /// Units granted to all gateways, less the unspent units of this one. Units that others hold count as used until they are
    /// given back. 0 if the mode is not limited: ClickHouse knows the usage.
    pub current_usage: i64,
    pub period: Period,
    /// Why units that the plan bills are not billed now, and may be refused.
    pub unbilled: Option<Unbilled>,
}

/// The numbers that this gateway has about one usage type at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its own unspent units.
    pub held: i64,
    /// As PostgreSQL last answered.
    pub pool: Pool,
    /// The pool cannot have changed since: PostgreSQL has just answered, or no other gateway was alive.
    pub is_current: bool,
}

/// What an account has spent in a period, as PostgreSQL has just counted it, in the currency's smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    pub cap_cents: i64,
    /// Units that other gateways hold count as used until they are given back.
    pub used_cents: i64,
}

/// The spend cap that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapView {
    pub quota: QuotaView,
    pub spent: Spent,
}

/// Units that other gateways hold count as used until they give them back. Units of the pool are promised only if no other
/// gateway can have taken them since.
pub fn view(terms: Terms, period: Period, seen: Seen) -> QuotaView {
    let free = if seen.is_current { seen.pool.remaining() } else { 0 };
    QuotaView {
        mode: terms.mode,
        limit: terms.limit,
        remaining: seen.held.saturating_add(free),
        current_usage: seen.pool.granted.saturating_sub(seen.held).max(0),
        period,
        unbilled: terms.unbilled,
    }
}

/// The view of a usage type that is never refused. ClickHouse knows its usage, so it is 0 here.
pub fn unlimited_view(terms: Terms, period: Period) -> QuotaView {
    QuotaView {
        mode: terms.mode,
        limit: terms.limit,
        remaining: terms.limit,
        current_usage: 0,
        period,
        unbilled: terms.unbilled,
    }
}
