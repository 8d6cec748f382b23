//! The output of the demo: a table, the ledger check, and commands to try.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value, json};

use super::{
    call::{Call, CallOutcome, Driven},
    ledger::Check,
    upgrade::Upgrade,
};
use crate::system::System;

pub(super) struct Report<'a> {
    system: &'a System,
    driven: &'a Driven,
    check: &'a Check,
    upgrade: Option<Upgrade>,
    lines: Vec<Line>,
    refused: BTreeMap<String, usize>,
}

/// One plan and usage type.
#[derive(Clone, Debug, Default)]
struct Line {
    plan: String,
    usage_type: String,
    sent: usize,
    accepted: usize,
    failed: usize,
    refused: usize,
    unknown: usize,
    accepted_units: i64,
    stored: usize,
    stored_units: i64,
}

impl<'a> Report<'a> {
    pub(super) fn new(system: &'a System, driven: &'a Driven, check: &'a Check, upgrade: Option<Upgrade>) -> Self {
        let plan = |call: &Call| {
            call.customer
                .map_or("(no key)", |customer| driven.customers[customer].plan.as_str())
        };
        let mut lines: Vec<Line> = Vec::new();
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        for call in &driven.calls {
            let line = line(&mut lines, plan(call), call.usage_type);
            line.sent += 1;
            match &call.outcome {
                Some(CallOutcome::Accepted(_)) => {
                    line.accepted += 1;
                    line.accepted_units += call.units;
                }
                Some(CallOutcome::Failed(_)) => line.failed += 1,
                Some(CallOutcome::Refused(reason)) => {
                    line.refused += 1;
                    *refused.entry(reason.clone()).or_default() += 1;
                }
                Some(CallOutcome::Unknown | CallOutcome::Unanswered(_)) | None => line.unknown += 1,
            }
        }
        for event in &check.stored {
            let customer = driven
                .customers
                .iter()
                .find(|customer| customer.account_id == event.account_id());
            let line = line(
                &mut lines,
                customer.map_or("(unknown)", |customer| &customer.plan),
                &event.usage_type,
            );
            line.stored += 1;
            line.stored_units += event.cost_units;
        }
        let order = ["free", "pro", "enterprise"];
        lines.sort_by_key(|line| {
            (
                order.iter().position(|plan| *plan == line.plan),
                line.usage_type.clone(),
            )
        });
        Self {
            system,
            driven,
            check,
            upgrade,
            lines,
            refused,
        }
    }

    fn total(&self, count: impl Fn(&Line) -> usize) -> usize {
        self.lines.iter().map(count).sum()
    }

