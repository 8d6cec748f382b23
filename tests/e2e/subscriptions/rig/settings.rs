//! Other settings of the rig: it starts again with them.

use std::time::Duration;

use billing_worker::{
    check::{self, row::Row},
    reports::{Reporter, settings::LateUsage},
    stripe::Stripe,
    subscriptions::{
        billing::{Billing, LostDispute},
        paused::PausedCollection,
    },
};

use clap::Parser;

use super::{Rig, Settings};

impl Rig {
    /// From now on, this many reads and this many writes per second.
    pub(in crate::subscriptions) async fn slow_down(&mut self, calls_per_second: u32) {
        self.settings.stripe.stripe_calls_per_second = calls_per_second;
        self.restart().await;
    }

    /// From now on, a call to Stripe may take this long.
    pub(in crate::subscriptions) async fn be_patient(&mut self, timeout: Duration) {
        self.settings.stripe.stripe_timeout = timeout;
        self.restart().await;
    }

    /// From now on, with these arguments too.
    pub(in crate::subscriptions) async fn set(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.settings = Settings::parse_from(&self.args);
        self.restart().await;
    }

    /// From now on, this happens to subscriptions whose invoices are not collected.
    pub(in crate::subscriptions) async fn paused_collection(&mut self, paused: PausedCollection) {
        self.settings.billing.paused_collection = paused;
        self.restart().await;
    }

    /// From now on, this happens to usage that arrives after its invoice is final.
    pub(in crate::subscriptions) async fn late_usage(&mut self, late_usage: LateUsage) {
        let mut reporter = self.billing.reporter().unwrap().clone();
        reporter.settings.late_usage = late_usage;
        self.report_with(reporter).await;
    }

    /// From now on, an account that loses a dispute is suspended.
    pub(in crate::subscriptions) async fn suspend_for_lost_disputes(&mut self) {
        self.settings.billing.lost_dispute = LostDispute::Suspend;
        self.restart().await;
    }

    /// From now on, browsers and Stripe reach the public port at the rig's own URL.
    pub(in crate::subscriptions) async fn is_public(&mut self) {
        let url = self.url.clone();
        self.settings.billing.billing_public_url = url.clone();
        self.restart().await;
        // The earlier server still runs.
        self.url = url;
    }

    /// What `stripe check` says.
    pub(in crate::subscriptions) async fn check(&self) -> Vec<Row> {
        check::run(&self.billing, &self.settings.stripe).await.unwrap()
    }

    /// With the current settings.
    async fn restart(&mut self) {
        let client = Stripe::new(&self.settings.stripe, Default::default()).unwrap().unwrap();
        let reporter = Reporter {
            stripe: client,
            ..self.billing.reporter().unwrap().clone()
        };
        self.report_with(reporter).await;
    }

    async fn report_with(&mut self, reporter: Reporter) {
        let (admin, clock) = (self.billing.admin.clone(), self.billing.clock.clone());
        self.billing = Billing::new(admin, Some(reporter), self.settings.billing.clone(), clock);
        self.serve_again().await;
    }
}
