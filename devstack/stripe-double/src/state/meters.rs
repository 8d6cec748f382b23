//! Finds meters.

use crate::objects::meter::Meter;
use crate::state::State;

impl State {
    pub(crate) fn active_meter(&self, event_name: &str) -> Option<&Meter> {
        self.meters
            .iter()
            .map(|(_, meter)| meter)
            .find(|meter| meter.active && meter.event_name == event_name)
    }
}
