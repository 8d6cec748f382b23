//! Subscriptions against Stripe's double: the whole life of one, over the API and by webhooks, with the clock turned, in every
//! order of events, under faults, and what bad input gets.

mod bad_input;
mod catalogue;
mod faults;
mod invoices;
mod leases;
mod life;
mod planned;
mod rig;
mod trials;
mod unpaid;
mod webhooks;
