//! Which scopes a new key gets, and the change of a key's scopes.

use schema::{KeyId, Scope, Scopes};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::{Key, Row, announce, lock_active, record};
use crate::{administration::Administration, error::Error};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeChange {
    #[serde(default)]
    pub add: Vec<Scope>,
    #[serde(default)]
    pub remove: Vec<Scope>,
}

/// Adds and removes scopes. If the key already has the scopes that the change asks for, nothing changes.
pub async fn change_scopes(admin: &Administration, id: KeyId, change: ScopeChange, now: i64) -> Result<Key, Error> {
    change.check()?;
    let mut tx = admin.db.begin().await?;
    let old = lock_active(&mut tx, id, now).await?;
    let scopes = change.applied_to(old.scopes)?;
    let key = sqlx::query_as!(
        Row,
        "update api_keys set scopes = $2 where id = $1
         returning id, account_id, name, scopes, created_at, expires_at, revoked_at",
        id.0,
        &scopes.to_stored()
    )
    .fetch_one(&mut *tx)
    .await?
    .at(now);
    if scopes != old.scopes {
        let details = json!({ "before": old.scopes, "after": scopes });
        record(&mut tx, admin, "key.scope", &key, details).await?;
    }
    tx.commit().await?;
    info!(account.id = %key.account_id, key.id = %id, %scopes, by = %admin.by, "changed the scopes of an API key");
    announce(admin, &[&key]).await;
    Ok(key)
}

/// A key is for calls unless its creator says otherwise.
pub(super) fn of_new_key(chosen: Option<Vec<Scope>>) -> Result<Scopes, Error> {
    let Some(chosen) = chosen else {
        return Ok(Scopes::default().with(Scope::Usage));
    };
    let scopes: Scopes = chosen.into_iter().collect();
    if scopes.is_empty() {
        return Err(Error::BadValue {
            field: "scopes",
            rule: "must name at least one of `usage` and `billing`".to_owned(),
        });
    }
    Ok(scopes)
}

impl ScopeChange {
    fn check(&self) -> Result<(), Error> {
        if self.add.is_empty() && self.remove.is_empty() {
            return Err(Error::Malformed(
                "`add` or `remove` must name at least one of the scopes `usage` and `billing`".to_owned(),
            ));
        }
        match self.add.iter().find(|scope| self.remove.contains(scope)) {
            None => Ok(()),
            Some(scope) => Err(Error::Malformed(format!(
                "`add` and `remove` both name the scope `{scope}`"
            ))),
        }
    }

    fn applied_to(&self, before: Scopes) -> Result<Scopes, Error> {
        let more = self.add.iter().copied().fold(before, Scopes::with);
        let after = self.remove.iter().copied().fold(more, Scopes::without);
        if after.is_empty() {
            return Err(Error::Malformed(
                "`remove` names every scope of the key, and a key has at least one: to end the key, revoke it"
                    .to_owned(),
            ));
        }
        Ok(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Scope::{Billing, Usage};

    fn scopes(of: &[Scope]) -> Scopes {
        of.iter().copied().collect()
    }

    #[test]
    fn a_new_key_is_for_calls_unless_its_creator_says_otherwise() {
        assert_eq!(of_new_key(None).unwrap(), scopes(&[Usage]));
        assert_eq!(of_new_key(Some(vec![Billing])).unwrap(), scopes(&[Billing]));
        assert_eq!(
            of_new_key(Some(vec![Billing, Usage, Billing])).unwrap(),
            scopes(&[Usage, Billing])
        );
        assert!(of_new_key(Some(Vec::new())).is_err());
    }

    #[test]
    fn a_change_adds_and_removes_and_leaves_at_least_one_scope() {
        for (before, add, remove, after) in [
            (&[Usage][..], &[Billing][..], &[][..], Some(&[Usage, Billing][..])),
            (&[Usage], &[Usage], &[], Some(&[Usage])),
            (&[Usage], &[Billing], &[Usage], Some(&[Billing])),
            (&[Usage, Billing], &[], &[Billing], Some(&[Usage])),
            (&[Usage], &[], &[Billing], Some(&[Usage])),
            (&[Usage], &[], &[Usage], None),
            (&[Usage, Billing], &[], &[Usage, Billing], None),
            (&[Usage], &[], &[], None),
            (&[Usage, Billing], &[Billing], &[Billing], None),
        ] {
            let change = ScopeChange {
                add: add.to_vec(),
                remove: remove.to_vec(),
            };
            let applied = change.check().and_then(|()| change.applied_to(scopes(before)));
            assert_eq!(applied.ok(), after.map(scopes), "{before:?} {change:?}");
        }
    }
}
