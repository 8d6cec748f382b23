//! The parts of every administrative change: connections, the catalogue, the requester, the audit log, announcements.

pub mod announce;
pub mod audit;
pub mod page;

use std::{fmt, sync::Arc};

use schema::{Catalogue, Plan, UsageType};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{administration::announce::Announcer, error::Error};

#[derive(Clone)]
pub struct Administration {
    pub db: PgPool,
    pub catalogue: Arc<Catalogue>,
    pub announcer: Announcer,
    pub clickhouse: clickhouse::Client,
    /// Notified of corrections that wait to be published.
    pub corrections_wait: Arc<Notify>,
    /// For the logs: the interface that the change came through, and the requester's name if it was given.
    pub by: By,
    pub name: Option<String>,
}

/// The interface that a change comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    AdminApi,
    Command,
    /// The service itself, at its start.
    Service,
    /// The owner of the account, with one of its API keys.
    Customer,
    /// A Stripe event, or a comparison with Stripe.
    Stripe,
}

impl Administration {
    /// Returns the plan with this id, or an error that lists the plans: for a customer, those of the price list.
    pub fn plan(&self, id: &str) -> Result<&Plan, Error> {
        let shown = |plan: &&Plan| plan.listed || self.by != By::Customer;
        let shown = || self.catalogue.plans().iter().filter(shown);
        self.catalogue.plan(id).ok_or_else(|| Error::UnknownPlan {
            plan: id.to_owned(),
            known: names(shown().map(|plan| plan.id.as_str())),
        })
    }

    /// Returns the usage type with this name, or an error that lists the usage types.
    pub fn usage_type(&self, name: &str) -> Result<UsageType, Error> {
        self.catalogue.usage_type(name).ok_or_else(|| Error::UnknownUsageType {
            usage_type: name.to_owned(),
            known: names(self.catalogue.usage_types().iter().map(|known| known.name())),
        })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminApi => "admin api",
            Self::Command => "command",
            Self::Service => "service",
            Self::Customer => "customer",
            Self::Stripe => "stripe",
        })
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
