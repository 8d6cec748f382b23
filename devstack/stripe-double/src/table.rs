//! Objects of one kind in order of creation, found by id.

use indexmap::IndexMap;

/// Most rows are never removed: at Stripe, a deleted object can still be read as deleted.
#[derive(Clone, Debug)]
pub(crate) struct Table<T> {
    rows: IndexMap<String, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: IndexMap::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&mut self, id: &str, row: T) {
        self.rows.insert(id.to_owned(), row);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(id)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &T)> {
        self.rows.iter().map(|(id, row)| (id.as_str(), row))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.values_mut()
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.rows.shift_remove(id);
    }

    /// Keeps the newest `max` rows.
    pub(crate) fn trim(&mut self, max: usize) {
        // Removing the oldest rows moves all others, so do it only when there are a quarter too many.
        if self.rows.len() > max + max / 4 {
            self.rows.drain(..self.rows.len() - max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimmed_table_finds_the_remaining_rows() {
        let mut table = Table::default();
        for n in 0..20 {
            table.insert(&n.to_string(), n);
            table.trim(8);
        }
        assert!(table.iter().count() <= 10);
        assert_eq!(table.get("19"), Some(&19));
        assert_eq!(table.get("1"), None);
    }
}
