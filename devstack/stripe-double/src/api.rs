//! The API: [`routes`] is its table of contents, and each kind of object has a file.

pub(crate) mod call;
pub(crate) mod checkout;
pub(crate) mod checkout_items;
pub(crate) mod customers;
pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod expand;
pub(crate) mod invoice_items;
pub(crate) mod invoices;
pub(crate) mod meter_events;
pub(crate) mod meters;
pub(crate) mod payment_intents;
pub(crate) mod portal;
pub(crate) mod preview;
pub(crate) mod prices;
pub(crate) mod products;
pub(crate) mod routes;
pub(crate) mod schedule_phases;
pub(crate) mod schedules;
pub(crate) mod subscription_items;
pub(crate) mod subscription_params;
pub(crate) mod subscriptions;
