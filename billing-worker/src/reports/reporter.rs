//! What reports need: the database, ClickHouse, Stripe, the catalogue and the settings.

use std::sync::Arc;

use clickhouse::Client;
use schema::Catalogue;
use sqlx::PgPool;

use super::{metrics::ReportMetrics, settings::ReportSettings, summary::Meters};
use crate::stripe::Stripe;

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
            stripe,
            catalogue,
            settings,
            metrics,
            meters: Arc::default(),
        }
    }
}
