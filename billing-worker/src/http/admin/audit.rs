//! `/admin/audit`

use axum::Json;

use crate::{
    administration::{
        Administration,
        audit::{self, Audited},
        page::{Listed, Trail},
    },
    error::Error,
    http::query::Parameters,
};

pub(super) async fn list(
    admin: Administration,
    Parameters(trail): Parameters<Trail>,
) -> Result<Json<Listed<Audited>>, Error> {
    Ok(Json(audit::list(&admin.db, trail).await?))
}
