//! The statements on `duplicate_returns` and `duplicate_cursors`.

use std::collections::{BTreeMap, HashSet};

use quota_store::pools::{self, PoolKey, Returned};
use schema::{AccountId, period::instant};
use sqlx::{PgPool, Postgres, Transaction};

use super::{Shard, StreamPosition, stored::Duplicate};
use crate::error::Error;

pub(super) async fn cursors(db: &PgPool) -> Result<BTreeMap<Shard, StreamPosition>, Error> {
    let rows = sqlx::query!("select generation, shard, stream_seq, idx from duplicate_cursors")
        .fetch_all(db)
        .await?;
    rows.into_iter()
        .map(|row| {
            let shard = Shard {
                generation: stored(row.generation)?,
                shard: stored(row.shard)?,
            };
            Ok((shard, position(row.stream_seq, row.idx)?))
        })
        .collect()
}

/// Returns the units of duplicates that a lease paid for and that have no row yet, and advances the cursor, in one transaction.
/// Returns the units by event.
pub(super) async fn give_back(
    db: &PgPool,
    shard: Shard,
    duplicates: &[Duplicate],
    cursor: Option<StreamPosition>,
) -> Result<Vec<(AccountId, i64)>, Error> {
    let mut tx = db.begin().await?;
    lock_shard(&mut tx, shard).await?;
    let known = known(&mut tx, shard, duplicates).await?;
    let new: Vec<&Duplicate> = duplicates
        .iter()
        .filter(|duplicate| duplicate.was_leased() && !known.contains(&duplicate.position()))
        .collect();
    let returned = |duplicate: &&Duplicate| Returned {
        key: PoolKey {
            account: AccountId(duplicate.account_id),
            usage_type: duplicate.usage_type.clone(),
            period_start: duplicate.period_start,
        },
        units: duplicate.cost_units,
        is_leased: true,
    };
    let units = pools::give_back(&mut tx, &new.iter().map(returned).collect::<Vec<_>>()).await?;
    insert(&mut tx, shard, &new, &units).await?;
    if let Some(cursor) = cursor {
        sqlx::query!(
            "update duplicate_cursors set stream_seq = $3, idx = $4
             where generation = $1 and shard = $2 and (stream_seq, idx) < ($3, $4)",
            i64::from(shard.generation),
            i32::from(shard.shard),
            cursor.stream_seq.cast_signed(),
            i64::from(cursor.idx)
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(new
        .iter()
        .zip(units)
        .map(|(duplicate, units)| (AccountId(duplicate.account_id), units))
        .collect())
}

/// Deletes rows that no sweep needs any more: a sweep covers two days.
pub(super) async fn forget(db: &PgPool) -> Result<(), Error> {
    sqlx::query!("delete from duplicate_returns where returned_at < now() - interval '40 days'")
        .execute(db)
        .await?;
    Ok(())
}

/// Locks the shard until the end of the transaction. Another worker waits, and then finds the rows.
async fn lock_shard(tx: &mut Transaction<'_, Postgres>, shard: Shard) -> Result<(), Error> {
    let (generation, shard) = (i64::from(shard.generation), i32::from(shard.shard));
    sqlx::query!(
        "insert into duplicate_cursors (generation, shard) values ($1, $2) on conflict do nothing",
        generation,
        shard
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "select stream_seq from duplicate_cursors where generation = $1 and shard = $2 for update",
        generation,
        shard
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(())
}

/// Returns the duplicates that have a row.
async fn known(
    tx: &mut Transaction<'_, Postgres>,
    shard: Shard,
    duplicates: &[Duplicate],
) -> Result<HashSet<StreamPosition>, Error> {
    let rows = sqlx::query!(
        "select r.stream_seq, r.idx from duplicate_returns r
         join unnest($3::bigint[], $4::bigint[]) as n (stream_seq, idx) using (stream_seq, idx)
         where r.generation = $1 and r.shard = $2",
        i64::from(shard.generation),
        i32::from(shard.shard),
        &column(duplicates.iter(), |duplicate| duplicate.stream_seq.cast_signed()),
        &column(duplicates.iter(), |duplicate| i64::from(duplicate.idx))
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(|row| position(row.stream_seq, row.idx)).collect()
}

fn position(stream_seq: i64, idx: i64) -> Result<StreamPosition, Error> {
    Ok(StreamPosition {
        stream_seq: stream_seq.cast_unsigned(),
        idx: stored(idx)?,
    })
}

/// A number that was smaller when it was stored. PostgreSQL has no unsigned types.
fn stored<Wide, Narrow: TryFrom<Wide>>(number: Wide) -> Result<Narrow, Error>
where
    Narrow::Error: std::error::Error + Send + Sync + 'static,
{
    Narrow::try_from(number).map_err(|error| Error::from(sqlx::Error::Decode(Box::new(error))))
}

async fn insert(
    tx: &mut Transaction<'_, Postgres>,
    shard: Shard,
    new: &[&Duplicate],
    units: &[i64],
) -> Result<(), Error> {
    let new = || new.iter().copied();
    sqlx::query!(
        "insert into duplicate_returns (generation, shard, stream_seq, idx, event_id, account_id, usage_type, period_start,
                                        lease_id, cost_units, returned_units)
         select $1, $2, n.stream_seq, n.idx, n.event_id, n.account_id, n.usage_type, n.period_start, n.lease_id, n.cost_units,
                n.returned_units
         from unnest($3::bigint[], $4::bigint[], $5::uuid[], $6::uuid[], $7::text[], $8::timestamptz[], $9::uuid[],
                     $10::bigint[], $11::bigint[])
              as n (stream_seq, idx, event_id, account_id, usage_type, period_start, lease_id, cost_units, returned_units)",
        i64::from(shard.generation),
        i32::from(shard.shard),
        &column(new(), |duplicate| duplicate.stream_seq.cast_signed()),
        &column(new(), |duplicate| i64::from(duplicate.idx)),
        &column(new(), |duplicate| duplicate.event_id),
        &column(new(), |duplicate| duplicate.account_id),
        &column(new(), |duplicate| duplicate.usage_type.clone()),
        &column(new(), |duplicate| instant(duplicate.period_start)),
        &column(new(), |duplicate| duplicate.lease_id),
        &column(new(), |duplicate| duplicate.cost_units),
        units
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn column<'a, T>(duplicates: impl Iterator<Item = &'a Duplicate>, of: impl Fn(&Duplicate) -> T) -> Vec<T> {
    duplicates.map(of).collect()
}
