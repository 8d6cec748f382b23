//! Plan versions in memory. A version never changes, so each is read once.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use schema::{PlanTerms, PlanVersion};
use sqlx::{PgPool, types::Json};
use uuid::Uuid;

/// As many as the database has: one for each change of a plan's terms.
#[derive(Default)]
pub(super) struct Versions(RwLock<HashMap<Uuid, Arc<PlanVersion>>>);

impl Versions {
    pub(super) fn get(&self, id: Uuid) -> Option<Arc<PlanVersion>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).cloned()
    }

    /// Reads those that are not in memory yet.
    pub(super) async fn load(&self, pool: &PgPool, mut ids: Vec<Uuid>) -> Result<(), sqlx::Error> {
        ids.retain(|id| self.get(*id).is_none());
        if ids.is_empty() {
            return Ok(());
        }
        ids.sort_unstable();
        ids.dedup();
        let rows = sqlx::query!(
            r#"select version_id as "id!", plan_id as "plan!", version as "number!", terms as "terms!: Json<PlanTerms>"
               from plan_version_terms where version_id = any($1)"#,
            &ids
        )
        .fetch_all(pool)
        .await?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(rows.into_iter().map(|row| {
            let version = PlanVersion {
                id: row.id,
                plan: row.plan,
                number: row.number,
                terms: row.terms.0,
            };
            (row.id, Arc::new(version))
        }));
        Ok(())
    }
}
