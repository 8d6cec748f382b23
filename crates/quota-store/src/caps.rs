//! Spend caps, and the billed pools that share them.
//!
//! A grant of billed units locks the account's cap, then reads all billed pools of the period. So no other grant makes them grow
//! before it ends, and the sum that it computes is the sum that holds.

use std::collections::BTreeMap;

use protocol::spend::Line;
use schema::{AccountId, period::instant, pool_type::billed_name};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pools::{self, PoolKey};

/// One billed pool of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BilledPool {
    pub key: PoolKey,
    /// First second of the period.
    pub period_start: i64,
    pub granted: i64,
    /// With all units: granted, and admitted without a lease.
    pub line: Line,
}

/// Units that were admitted without a lease, as ClickHouse has them, without corrections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unleased {
    /// The first second of the segment.
    pub segment: i64,
    /// The catalogue's name.
    pub usage_type: String,
    /// With these units.
    pub line: Line,
}

/// Locks the caps of these accounts, and returns them in the currency's smallest unit. An account that is absent has none.
///
/// Locks: the caps, by account. The caller has locked the writer, and locks the pools afterwards.
pub async fn lock(connection: &mut PgConnection, accounts: &[AccountId]) -> sqlx::Result<BTreeMap<AccountId, i64>> {
    let ids: Vec<_> = accounts.iter().map(|account| account.0).collect();
    let rows = sqlx::query!(
        "select account_id, cents from spend_caps where account_id = any($1) order by account_id for no key update",
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (AccountId(row.account_id), row.cents))
        .collect())
}

/// All billed pools of the periods of these pools, themselves included. Takes no lock: the caller has locked the caps.
pub async fn beside(db: impl PgExecutor<'_>, pools: &[PoolKey]) -> sqlx::Result<Vec<BilledPool>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select p.account_id, p.usage_type, p.period_start, p.spend_period as "spend_period!", p.granted_units,
                  p.unleased_units, p.included_units as "included_units!", p.unit_price_micros as "unit_price_micros!"
           from (select distinct p.account_id, p.spend_period from quota_pool p
                 join unnest($1::uuid[], $2::text[], $3::timestamptz[]) as k (account_id, usage_type, period_start)
                     using (account_id, usage_type, period_start)
                 where p.spend_period is not null) as s
           join quota_pool p on p.account_id = s.account_id and p.spend_period = s.spend_period
           order by p.account_id, p.usage_type, p.period_start"#,
        &pools.iter().map(|pool| pool.account.0).collect::<Vec<_>>(),
        &pools.iter().map(|pool| pool.usage_type.clone()).collect::<Vec<_>>(),
        &pools.iter().map(|pool| instant(pool.period_start)).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Row::into_pool).collect())
}

/// The account's cap, and the billed pools of the period that begins at `period_start`. Takes no lock.
pub async fn of_period(
    connection: &mut PgConnection,
    account: AccountId,
    period_start: i64,
) -> sqlx::Result<(Option<i64>, Vec<BilledPool>)> {
    let cap = sqlx::query_scalar!("select cents from spend_caps where account_id = $1", account.0)
        .fetch_optional(&mut *connection)
        .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"select account_id, usage_type, period_start, spend_period as "spend_period!", granted_units, unleased_units,
                  included_units as "included_units!", unit_price_micros as "unit_price_micros!"
           from quota_pool where account_id = $1 and spend_period = $2 order by usage_type, period_start"#,
        account.0,
        instant(period_start)
    )
    .fetch_all(connection)
    .await?;
    Ok((cap, rows.into_iter().map(Row::into_pool).collect()))
}

/// Sets how many units of a period were admitted without a lease, less their corrections, and opens the pools that are missing.
///
/// Locks: the pools, by key. The caller has locked the account and its cap.
pub async fn count(
    connection: &mut PgConnection,
    account: AccountId,
    period: schema::Period,
    unleased: &[Unleased],
) -> sqlx::Result<()> {
    let key = |one: &Unleased| PoolKey {
        account,
        usage_type: billed_name(&one.usage_type),
        period_start: one.segment,
    };
    let mut unleased: Vec<_> = unleased.iter().map(|one| (key(one), one)).collect();
    unleased.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let keys: Vec<_> = unleased.iter().map(|(key, _)| key.clone()).collect();
    pools::lock(connection, &keys).await?;
    let column = |of: fn(&Line) -> i64| unleased.iter().map(|(_, one)| of(&one.line)).collect::<Vec<_>>();
    // A correction that is published after this statement began waits for the pool, and lowers it then.
    sqlx::query!(
        "insert into quota_pool as p (account_id, usage_type, period_start, period_end, limit_units, spend_period, included_units,
                                      unit_price_micros, unleased_units)
         select $1, k.pool, k.period_start, $2, k.included_units, $3, k.included_units, k.unit_price_micros, greatest(0, k.units
             + coalesce((select sum(c.delta_units)::bigint from corrections c
                         where c.account_id = $1 and c.usage_type = k.usage_type and c.period_start = k.period_start
                           and not c.leased and c.published_at is not null), 0)
             + coalesce((select l.carried_in - l.carried_out from meter_ledger l
                         where l.account_id = $1 and l.usage_type = k.usage_type and l.period_start = k.period_start), 0))
         from unnest($4::text[], $5::text[], $6::timestamptz[], $7::bigint[], $8::bigint[], $9::bigint[])
              as k (pool, usage_type, period_start, included_units, unit_price_micros, units)
         on conflict (account_id, usage_type, period_start) do update set unleased_units = excluded.unleased_units,
             included_units = excluded.included_units, unit_price_micros = excluded.unit_price_micros,
             spend_period = excluded.spend_period",
        account.0,
        instant(period.end),
        instant(period.start),
        &keys.iter().map(|key| key.usage_type.clone()).collect::<Vec<_>>(),
        &unleased.iter().map(|(_, one)| one.usage_type.clone()).collect::<Vec<_>>(),
        &keys.iter().map(|key| instant(key.period_start)).collect::<Vec<_>>(),
        &column(|line| line.included),
        &column(|line| line.unit_price_micros),
        &column(|line| line.units)
    )
    .execute(connection)
    .await?;
    Ok(())
}

struct Row {
    account_id: Uuid,
    usage_type: String,
    period_start: OffsetDateTime,
    spend_period: OffsetDateTime,
    granted_units: i64,
    unleased_units: i64,
    included_units: i64,
    unit_price_micros: i64,
}

impl Row {
    fn into_pool(self) -> BilledPool {
        BilledPool {
            key: PoolKey {
                account: AccountId(self.account_id),
                usage_type: self.usage_type,
                period_start: self.period_start.unix_timestamp(),
            },
            period_start: self.spend_period.unix_timestamp(),
            granted: self.granted_units,
            line: Line {
                units: self.granted_units.saturating_add(self.unleased_units),
                included: self.included_units,
                unit_price_micros: self.unit_price_micros,
            },
        }
    }
}
