//! The name of one rehearsal: of its databases, and of its test clock.

/// A rehearsal that began longer ago does not run any more.
const RUNS_MAX_MS: i64 = 12 * 3_600 * 1_000;
/// Of the configured database's name. PostgreSQL allows 63 bytes for the whole name.
const DATABASE_MAX: usize = 36;
/// A test clock whose name begins so is never deleted by a later rehearsal.
const KEPT: &str = "kept ";

#[derive(Clone, Debug)]
pub(super) struct Name {
    prefix: String,
    /// In milliseconds.
    began_at: i64,
}

impl Name {
    /// `database`: the configured one.
    pub(super) fn new(database: &str, began_at: i64) -> Self {
        let database: String = database.chars().filter(char::is_ascii).take(DATABASE_MAX).collect();
        Self {
            prefix: format!("{database}_rehearsal_"),
            began_at,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn text(&self) -> String {
        format!("{}{}", self.prefix, self.began_at)
    }

    pub(super) fn of_clock(&self, is_kept: bool) -> String {
        let kept = if is_kept { KEPT } else { "" };
        format!("{kept}{}", self.text())
    }

    /// Whether this is a name of a rehearsal of the same database that ended without removing what it made.
    pub(super) fn is_left_behind(&self, name: &str) -> bool {
        let began_at = name
            .strip_prefix(&self.prefix)
            .and_then(|time| time.parse::<i64>().ok());
        began_at.is_some_and(|began_at| began_at < self.began_at - RUNS_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_names_of_the_same_database_are_left_behind() {
        let name = Name::new("trendit", 1_700_000_000_000);
        assert_eq!(name.text(), "trendit_rehearsal_1700000000000");
        let old = 1_700_000_000_000 - RUNS_MAX_MS - 1;
        for (other, expected) in [
            (format!("trendit_rehearsal_{old}"), true),
            ("trendit_rehearsal_1699999999999".to_owned(), false),
            (format!("other_rehearsal_{old}"), false),
            (format!("trendit_rehearsal_{old}x"), false),
            (Name::new("trendit", old).of_clock(true), false),
            (Name::new("trendit", old).of_clock(false), true),
        ] {
            assert_eq!(name.is_left_behind(&other), expected, "{other}");
        }
        assert!(Name::new(&"x".repeat(63), 1_799_999_999_000).text().len() <= 63);
    }
}
