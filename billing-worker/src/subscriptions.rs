//! Which plan an account has, and since when. One row is current; the rows that it replaced are kept. No current row means Free.
//!
//! A row is either a plan that an operator assigned ([`assign`]) or a copy of a subscription in Stripe. [`current`] reads them.
//!
//! | what | file |
//! |---|---|
//! | starting it: by a hosted checkout, or by a payment form | [`checkout`], [`payment_form`], [`eligibility`] |
//! | the checkout or subscription that waits for a first payment: at most one | [`unpaid`] |
//! | the currency that an account pays in | [`currency`] |
//! | the subscription that Stripe has now | [`running`] |
//! | changing the plan, cancelling, and undoing either | [`change`], [`preview`], [`previewed`] |
//! | from monthly to yearly payments, and back | [`interval`] |
//! | an upgrade that waits for its payment | [`pending`] |
//! | the metered prices of a larger plan, in a slot of their own | [`completion`], [`slot_prices`] |
//! | metered items of an earlier plan | [`leftover`] |
//! | planned changes for the next period | [`planned`] |
//! | changes that undo something first, and how they are completed or taken back | [`armed`], [`restore`] |
//! | whether the customer's payment method allows a change at once | [`payment_method`] |
//! | which configuration Stripe's customer portal has | [`portal`] |
//! | a plan's prices | [`prices`] |
//! | which version of its plan a subscription has | [`versions`], [`sold`] |
//! | giving accounts another version | [`migration`], [`migrate`] |
//! | Stripe's prices, brought in line with the catalogue | [`selling`] |
//! | the prices that must stay active | [`used_prices`] |
//! | usage before it is billed: stored, reported, counted by Stripe | [`usage`] |
//! | usage types that a plan bills and a subscription does not | [`unbilled`] |
//! | who may read and change an account's subscriptions in Stripe now | [`lease`], [`slots`] |
//! | a customer's subscriptions in Stripe, and which one is current | [`listing`] |
//! | an account's invoices: copies of Stripe's | [`invoices`] |
//! | credit notes, refunds and disputes: copies of Stripe's | [`reversals`] |
//! | the invoice that a subscription owes | [`owed`] |
//! | subscriptions whose invoices are not collected | [`paused`] |
//! | what an operator must solve about them | [`irregular`] |
//! | customers who pay for a plan and have no account here | [`unlinked`] |
//! | Stripe's subscriptions as rows | [`fetched`], [`mirror`], [`mirrored`], [`refresh`] |
//! | their periods as rows, and which segment of a period runs | [`periods`], [`segment`] |
//! | the months of a subscription that is paid per year, and the job that begins and closes them | [`month`], [`slices`] |

mod armed;
pub mod assign;
pub mod billing;
pub mod change;
pub mod checkout;
pub mod checkout_settings;
pub mod completion;
pub mod currency;
pub mod current;
mod eligibility;
mod fetched;
mod interval;
pub mod invoices;
mod irregular;
pub mod lease;
pub mod leftover;
pub mod listing;
pub mod migrate;
pub mod migration;
pub mod mirror;
pub mod mirrored;
mod month;
mod owed;
pub mod paused;
pub mod paying;
pub mod payment_form;
pub mod payment_method;
mod pending;
pub mod periods;
pub mod planned;
pub mod portal;
pub mod preview;
mod previewed;
pub mod prices;
pub mod refresh;
pub mod restore;
pub mod reversals;
pub mod running;
mod segment;
pub mod selling;
pub mod slices;
mod slot_prices;
pub mod slots;
mod sold;
pub mod unbilled;
pub mod unlinked;
pub mod unpaid;
pub mod usage;
pub mod used_prices;
pub mod versions;
