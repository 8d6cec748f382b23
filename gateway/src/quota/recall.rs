//! Units that other gateways hold, asked for before a request is refused, and the word that units can be spent again.
//!
//! | what | file |
//! |---|---|
//! | asking all gateways, and waiting for those that hold units | [`asking`] |
//! | one request's attempts, and how long its refusal is worth remembering | [`attempt`] |
//! | hearing others: their recalls, their answers, what came back to them | [`listening`] |
//! | telling others what came back here | [`returns`] |
//!
//! A recall moves units into the pool, where whoever comes first takes them. So that several who recall from each other at
//! the limit all get on, and none is refused what another took in advance:
//! - a grant reserves what its request costs: every unit that comes out of the pool serves a request;
//! - from a recall on, all gateways ask for just what requests cost for a while, and renew nothing;
//! - a lease that was under way to a gateway when it was asked is closed when it arrives, and given back before it answers.

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
