//! Creates the database and creates and updates the tables of ClickHouse for this build. Several ingestors may run it at the same
//! time, and it can be repeated: every statement does nothing if its object exists.
//!
//! Once events are stored, an ingestor that starts does not create a missing database. Otherwise one with a mistyped name would
//! store its share of the events there.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clickhouse::{Client, Row};
use schema::clickhouse::{DdlFile, EVENT_TABLES, FILES, Layout, identifier};
use serde::Deserialize;
use tracing::info;

#[derive(Args, Clone, Debug, Default)]
pub struct MigrateSettings {
    /// Name of a ClickHouse cluster on which to create replicated tables. Without it, the tables are on one server
    #[arg(long, env = "CLICKHOUSE_CLUSTER")]
    pub clickhouse_cluster: Option<String>,
}

/// The table that records the applied files. It is not one of these files.
const RECORD: &str = "create table if not exists schema_migrations {on_cluster}
(
    file LowCardinality(String) comment 'name of the applied file',
    checksum String comment 'SHA-256 of the file as it was applied, in hex',
    applied_at DateTime64(3, 'UTC') default now64(3) comment 'when; ingestors that start together record a file twice'
)
engine = {merge_tree}
order by file
settings fsync_after_insert = 1, fsync_part_directory = 1
comment 'Files of the DDL that were applied.'";

#[derive(Row, Deserialize)]
struct Applied {
    file: String,
    checksum: String,
}

impl MigrateSettings {
    pub fn layout(&self) -> Layout {
        Layout {
            cluster: self.clickhouse_cluster.clone(),
        }
    }
}

/// Creates the client's database if it is missing, and updates the tables.
pub async fn run(client: &Client, settings: &MigrateSettings) -> Result<()> {
    let layout = settings.layout();
    let database = database(client)?;
    let create = format!("create database if not exists {} {{on_cluster}}", identifier(database));
    execute(&client.clone().with_database("default"), &layout.render(&create))
        .await
        .with_context(|| format!("creating the ClickHouse database {database}"))?;
    update_tables(client, settings).await
}

/// Fails if the client's database is missing.
pub async fn check_database(client: &Client) -> Result<()> {
    let name = database(client)?;
    ensure!(
        has_database(client).await?,
        "ClickHouse has no database `{name}`: correct CLICKHOUSE_DATABASE, or create the database with `ingestor migrate`"
    );
    Ok(())
}

pub async fn has_database(client: &Client) -> Result<bool> {
    let name = database(client)?;
    let found = client
        .clone()
        .with_database("default")
        .query("select count() from system.databases where name = ?")
        .bind(name)
        .fetch_one::<u64>()
        .await
        .with_context(|| format!("looking for the ClickHouse database {name}"))?;
    Ok(found > 0)
}

fn database(client: &Client) -> Result<&str> {
    client.database().context("the ClickHouse client has no database")
}

/// Applies new files in order, and all files if a table or view is missing. Fails if a file was changed after it was applied.
pub async fn update_tables(client: &Client, settings: &MigrateSettings) -> Result<()> {
    let layout = settings.layout();
    let database = database(client)?;
    execute(client, &layout.render(RECORD))
        .await
        .context("creating schema_migrations")?;

    let applied = applied(client).await?;
    let pending = pending(&applied)?;
    let again = !absent(client).await?.is_empty();
    for file in FILES {
        let is_new = pending.iter().any(|other| other.name == file.name);
        if !is_new && !again {
            continue;
        }
        execute(client, &file.render(&layout))
            .await
            .with_context(|| format!("applying {}.sql", file.name))?;
        if !is_new {
            continue;
        }
        client
            .query("insert into schema_migrations (file, checksum) values (?, ?)")
            .bind(file.name)
            .bind(file.checksum())
            .execute()
            .await
            .with_context(|| format!("recording {}.sql", file.name))?;
        info!(file = file.name, database, "applied ClickHouse DDL");
    }
    Ok(())
}

/// The tables and views that are missing although they were created, or that have the rows of events.
pub async fn dropped(client: &Client) -> Result<Vec<&'static str>> {
    let absent = absent(client).await?;
    if absent.is_empty() {
        return Ok(absent);
    }
    let is_recorded = client
        .query("select count() from system.tables where database = currentDatabase() and name = 'schema_migrations'")
        .fetch_one::<u64>()
        .await
        .context("looking for schema_migrations")?;
    let applied = match is_recorded {
        0 => Vec::new(),
        _ => applied(client).await?,
    };
    let is_applied = |name: &str| {
        let mut files = FILES.iter().filter(|file| file.creates == Some(name));
        files.any(|file| applied.iter().any(|record| record.file == file.name))
    };
    Ok(absent
        .into_iter()
        .filter(|name| EVENT_TABLES.contains(name) || is_applied(name))
        .collect())
}

/// The tables and views of this build that ClickHouse does not have, whatever `schema_migrations` says.
async fn absent(client: &Client) -> Result<Vec<&'static str>> {
    let present = client
        .query("select name from system.tables where database = currentDatabase()")
        .fetch_all::<String>()
        .await
        .context("looking for the tables")?;
    let names = FILES.iter().filter_map(|file| file.creates);
    Ok(names
        .filter(|name| !present.iter().any(|other| other == name))
        .collect())
}

/// Ingestors that started together may have recorded a file twice.
async fn applied(client: &Client) -> Result<Vec<Applied>> {
    client
        .query("select distinct file, checksum from schema_migrations")
        .fetch_all::<Applied>()
        .await
        .context("reading schema_migrations")
}

/// The files that must be applied.
fn pending(applied: &[Applied]) -> Result<Vec<&'static DdlFile>> {
    let mut pending = Vec::new();
    for file in FILES {
        let checksum = file.checksum();
        let mut records = applied.iter().filter(|record| record.file == file.name).peekable();
        if records.peek().is_none() {
            pending.push(file);
        } else if let Some(other) = records.find(|record| record.checksum != checksum) {
            bail!(
                "{}.sql was changed after it was applied (applied: {}, now: {checksum}): put a change into a new file",
                file.name,
                other.checksum
            );
        }
    }
    Ok(pending)
}

async fn execute(client: &Client, sql: &str) -> clickhouse::error::Result<()> {
    client.query_raw(sql).execute().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(file: &str, checksum: String) -> Applied {
        Applied {
            file: file.to_owned(),
            checksum,
        }
    }

    #[test]
    fn applied_files_are_not_applied_again() {
        assert_eq!(pending(&[]).unwrap().len(), FILES.len());
        let mut all: Vec<_> = FILES.iter().map(|file| record(file.name, file.checksum())).collect();
        all.push(record(FILES[0].name, FILES[0].checksum()));
        assert!(pending(&all).unwrap().is_empty());
        let names: Vec<_> = pending(&all[..2]).unwrap().iter().map(|file| file.name).collect();
        assert_eq!(names, FILES[2..].iter().map(|file| file.name).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_of_a_newer_build_is_ignored() {
        let mut all: Vec<_> = FILES.iter().map(|file| record(file.name, file.checksum())).collect();
        all.push(record("99_of_tomorrow", "x".into()));
        assert!(pending(&all).unwrap().is_empty());
    }

    #[test]
    fn the_error_names_a_changed_file() {
        let error = pending(&[record(FILES[1].name, "abc".into())])
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(FILES[1].name) && error.contains("changed after it was applied"),
            "{error}"
        );
    }
}
