//! Money: whether what the invoices ask for is what the usage and the plans cost (G7). Here it is gathered; the decision is pure
//! and in [`protocol::reports::money`].
//!
//! | what | file |
//! |---|---|
//! | what is known of segments: plan, prices, trial | [`segments`] |
//! | late units, and what became of them | [`late`] |
//! | invoices and credit notes, from the copies or from Stripe | [`invoices`], [`copies`], [`fresh`] |
//! | all of it as the input of the decision | [`compare`] |
//! | the result, as it is shown | [`period_money`] |

mod compare;
mod copies;
mod fresh;
mod invoices;
mod late;
mod period_money;
mod segments;

pub use self::{
    compare::{Asked, Units, compare},
    invoices::Source,
    period_money::{Amounts, Part, PeriodMoney},
};
