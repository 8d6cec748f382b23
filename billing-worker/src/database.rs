//! The database: its migrations, and whether it is there.

use std::time::Duration;

use anyhow::{Context, Result};
use service::{Health, Lifecycle};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// Applies the migrations that are missing; returns the version that the database has then. Several may do this at once:
/// one does it, under an advisory lock, and the others find it done.
pub async fn migrate(db: &PgPool) -> Result<i64> {
    let mut migrator = sqlx::migrate!("../schema/postgres");
    // A worker of the version before may be started again while the new one is rolled out.
    migrator.set_ignore_missing(true);
    migrator.run(db).await.context("migrating the database")?;
    let version = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    info!(version, "the database is migrated");
    Ok(version)
}

/// Keeps the database's line on `/readyz` true. The pool reconnects by itself.
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
                true => info!("PostgreSQL answers again"),
                false => warn!("PostgreSQL does not answer"),
            }
            was_there = there;
        }
    }
}
