//! G3 when a gateway dies or is presumed dead: exactly its unspent units are returned, once, and no unit is spent twice.

mod away;
mod killed;
mod operators;
mod overspent;
mod rig;
mod stopped;
mod worker;