    pub(super) fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            json!({
                "plan": line.plan, "usage_type": line.usage_type, "sent": line.sent, "accepted": line.accepted,
                "failed": line.failed, "refused": line.refused, "unknown": line.unknown,
                "accepted_units": line.accepted_units, "stored": line.stored, "stored_units": line.stored_units,
            })
        });
        let check = self.check;
        json!({
            "sent": self.total(|line| line.sent),
            "accepted": self.total(|line| line.accepted),
            "failed": self.total(|line| line.failed),
            "refused": self.refused,
            "unknown": self.total(|line| line.unknown),
            "stored": self.total(|line| line.stored),
            "unanswered": check.unanswered,
            "unreadable": self.driven.skipped.values().sum::<usize>(),
            "skipped": self.driven.skipped.iter().map(|(reason, count)| (reason.to_string(), json!(count))).collect::<Map<_, _>>(),
            "seconds": self.driven.took.as_secs_f64(),
            "ok": check.is_ok(),
            "ledger": {
                "lost": check.lost, "doubled": check.doubled, "invented": check.invented,
                "different": check.different, "over_admitted_units": check.over_admitted, "examples": check.examples,
            },
            "table": lines.collect::<Vec<_>>(),
            "urls": self.urls(),
            "key": self.key(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut put = |line: String| writeln!(text, "{line}").expect("writing to a string cannot fail");
        put(format!(
            "\n{:<11} {:<19} {:>6} {:>9} {:>7} {:>7} {:>14} {:>7} {:>12}",
            "plan", "usage type", "sent", "accepted", "failed", "refused", "units accepted", "stored", "units stored"
        ));
        for line in &self.lines {
            put(format!(
                "{:<11} {:<19} {:>6} {:>9} {:>7} {:>7} {:>14} {:>7} {:>12}",
                line.plan,
                line.usage_type,
                line.sent,
                line.accepted,
                line.failed,
                line.refused,
                line.accepted_units,
                line.stored,
                line.stored_units
            ));
        }
        let refused: Vec<String> = self
            .refused
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let seconds = self.driven.took.as_secs_f64();
        let sent = self.total(|line| line.sent);
        put(format!(
            "\nrefused: {}",
            if refused.is_empty() {
                "none".to_owned()
            } else {
                refused.join(", ")
            }
        ));
        put(format!(
            "{sent} requests in {seconds:.1} s ({:.0}/s)",
            sent as f64 / seconds
        ));
        for (reason, count) in &self.driven.skipped {
            put(format!("skipped lines of the log: {count} ({reason})"));
        }
        put(
            "(failed: the gateway admitted the request, but the upstream answered 4xx or 5xx. It is stored with 0 units and not charged.)"
                .into(),
        );
        put("(One request can cost several units: a batch of 20 texts costs 20 units.)".into());

        let check = self.check;
        put(format!(
            "\nledger check: {} — {} accepted + {} failed = {} stored; lost {}, doubled {}, invented {}, different {}, units past a limit {}",
            if check.is_ok() { "ok" } else { "FAILED" },
            self.total(|line| line.accepted),
            self.total(|line| line.failed),
            self.total(|line| line.stored),
            check.lost,
            check.doubled,
            check.invented,
            check.different,
            check.over_admitted,
        ));
        if check.unanswered > 0 {
            put(format!("  {} requests got no HTTP answer", check.unanswered));
        }
        check.examples.iter().for_each(|example| put(format!("  {example}")));

        put("\nurls".into());
        if let Value::Object(urls) = self.urls() {
            for (name, url) in urls {
                put(format!(
                    "  {name:<15} {}",
                    url.as_str().map_or_else(|| url.to_string(), str::to_owned)
                ));
            }
        }
        let (gateway, endpoints) = (&self.system.gateways[0].url, &self.system.endpoints);
        put("\ntry".into());
        put(format!(
            "  curl -i -H 'Authorization: Bearer {}' '{gateway}/api/posts/search?q=rust'",
            self.key()
        ));
        put(format!(
            "  curl -s -H 'Authorization: Bearer {}' '{gateway}/v1/usage'",
            self.key()
        ));
        put(format!(
            "  curl -s '{}/?database={}' --data-binary 'select usage_type, count() events, sum(cost_units) units from usage_events group by usage_type order by usage_type format PrettyCompactMonoBlock'",
            endpoints.clickhouse_url, endpoints.clickhouse_database
        ));
        if let Some(upgrade) = &self.upgrade {
            put("\nto upgrade a Free account to Pro, open this page and pay (a fake Stripe, so no money moves); then send the request again".into());
            put(format!("  {}", upgrade.checkout_url));
            put(format!(
                "  curl -s -H 'Authorization: Bearer {}' '{}/billing/subscription'",
                upgrade.key, self.system.billing_url
            ));
            put(format!(
                "  curl -i -H 'Authorization: Bearer {}' '{gateway}/api/posts/search?q=rust'",
                upgrade.key
            ));
        }
        text
    }

    /// A valid key, of the last customer.
    fn key(&self) -> &str {
        self.driven.customers.last().map_or("", |customer| &customer.key)
    }

    fn urls(&self) -> Value {
        let (system, endpoints) = (self.system, &self.system.endpoints);
        json!({
            "gateways": system.gateways.iter().map(|gateway| &gateway.url).collect::<Vec<_>>(),
            "gateway_admin": system.gateways.iter().map(|gateway| gateway.service.admin_url()).collect::<Vec<_>>(),
            "ingestor_admin": system.ingestors.iter().map(crate::Service::admin_url).collect::<Vec<_>>(),
            "billing": system.billing_url,
            "billing_admin": system.billing.admin_url(),
            "stripe": system.stripe.as_ref().map(|stripe| stripe.url()),
            "checkout": self.upgrade.as_ref().map(|upgrade| &upgrade.checkout_url),
            "admin_token": system.admin_token,
            "upstream": system.upstream.as_ref().map(|upstream| upstream.url()),
            "nats": endpoints.nats_url,
            "postgres": endpoints.database_url,
            "clickhouse": endpoints.clickhouse_url,
            "clickhouse_database": endpoints.clickhouse_database,
        })
    }
}

fn line<'a>(lines: &'a mut Vec<Line>, plan: &str, usage_type: &str) -> &'a mut Line {
    let found = lines
        .iter()
        .position(|line| line.plan == plan && line.usage_type == usage_type);
    let index = found.unwrap_or_else(|| {
        lines.push(Line {
            plan: plan.to_owned(),
            usage_type: usage_type.to_owned(),
            ..Line::default()
        });
        lines.len() - 1
    });
    &mut lines[index]
}
