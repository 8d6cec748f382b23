//! The database: migrations and availability.

use std::time::Duration;

use anyhow::{Context, Result};
use schema::clock;
use service::{Backoff, Health, Lifecycle};
use sqlx::{PgPool, migrate::MigrateError};
use tokio::time::{sleep, timeout};
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

/// Keeps the state of the database on `/readyz` up to date. The pool reconnects by itself.
pub async fn watch(db: PgPool, health: Health, life: Lifecycle) {
    const EVERY: Duration = Duration::from_secs(5);
    let mut was_there = true;
    loop {
        tokio::select! {
            () = life.stopping() => return,
            () = sleep(EVERY) => {}
        }
        let there = matches!(timeout(EVERY, sqlx::query("select 1").execute(&db)).await, Ok(Ok(_)));
        match there {
            true => health.up("postgres"),
            false => health.down("postgres", "no answer"),
        }
        if there != was_there {
            match there {
                true => info!("PostgreSQL is available again"),
                false => warn!("PostgreSQL is unavailable"),
            }
            was_there = there;
        }
    }
}
