//! The databases of one rehearsal, beside the configured ones. They are dropped at its end. What a crash left behind is found by its
//! name, which has the time of its start.

use anyhow::{Context, Result};
use clickhouse::Client;
use schema::clickhouse::{FILES, Layout, identifier};
use service::{
    clickhouse::{ClickHouseSettings, client},
    postgres::pool_options,
};
use sqlx::{AssertSqlSafe, PgPool};

use super::name::Name;
use crate::database;

/// PostgreSQL's connections: one step of the rehearsal follows the other.
const CONNECTIONS: u32 = 4;

/// Where the databases are made.
pub(super) struct Servers {
    /// The configured database.
    pub db: PgPool,
    pub clickhouse: ClickHouseSettings,
}

pub(super) struct Stores {
    pub db: PgPool,
    pub clickhouse: Client,
}

impl Servers {
    pub(super) async fn create(&self, name: &Name) -> Result<Stores> {
        let create = format!("create database {}", quoted(&name.text()));
        let made = sqlx::raw_sql(AssertSqlSafe(create)).execute(&self.db).await;
        made.context("making a database in PostgreSQL: the user of DATABASE_URL needs the right CREATEDB")?;
        let options = self.db.connect_options().as_ref().clone().database(&name.text());
        let db = pool_options().max_connections(CONNECTIONS).connect_lazy_with(options);
        database::migrate(&db).await?;
        let create = format!("create database {}", identifier(&name.text()));
        let made = self.outside().query(&create).execute().await;
        made.context("making a database in ClickHouse: the user of CLICKHOUSE_USER needs the right CREATE DATABASE")?;
        let clickhouse = client(&self.clickhouse).with_database(name.text());
        for file in FILES {
            let statement = file.render(&Layout::default());
            let applied = clickhouse.query_raw(&statement).execute().await;
            applied.with_context(|| format!("applying {}.sql", file.name))?;
        }
        Ok(Stores { db, clickhouse })
    }

    /// Drops the databases whose name is wanted, in both servers.
    pub(super) async fn drop(&self, prefix: &str, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let names = sqlx::query_scalar!(
            r#"select datname::text as "datname!" from pg_database where starts_with(datname::text, $1)"#,
            prefix
        );
        for name in names
            .fetch_all(&self.db)
            .await
            .context("listing the databases of PostgreSQL")?
        {
            if is_wanted(&name) {
                // It ends the connections that an interrupted rehearsal has left.
                let drop = format!("drop database if exists {} with (force)", quoted(&name));
                let dropped = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&self.db).await;
                dropped.with_context(|| format!("dropping the database {name} in PostgreSQL"))?;
            }
        }
        let outside = self.outside();
        let names = outside
            .query("select name from system.databases where startsWith(name, ?)")
            .bind(prefix);
        for name in names
            .fetch_all::<String>()
            .await
            .context("listing the databases of ClickHouse")?
        {
            if is_wanted(&name) {
                let drop = format!("drop database if exists {} sync", identifier(&name));
                let dropped = outside.query_raw(&drop).execute().await;
                dropped.with_context(|| format!("dropping the database {name} in ClickHouse"))?;
            }
        }
        Ok(())
    }

    /// A client of ClickHouse that needs no database of its own.
    fn outside(&self) -> Client {
        client(&self.clickhouse).with_database("default")
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
