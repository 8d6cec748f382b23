//! Values of arguments that several commands take.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A time as the commands print it.
pub(super) fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "must be a time such as 2026-11-30T12:00:00Z".to_owned())
}
