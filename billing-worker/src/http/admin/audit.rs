//! `/admin/audit`

use axum::Json;

use super::extract::TrailQuery;
use crate::{
    administration::{
        Administration,
        audit::{self, Audited},
        page::Listed,
    },
    error::Error,
};

pub(super) async fn list(admin: Administration, TrailQuery(trail): TrailQuery) -> Result<Json<Listed<Audited>>, Error> {
    Ok(Json(audit::list(&admin.db, trail).await?))
}
