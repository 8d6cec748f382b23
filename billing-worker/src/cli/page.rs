//! The arguments of every `list` command.

use clap::Args;
use uuid::Uuid;

use crate::administration::page::{Page, PageLimit};

#[derive(Args)]
pub struct PageArguments {
    /// Maximum number of entries [default: 100]
    #[arg(long)]
    limit: Option<PageLimit>,
    /// Continue after the entry with this id
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

impl PageArguments {
    pub fn page(&self) -> Page {
        Page {
            limit: self.limit,
            after: self.after,
        }
    }
}
