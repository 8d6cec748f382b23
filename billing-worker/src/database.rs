//! The database: migrations and the copy of the catalogue.

use std::time::Duration;

use anyhow::{Context, Result};
use schema::clock;
use service::Backoff;
use sqlx::{PgPool, migrate::MigrateError};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    accounts::plans,
    administration::Administration,
    error::{self, Error},
};

/// Migrates if asked to, and copies the plan catalogue. Starts over if PostgreSQL becomes unavailable meanwhile.
pub async fn prepare(admin: &Administration, migrates: bool) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let prepared = async {
            if migrates {
                migrate(&admin.db).await?;
            }
            let copied = plans::sync(admin, clock::now_s()).await;
            copied.context("copying the plan catalogue to the database")
        };
        let Err(error) = prepared.await else {
            return Ok(());
        };
        if !is_passing(&error) {
            return Err(error);
        }
        let delay = backoff.next_delay();
        warn!("PostgreSQL became unavailable during the start ({error:#}), retrying in {delay:.1?}");
        sleep(delay).await;
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    let of_query = error.downcast_ref().and_then(|error| match error {
        Error::Database(error) => Some(error),
        _ => None,
    });
    let of_migration = error.downcast_ref().and_then(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(error),
        _ => None,
    });
    of_query.or(of_migration).is_some_and(error::is_passing)
}

/// Applies the missing migrations and returns the schema version. Several processes may call this at once: an advisory lock lets
/// one of them do it.
pub async fn migrate(db: &PgPool) -> Result<i64> {
    let mut migrator = sqlx::migrate!("../schema/postgres");
    // An older worker may restart while a new version is rolled out.
    migrator.set_ignore_missing(true);
    migrator.run(db).await.context("migrating the database")?;
    let version = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    info!(version, "the database is migrated");
    Ok(version)
}
