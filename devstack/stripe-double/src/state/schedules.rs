//! Finds subscription schedules.

use crate::failure::Failure;
use crate::objects::schedule::Schedule;
use crate::state::State;

impl State {
    pub(crate) fn schedule(&self, id: &str) -> Result<&Schedule, Failure> {
        self.schedules
            .get(id)
            .ok_or_else(|| Failure::not_found("subscription schedule", id))
    }
}
