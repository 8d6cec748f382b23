//! Accounts: their keys, plan catalogue, limits and status, and their customer in Stripe.
//!
//! | what | file |
//! |---|---|
//! | create an account | [`create`] |
//! | read accounts: the list, and one with its plan and limits | [`view`] |
//! | find an account by id or e-mail address; accepted names and addresses | [`identity`] |
//! | suspend and resume | [`status`] |
//! | the lock that orders writers | [`locks`] |
//! | API keys | [`keys`] |
//! | the plan catalogue: the price list, and its copy in the database | [`plans`] |
//! | versions of plans | [`versions`] |
//! | the features of a plan in the price list | [`features`] |
//! | limits in force, overrides for one account, and the copy in the quota pools | [`limits`], [`overrides`], [`pool_limits`] |
//! | the account's customer in Stripe | [`customers`] |
//! | linking an account to a customer that exists already | [`link`] |
//!
//! Writers return nothing. A caller that needs the result reads it with [`view`]. So the view depends on limits and
//! subscriptions, both depend on the lock, and there is no circle.

pub mod create;
pub mod customers;
mod features;
pub mod identity;
pub mod keys;
pub mod limits;
pub mod link;
mod locks;
pub mod overrides;
pub mod plans;
pub mod pool_limits;
pub mod status;
pub mod versions;
pub mod view;

pub use locks::lock;
