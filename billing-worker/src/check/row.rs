//! A row of the result.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Stripe's API does not show it to this service: a person checks it.
    Unchecked,
    Warning,
    /// Something does not work.
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub level: Level,
    pub what: String,
    /// How to mend it; null if there is nothing to mend.
    pub mend: Option<String>,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unchecked => "unchecked",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Row {
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            mend: None,
        }
    }

    pub(super) fn unchecked(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::of(Level::Unchecked, what, mend)
    }

    pub(super) fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::of(Level::Warning, what, mend)
    }

    pub(super) fn error(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::of(Level::Error, what, mend)
    }

    fn of(level: Level, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            mend: Some(mend.into()),
        }
    }
}
