//! Objects of one kind in order of creation, found by id.

use std::collections::HashMap;

/// Most rows are never removed: what Stripe deletes stays readable as deleted.
#[derive(Clone, Debug)]
pub(crate) struct Table<T> {
    rows: Vec<(String, T)>,
    by_id: HashMap<String, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            by_id: HashMap::new(),
        }
    }
}

impl<T> Table<T> {
    pub fn insert(&mut self, id: &str, row: T) {
        self.by_id.insert(id.to_owned(), self.rows.len());
        self.rows.push((id.to_owned(), row));
    }

    pub fn get(&self, id: &str) -> Option<&T> {
        self.by_id.get(id).map(|at| &self.rows[*at].1)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.by_id.get(id).map(|at| &mut self.rows[*at].1)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &T)> {
        self.rows.iter().map(|(id, row)| (id.as_str(), row))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.iter_mut().map(|(_, row)| row)
    }

    pub fn remove(&mut self, id: &str) {
        self.rows.retain(|(row, _)| row != id);
        self.index();
    }

    fn index(&mut self) {
        self.by_id = self
            .rows
            .iter()
            .enumerate()
            .map(|(at, (id, _))| (id.clone(), at))
            .collect();
    }

    /// Keeps the newest `max` rows.
    pub fn trim(&mut self, max: usize) {
        // Rebuilding costs the whole table: not before there is a quarter too many.
        if self.rows.len() <= max + max / 4 {
            return;
        }
        self.rows.drain(..self.rows.len() - max);
        self.index();
    }
}
