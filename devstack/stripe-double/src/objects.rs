//! The objects of the fake Stripe. They hold data and render themselves. Code that needs other objects too is in [`crate::state`].

pub(crate) mod balance_transaction;
pub(crate) mod coupon;
pub(crate) mod credit_note;
pub(crate) mod customer;
pub(crate) mod dispute;
pub(crate) mod endpoint;
pub(crate) mod event;
pub(crate) mod invoice;
pub(crate) mod invoice_item;
pub(crate) mod item;
pub(crate) mod metadata;
pub(crate) mod meter;
pub(crate) mod older;
pub(crate) mod payment;
pub(crate) mod portal_configuration;
pub(crate) mod portal_session;
pub(crate) mod price;
pub(crate) mod pricing;
pub(crate) mod product;
pub(crate) mod prorate;
pub(crate) mod refund;
pub(crate) mod schedule;
pub(crate) mod session;
pub(crate) mod subscription;
pub(crate) mod test_clock;
pub(crate) mod usage;
