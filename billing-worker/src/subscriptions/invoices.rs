//! An account's invoices. Rows in PostgreSQL are copies of Stripe's invoices, written under the account's lease. Whoever reads
//! invoices reads the rows and does not wait for Stripe.
//!
//! | what | file |
//! |---|---|
//! | invoices in Stripe, with their lines | [`fetch`] |
//! | what is here of them already | [`known`] |
//! | an invoice of Stripe as rows | [`mirrored`] |
//! | writing the rows | [`store`] |
//! | the rows as the customer sees them | [`read`] |
//! | older invoices, and what no event reported | [`compare`] |

mod compare;
pub mod fetch;
mod known;
mod mirrored;
mod read;
mod store;

pub use self::{
    compare::compare,
    fetch::{FetchedInvoices, READ_MAX, Wanted, fetch},
    mirrored::{LineKind, kind},
    read::{InvoiceDetails, InvoicePage, find, list},
    store::store,
};
