//! Spend caps: the most that an account wants to pay for usage in a period. Gateways refuse calls that would cost more.
//!
//! | what | file |
//! |---|---|
//! | set, remove and show a cap | [`cap`] |
//! | what the usage of the period costs, by its lines on the invoice | [`used`] |
//! | until every gateway knows a cap, and all earlier usage is counted | [`arm`] |
//!
//! A gateway admits billed usage without a lease while there is no cap. So a cap holds exactly only after every gateway knows it,
//! and all that was admitted before is counted: then it is *armed*. Until then gateways grant against what was stored when it was set.

pub mod arm;
pub mod cap;
pub mod used;
