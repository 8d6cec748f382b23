//! Which waiting call is next. No I/O, no clock.
//!
//! Deficit round robin over the classes, one call a turn. At the start of a round each class may make as many calls as its
//! weight. A class without waiting calls is skipped and saves nothing, so the others use its share. Inside a class the accounts
//! take turns, and inside an account calls keep their order.
//!
//! It promises, and its tests check:
//! - If a call waits, [`Order::next`] returns one.
//! - While all classes have waiting calls, any eleven calls from the start of a round have the weights of their classes.
//! - The first call of an account waits for at most one round for each account that waited in its class before, and two more.
//! - The memory is bounded: at most [`WAITING_PER_CLASS`] calls of a class wait.

use std::collections::{HashMap, VecDeque};

use schema::AccountId;

use super::class::Class;

/// Calls of one account that may wait in a class. The work of an account is sequential, so only requests that come at the same
/// time are more.
pub(super) const WAITING_PER_ACCOUNT: usize = 4;
/// Calls that may wait in a class: four calls of 500 accounts.
pub(super) const WAITING_PER_CLASS: usize = 2_000;

/// Too many calls wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A waiting call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) class: Class,
    /// `None`: the call is about no account.
    pub(super) account: Option<AccountId>,
    number: u64,
}

pub(super) struct Order<T> {
    /// In the order of [`Class::ALL`].
    queues: [Queue<T>; Class::ALL.len()],
    /// The class that is asked next, by position.
    turn: usize,
    /// The number of the next ticket.
    number: u64,
}

struct Queue<T> {
    class: Class,
    /// Calls that the class may still make in this round.
    left: u32,
    /// Accounts with waiting calls, the next one first. Each is there once.
    accounts: VecDeque<Option<AccountId>>,
    calls: HashMap<Option<AccountId>, VecDeque<(u64, T)>>,
    len: usize,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self {
            queues: Class::ALL.map(Queue::new),
            turn: 0,
            number: 0,
        }
    }
}

impl<T> Order<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.len == 0)
    }

    /// Adds a call behind the waiting calls of its account.
    pub(super) fn push(&mut self, class: Class, account: Option<AccountId>, call: T) -> Result<Ticket, Full> {
        let ticket = Ticket {
            class,
            account,
            number: self.number,
        };
        self.queue(class).push(ticket, call)?;
        self.number += 1;
        Ok(ticket)
    }

    /// Removes the call that is next.
    pub(super) fn next(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        if !self.queues.iter().any(Queue::is_ready) {
            // The round is over.
            self.queues.iter_mut().for_each(Queue::refill);
        }
        let classes = self.queues.len();
        let mut turns = (0..classes).map(|ahead| (self.turn + ahead) % classes);
        let at = turns.find(|at| self.queues[*at].is_ready())?;
        self.turn = (at + 1) % classes;
        self.queues[at].pop()
    }

    /// Removes a call whose caller has left. `None`: it is not waiting any more.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        self.queue(ticket.class).remove(ticket)
    }

    fn queue(&mut self, class: Class) -> &mut Queue<T> {
        &mut self.queues[class as usize]
    }
}

impl<T> Queue<T> {
    fn new(class: Class) -> Self {
        Self {
            class,
            left: class.weight(),
            accounts: VecDeque::new(),
            calls: HashMap::new(),
            len: 0,
        }
    }

    fn is_ready(&self) -> bool {
        self.len > 0 && self.left > 0
    }

    /// Nothing is saved for later rounds: a class that was idle must not delay the others by a long row of calls.
    fn refill(&mut self) {
        self.left = self.class.weight();
    }

    fn push(&mut self, ticket: Ticket, call: T) -> Result<(), Full> {
        let waiting = self.calls.get(&ticket.account).map_or(0, VecDeque::len);
        let is_bounded = self.class.is_from_outside() && ticket.account.is_some();
        if self.len >= WAITING_PER_CLASS || is_bounded && waiting >= WAITING_PER_ACCOUNT {
            return Err(Full);
        }
        if waiting == 0 {
            self.accounts.push_back(ticket.account);
        }
        self.calls
            .entry(ticket.account)
            .or_default()
            .push_back((ticket.number, call));
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<T> {
        let account = self.accounts.pop_front()?;
        let calls = self.calls.get_mut(&account)?;
        let (_, call) = calls.pop_front()?;
        match calls.is_empty() {
            true => drop(self.calls.remove(&account)),
            false => self.accounts.push_back(account),
        }
        self.len -= 1;
        self.left -= 1;
        Some(call)
    }

    fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let calls = self.calls.get_mut(&ticket.account)?;
        let at = calls.iter().position(|(number, _)| *number == ticket.number)?;
        let (_, call) = calls.remove(at)?;
        if calls.is_empty() {
            self.calls.remove(&ticket.account);
            self.accounts.retain(|account| *account != ticket.account);
        }
        self.len -= 1;
        Some(call)
    }
}

#[cfg(test)]
mod tests;
