//! G3 when a gateway dies, or is taken for dead: what it had not spent comes back to the unit, once, and nothing of it is spent
//! twice.

mod away;
mod killed;
mod operators;
mod overspent;
mod rig;
mod stopped;
mod worker;
