//! `/admin/corrections`

use axum::{Json, http::StatusCode};

use crate::{
    administration::{
        Administration,
        page::{Listed, Trail},
    },
    corrections::{
        correction::Correction,
        request::{self, Corrected, NewCorrection},
    },
    error::Error,
    http::body::Body,
    http::query::Parameters,
};

/// 201, or 200 with the same content if the request is repeated.
pub(super) async fn create(
    admin: Administration,
    Body(new): Body<NewCorrection>,
) -> Result<(StatusCode, Json<Corrected>), Error> {
    let corrected = request::create(&admin, new).await?;
    let status = match corrected.repeated {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    Ok((status, Json(corrected)))
}

pub(super) async fn list(
    admin: Administration,
    Parameters(trail): Parameters<Trail>,
) -> Result<Json<Listed<Correction>>, Error> {
    Ok(Json(request::list(&admin, trail).await?))
}
