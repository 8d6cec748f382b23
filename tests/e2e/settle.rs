//! G3 when a gateway dies, or is presumed dead: exactly its unspent units come back, once, and no unit is spent twice.

mod away;
mod killed;
mod operators;
mod overspent;
mod rig;
mod stopped;
mod worker;
