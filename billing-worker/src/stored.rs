//! Whether ClickHouse has everything that was published.
//!
//! | what | file |
//! |---|---|
//! | the lanes of a run that is over: end them, and check whether all their events are stored | [`lanes`] |

pub mod lanes;
