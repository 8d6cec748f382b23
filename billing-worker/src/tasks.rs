//! Work that must happen in Stripe, even if the worker that began it dies.
//!
//! A change that first undoes something stores a task before its first call to Stripe. If the change does not end, another
//! worker finds the task a minute later, reads Stripe's state and does what is missing. Repeating a task changes nothing. A
//! task that fails is repeated until it is done; an operator sees it in `reports attention`.
//!
//! | what | file |
//! |---|---|
//! | the rows: armed, due, done | [`repository`] |
//! | running the tasks that are due | [`worker`] |
//! | how many tasks are open, as metrics | [`metrics`] |

pub mod metrics;
pub mod repository;
pub mod worker;
