//! What a call costs: the route table and the cost of one request.

pub mod cost;
pub mod routes;
