//! Metered usage: reports to Stripe what ClickHouse has counted.
//!
//! The guarantee (G4): for each customer, meter and billing period, units reported to Stripe = `sum(cost_units)` in ClickHouse +
//! carried in − carried out, and each carry is a row. A report is in the database before it is sent, and its identifier never
//! changes. A customer and meter have at most one open report. Any number of workers may do this at the same time, and a step may
//! be interrupted at any point.
//!
//! The decisions are pure and in [`protocol::reports`]: what a count means for a line of the ledger, when to send or compare a
//! report, and until when a period takes reports.
//!
//! | what | file |
//! |---|---|
//! | settings, and the connections of reports | [`settings`], [`Reporter`] |
//! | sums and corrections in ClickHouse | [`count`] |
//! | one step over all accounts | [`step`](fn@step) |
//! | writing reports before they are sent | [`draft`] |
//! | the outcome of an attempt, from Stripe's response | [`outcome`] |
//! | sending | [`send`] |
//! | reporting all usage of one account now | [`flush`](mod@flush) |
//! | the units that Stripe has; whether these are all reported units | [`summary`], [`counted`] |
//! | closing periods whose invoice is final | [`close`] |
//! | usage that arrives too late for its period | [`carry`], [`charge`], [`tiers`] |
//! | freezing periods that agree everywhere, thawing those that change later | [`freeze`], [`thaw`] |
//! | what is owed, invoiced and credited | [`money`] |
//! | ClickHouse, ledger, Stripe and the money side by side | [`reconcile`] |
//! | the same every day, with alarms | [`daily`] |
//! | lists for an operator, and what needs one | [`list`], [`attention`] |

pub mod accepted;
pub mod attention;
pub mod carry;
pub mod charge;
pub mod close;
pub mod count;
pub mod counted;
pub mod credits;
pub mod daily;
pub mod draft;
pub mod flush;
pub mod freeze;
pub mod list;
pub mod metrics;
pub mod money;
pub mod outcome;
mod page;
pub mod reconcile;
mod reporter;
pub mod send;
pub mod settings;
mod step;
pub mod summary;
pub mod thaw;
pub mod tiers;

pub use self::{
    flush::{Flushed, flush},
    metrics::ReportMetrics,
    reporter::Reporter,
    settings::{LateUsage, ReportSettings},
    step::{Step, step},
};
