//! What a call costs: the route table, the cost of one request, and the headers that cannot hold it.

pub mod cost;
pub mod routes;
pub mod withheld;
