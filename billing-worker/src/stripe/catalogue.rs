//! The plan catalogue as products, prices and meters in Stripe: what should be there, what has to change, and changing it.
//! Everything is found by id, event name or lookup key, so a sync that was interrupted or is repeated changes nothing more.
//!
//! | what | file |
//! |---|---|
//! | products and prices that the catalogue asks for | [`wanted`](mod@wanted) |
//! | what Stripe has of them | [`found`] |
//! | what has to change | [`change`] |
//! | changing it | [`apply`](mod@apply) |

mod apply;
mod change;
mod found;
mod wanted;

pub use self::{
    apply::apply,
    change::{Change, changes},
    found::{Found, find, prices},
    wanted::{CURRENCY, Terms, WantedPrice, WantedProduct, of_plan, wanted},
};
