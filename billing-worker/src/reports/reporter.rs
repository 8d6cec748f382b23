//! What reports need: the database, ClickHouse, Stripe, the catalogue and the settings.

use std::sync::Arc;

use clickhouse::Client;
use schema::{AccountId, Catalogue};
use sqlx::PgPool;

use super::{metrics::ReportMetrics, settings::ReportSettings, summary::Meters};
use crate::stripe::{Class, Stripe};

/// Cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    pub db: PgPool,
    pub clickhouse: Client,
    pub stripe: Stripe,
    pub catalogue: Arc<Catalogue>,
    pub settings: ReportSettings,
    pub metrics: ReportMetrics,
    pub meters: Arc<Meters>,
}

impl Reporter {
    pub fn new(
        db: PgPool,
        clickhouse: Client,
        stripe: Stripe,
        catalogue: Arc<Catalogue>,
        settings: ReportSettings,
        metrics: ReportMetrics,
    ) -> Self {
        Self {
            db,
            clickhouse,
            stripe: stripe.in_class(Class::Report),
            catalogue,
            settings,
            metrics,
            meters: Arc::default(),
        }
    }

    /// The same for one account: its calls to Stripe share the account's place in the queue.
    pub fn of(&self, account: AccountId) -> Self {
        Self {
            stripe: self.stripe.of(account),
            ..self.clone()
        }
    }
}
