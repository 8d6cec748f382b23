//! The fault suite itself: its checker convicts, its proxy does what it says, and the system passes its short form.

mod checker;
mod proxy;
mod suite;
