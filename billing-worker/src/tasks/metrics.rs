//! Metrics of tasks.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// Every state of an open task.
const STATES: [&str; 3] = ["armed", "due", "attention"];

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct TaskMetrics {
    tasks: Family<OfState, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

impl TaskMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "stripe_tasks",
            "Work that must still happen in Stripe, by state: armed (in progress), due (failed and repeated), attention (fails for a \
             day)",
            self.tasks.clone(),
        );
    }

    /// Sets the number of open tasks in each state.
    pub fn show(&self, counts: &[(String, i64)]) {
        for state in STATES {
            let found = counts.iter().find(|(counted, _)| counted == state);
            self.tasks
                .get_or_create(&OfState { state })
                .set(found.map_or(0, |(_, count)| *count));
        }
    }
}
