//! One call of the API, checked against the schema.

use crate::form::Param;

/// One call of the API, checked against the schema.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The id in the path; empty if there is none.
    pub id: &'a str,
    pub params: &'a Param,
    pub now: i64,
}
