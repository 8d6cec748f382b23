//! What is read of Stripe's objects: the fields that something here depends on, as of API version 2026-09-30.endive. Whatever
//! else an answer carries is passed over.

use serde::Deserialize;

pub mod customer;
pub mod invoice;
pub mod schedule;
pub mod subscription;

pub use customer::Customer;
pub use invoice::Invoice;
pub use schedule::Schedule;
pub use subscription::{Item, Subscription};

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// Something of which only the id counts; expanded or not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Reference {
    Id(String),
    Object { id: String },
}

impl Reference {
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}
