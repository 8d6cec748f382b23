//! The features of a plan as a price list shows them: those that the catalogue names, and a line for each limit, price and period
//! that it sets. So the list is complete, and cannot contradict the limits. Pure.

use schema::{Catalogue, Mode, Plan, UsageType};

pub(super) fn of(catalogue: &Catalogue, plan: &Plan) -> Vec<String> {
    let mut features = plan.features.clone();
    let usage_types = catalogue.usage_types().iter();
    features.extend(usage_types.map(|usage_type| usage(plan, *usage_type)));
    features.push(match plan.retention_days {
        Some(days) => format!("usage data kept for {}", counted(i64::from(days), "day")),
        None => "usage data kept without a time limit".to_owned(),
    });
    if let Some(burst) = plan.burst {
        features.push(format!(
            "{} at once and then {} a second, for each API key",
            counted(i64::from(burst.size.get()), "request"),
            thousands(i64::from(burst.per_second.get()))
        ));
    }
    if plan.trial_days > 0 {
        features.push(format!("free trial of {}", counted(i64::from(plan.trial_days), "day")));
    }
    features
}

fn usage(plan: &Plan, usage_type: UsageType) -> String {
    let allowance = plan.allowance(usage_type);
    let (limit, price) = (thousands(allowance.limit), dollars(allowance.unit_price_micros));
    match allowance.mode {
        Mode::Limited => format!("{usage_type}: {limit} a month"),
        Mode::Overage => format!("{usage_type}: {limit} a month included, then {price} each"),
        Mode::Metered => format!("{usage_type}: {price} each, no limit"),
    }
}

fn counted(count: i64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", thousands(count))
}

/// `10,000`
fn thousands(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `$0.05`, `$0.0015`: at least two decimals.
fn dollars(micros: i64) -> String {
    let fraction = format!("{:06}", micros % 1_000_000);
    let (cents, rest) = fraction.split_at(2);
    format!(
        "${}.{cents}{}",
        thousands(micros / 1_000_000),
        rest.trim_end_matches('0')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_plans_list_all_that_they_allow() {
        let catalogue = Catalogue::built_in();
        let of = |plan: &str| of(&catalogue, catalogue.plan(plan).unwrap());
        assert_eq!(
            of("free"),
            [
                "Basic API access",
                "Community support",
                "api_call: 100 a month",
                "export: 5 a month",
                "sentiment_analysis: 50 a month",
                "usage data kept for 30 days",
            ]
        );
        assert_eq!(
            of("enterprise")[3..],
            [
                "api_call: 100,000 a month",
                "export: 1,000 a month",
                "sentiment_analysis: 20,000 a month",
                "usage data kept without a time limit",
            ]
        );
    }

    #[test]
    fn whatever_a_plan_bills_or_slows_down_is_listed() {
        let text = r#"
            usage_types = ["api_call", "export"]
            [[plan]]
            id = "free"
            name = "Free"
            usage.api_call = { limit = 0 }
            usage.export = { limit = 1 }
            [[plan]]
            id = "scale"
            name = "Scale"
            prices = { month = 4900 }
            trial_days = 14
            retention_days = 1
            burst = { per_second = 50, size = 1_000 }
            usage.api_call = { limit = 1_000_000, mode = "overage", unit_price_micros = 1_500 }
            usage.export = { mode = "metered", unit_price_micros = 1_333_333 }
        "#;
        let catalogue = Catalogue::parse(text).unwrap();
        assert_eq!(
            of(&catalogue, catalogue.plan("scale").unwrap()),
            [
                "api_call: 1,000,000 a month included, then $0.0015 each",
                "export: $1.333333 each, no limit",
                "usage data kept for 1 day",
                "1,000 requests at once and then 50 a second, for each API key",
                "free trial of 14 days",
            ]
        );
        assert_eq!(dollars(50_000), "$0.05");
        assert_eq!(dollars(2_000_000), "$2.00");
    }
}
