//! Recalls: before this gateway refuses a request, it asks other gateways for the units that they hold. It also announces to them
//! units that can be spent again.
//!
//! | to find | open |
//! |---|---|
//! | asking all gateways, and waiting for those that hold units | [`asking`] |
//! | one request's attempts, and how long its refusal is remembered | [`attempt`] |
//! | listening to others: recalls, answers, returned units | [`listening`] |
//! | announcing units that came back here | [`returns`] |
//!
//! A recall moves units into the pool, where any gateway can take them. Near the limit, several gateways may recall from each
//! other. Three rules ensure that no gateway refuses a request while another holds units in advance:
//! - A grant reserves the cost of its request, so every unit that leaves the pool serves a request.
//! - For a while after a recall, all gateways request only the cost of their requests, and renew nothing.
//! - A lease that is on its way to a gateway during a recall is closed when it arrives, and given back before the answer.

mod asking;
mod attempt;
mod listening;
mod returns;

pub(crate) use self::{
    asking::Recalls,
    attempt::Attempt,
    returns::{Returns, announce},
};
pub use listening::follow;
