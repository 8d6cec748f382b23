//! The plan catalogue as products, prices and meters in Stripe: compares Stripe with the catalogue, and makes the changes.
//! Objects are found by id, event name or lookup key, so an interrupted or repeated sync makes no change twice.
//!
//! | what | file |
//! |---|---|
//! | products and prices that the catalogue asks for | [`wanted`](mod@wanted) |
//! | amounts in several currencies, in metadata | [`amounts`] |
//! | what the units of a metered price cost | [`rate`] |
//! | products and prices that exist in Stripe | [`existing`] |
//! | the changes to make | [`change`] |
//! | making the changes | [`apply`](mod@apply) |
//! | what customers can do in Stripe's portal | [`portal`](mod@portal) |

mod amounts;
mod apply;
mod change;
mod existing;
mod portal;
mod rate;
mod wanted;

pub use self::{
    apply::{activate, apply, copy_in_slot},
    change::{Change, changes, unused},
    existing::{ExistingObjects, KnownPrices, PortalConfiguration, find, meters, portal, prices},
    rate::{Rate, Rates},
    wanted::{NamedTerms, Terms, WantedPrice, WantedProduct, of_plan, prices_of, wanted},
};
