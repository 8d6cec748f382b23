//! Subscriptions with the fake Stripe: the whole life cycle over the API and by webhooks, with a controlled clock, in every
//! order of events, under faults, and with bad input.

mod bad_input;
mod billed;
mod catalogue;
mod check;
mod checkout;
mod credits;
mod crowd;
mod faults;
mod findings;
mod invoices;
mod leases;
mod life;
mod linked;
mod lives;
mod migrate;
mod mirror;
mod money;
mod owed;
mod paused;
mod planned;
mod refusals;
mod rehearse;
mod reversals;
mod rig;
mod scopes;
mod shown;
mod tasks;
mod trials;
mod unpaid;
mod upgrades;
mod versions;
mod webhooks;
mod years;
