//! Recalls: before a request is refused, other gateways are asked for the units that they hold; and units that can be spent
//! again are announced to them.
//!
//! | to find | open |
//! |---|---|
//! | asking all gateways, and waiting for those that hold units | [`asking`] |
//! | one request's attempts, and how long its refusal is worth remembering | [`attempt`] |
//! | listening to others: recalls, answers, returned units | [`listening`] |
//! | announcing units that came back here | [`returns`] |
//!
//! A recall moves units into the pool, where any gateway can take them. Three rules let several gateways recall from each other
//! at the limit, without one refusing a request for units that another took in advance:
//! - a grant reserves what its request costs: every unit that comes out of the pool serves a request;
//! - for a while after a recall, all gateways request just the cost of their requests, and renew nothing;
//! - a lease that is under way to a gateway during a recall is closed when it arrives, and given back before the answer.

mod asking;
mod attempt;
mod listening;
mod returns;

pub(crate) use self::{
    asking::Recalls,
    attempt::Attempt,
    returns::{Returns, tell},
};
pub use listening::follow;
