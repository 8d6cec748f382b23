//! The time of a customer: that of their test clock, or the double's.

use crate::form::Param;
use crate::state::State;

impl State {
    /// The test clock of a customer.
    pub(crate) fn test_clock_of(&self, customer: &str) -> Option<&str> {
        self.customers.get(customer)?.test_clock.as_deref()
    }

    /// Does something at the time of a test clock; without one at the double's.
    pub(crate) fn at_time_of<T>(&mut self, test_clock: Option<&str>, act: impl FnOnce(&mut Self) -> T) -> T {
        let clock = test_clock.and_then(|id| self.test_clocks.get(id));
        let Some(at) = clock.map(|clock| clock.frozen_time) else {
            return act(self);
        };
        self.clock.freeze_at(at);
        let done = act(self);
        self.clock.unfreeze();
        done
    }

    /// The same, at the time of the test clock of an object's customer.
    pub(crate) fn at_time_of_object<T>(&mut self, id: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        let customer = self.customer_of(id);
        let clock = customer.and_then(|customer| self.test_clock_of(&customer).map(str::to_owned));
        self.at_time_of(clock.as_deref(), act)
    }

    /// The test clock of the customer that a call is about.
    pub(crate) fn test_clock_of_call(&self, path: &str, params: &Param) -> Option<String> {
        const NAMES: [&str; 6] = [
            "customer",
            "subscription",
            "from_subscription",
            "invoice",
            "payload.stripe_customer_id",
            "schedule",
        ];
        // Most tests have none.
        self.test_clocks.iter().next()?;
        if let Some(clock) = params.filled("test_clock") {
            return Some(clock.to_owned());
        }
        let named = NAMES.iter().filter_map(|name| params.filled(name));
        let mut customers = path.split('/').chain(named).filter_map(|id| self.customer_of(id));
        self.test_clock_of(&customers.next()?).map(str::to_owned)
    }

    /// The customer of an object.
    fn customer_of(&self, id: &str) -> Option<String> {
        if id.starts_with("sub_sched_") {
            return self.schedules.get(id).map(|schedule| schedule.customer.clone());
        }
        match id.split_once('_')?.0 {
            "cus" => Some(id.to_owned()),
            "sub" => self.subscriptions.get(id).map(|one| one.customer.clone()),
            "si" => {
                let mut all = self.subscriptions.iter().map(|(_, one)| one);
                all.find(|one| one.items.iter().any(|item| item.id == id))
                    .map(|one| one.customer.clone())
            }
            "in" => self.invoices.get(id).map(|one| one.customer.clone()),
            "ii" => self.invoice_items.get(id).map(|one| one.customer.clone()),
            "cn" => self.credit_notes.get(id).map(|one| one.customer.clone()),
            "cs" => self.sessions.get(id).and_then(|one| one.customer.clone()),
            _ => None,
        }
    }
}
