//! Stores one range in ClickHouse: when to look, when to insert, and under which deduplication token.
//!
//! A confirmed insert alone proves nothing. ClickHouse writes its log of deduplication tokens shortly before it moves the
//! part into place. A kill between the two leaves a token without rows, and ClickHouse ignores every retry with
//! this token. So after each insert the ingestor looks for its rows by position.
//!
//! ```text
//! sealed just now ─> Insert(1)          another owner may have tried ─> Look
//! Insert(n) ─> Look                     (whether ClickHouse confirmed it or not)
//! Look ─ all rows are there ─> stored
//!      ─ no row, the insert was confirmed ─> Insert(n + 1): the token swallowed the rows
//!      ─ no row, the insert was not confirmed ─> Insert(n): the same token, so that a late insert stores nothing twice
//!      ─ an insert is running ─> Look
//!      ─ some rows ─> alarm: no insert can leave that
//! ```
//!
//! # Promises
//! - Another token is used only after ClickHouse has confirmed the previous one, no row is there, and no insert is running.
//!   So two inserts with different tokens are never in progress together.
//! - A range counts as stored only after all its rows were seen.
//!
//! The model `manifest` checks these through the properties "no position has two rows", "everything that is done is
//! stored" and "a range is stored whole or not at all". Its mutants `NextTokenWhileUnclear` and `DoneUnseen` deviate and fail.

/// How many tokens of one range may end without rows before an operator must look.
pub const TOKENS_MAX: u32 = 5;

/// The progress of storing a range's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Storing {
    /// The number of the token, from 1.
    token: u32,
    /// ClickHouse confirmed an insert under this token.
    confirmed: bool,
    look_first: bool,
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask ClickHouse what it holds of the range, then [`Storing::absent`] if there is nothing.
    Look,
    /// Check that the manifest is still ours, insert, then [`Storing::inserted`].
    Insert,
}

/// Whether rows of the range may already be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tried {
    /// The range was sealed just now.
    Never,
    /// An ingestor may have inserted it at some time.
    Perhaps,
}

/// The next action when the range has no rows and no insert of it is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Insert under the same token.
    TryAgain,
    /// ClickHouse has the token without the rows: insert under the next one.
    NextToken,
    /// Too many tokens ended without rows.
    GiveUp,
}

impl Storing {
    pub fn new(tried: Tried) -> Self {
        Self {
            token: 1,
            confirmed: false,
            look_first: tried == Tried::Perhaps,
        }
    }

    pub fn next(&self) -> Next {
        if self.look_first { Next::Look } else { Next::Insert }
    }

    /// The number of the next insert's token: 1 is the range's own token, 2 is `<token>#2`.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// The next insert's token.
    pub fn name_token(&self, token: &str) -> String {
        match self.token {
            1 => token.to_owned(),
            number => format!("{token}#{number}"),
        }
    }

    /// An insert was sent. `confirmed`: ClickHouse confirmed it.
    pub fn inserted(&mut self, confirmed: bool) {
        self.confirmed = confirmed;
        self.look_first = true;
    }

    /// A look found no row and no running insert.
    pub fn absent(&mut self) -> Absent {
        self.look_first = false;
        if !std::mem::take(&mut self.confirmed) {
            return Absent::TryAgain;
        }
        self.token += 1;
        if self.token > TOKENS_MAX {
            Absent::GiveUp
        } else {
            Absent::NextToken
        }
    }

    /// The last look is too old: an earlier insert may have arrived since.
    pub fn look_again(&mut self) {
        self.look_first = true;
    }
}

/// What ClickHouse holds of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredRows {
    Absent,
    Whole,
    /// All rows are there, and some of them more than once.
    Doubled {
        rows: u64,
    },
    /// Some rows are there. One insert cannot cause that.
    Partial {
        rows: u64,
        positions: u64,
    },
}

impl StoredRows {
    /// Judges a range of `expected` rows, of which `rows` were counted at `positions` different positions.
    pub fn of(expected: u64, rows: u64, positions: u64) -> Self {
        match (rows, positions) {
            (0, _) => Self::Absent,
            (rows, positions) if positions == expected && rows == expected => Self::Whole,
            (rows, positions) if positions == expected => Self::Doubled { rows },
            (rows, positions) => Self::Partial { rows, positions },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_whole_doubled_and_partial_ranges_are_distinguished() {
        let of_five = |rows, positions| StoredRows::of(5, rows, positions);
        assert_eq!(of_five(0, 0), StoredRows::Absent);
        assert_eq!(of_five(5, 5), StoredRows::Whole);
        assert_eq!(of_five(7, 5), StoredRows::Doubled { rows: 7 });
        assert_eq!(of_five(10, 5), StoredRows::Doubled { rows: 10 });
        assert_eq!(of_five(3, 3), StoredRows::Partial { rows: 3, positions: 3 });
        assert_eq!(of_five(5, 4), StoredRows::Partial { rows: 5, positions: 4 });
        assert_eq!(of_five(6, 6), StoredRows::Partial { rows: 6, positions: 6 });
    }

    #[test]
    fn the_next_token_follows_only_a_confirmed_insert_without_rows() {
        let mut storing = Storing::new(Tried::Never);
        assert_eq!(
            (storing.next(), storing.name_token("USAGE/1/0/5-9").as_str()),
            (Next::Insert, "USAGE/1/0/5-9")
        );
        storing.inserted(false);
        assert_eq!(storing.next(), Next::Look);
        assert_eq!((storing.absent(), storing.token()), (Absent::TryAgain, 1));
        storing.inserted(true);
        assert_eq!((storing.absent(), storing.token()), (Absent::NextToken, 2));
        assert_eq!(
            (storing.next(), storing.name_token("USAGE/1/0/5-9").as_str()),
            (Next::Insert, "USAGE/1/0/5-9#2")
        );
        // One confirmation counts for one token.
        storing.inserted(false);
        assert_eq!((storing.absent(), storing.token()), (Absent::TryAgain, 2));
    }

    #[test]
    fn a_range_that_somebody_may_have_inserted_is_looked_for_first() {
        assert_eq!(Storing::new(Tried::Perhaps).next(), Next::Look);
    }

    #[test]
    fn five_swallowed_tokens_are_too_many() {
        let mut storing = Storing::new(Tried::Never);
        let swallowed = (1..=5).map(|_| {
            storing.inserted(true);
            storing.absent()
        });
        let swallowed: Vec<_> = swallowed.collect();
        assert_eq!(swallowed[..4], [Absent::NextToken; 4]);
        assert_eq!(swallowed[4], Absent::GiveUp);
    }
}
