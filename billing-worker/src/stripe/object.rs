//! The fields of Stripe's objects that are read, as of API version 2026-09-30.endive. All others are ignored.

use serde::Deserialize;

mod amount;
pub mod customer;
pub mod invoice;
pub mod invoice_line;
pub mod reversal;
pub mod schedule;
pub mod subscription;

pub use customer::Customer;
pub use invoice::Invoice;
pub use invoice_line::InvoiceLine;
pub use schedule::Schedule;
pub use subscription::{Item, Subscription};

/// Whether a text can be the id of an object whose ids begin with this prefix, such as `cus_`. Stripe's ids have at most 255 characters.
pub fn is_id(prefix: &str, text: &str) -> bool {
    let rest = text.strip_prefix(prefix).filter(|_| text.len() <= 255);
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// A reference to an object, expanded or not: only the id is read.
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
