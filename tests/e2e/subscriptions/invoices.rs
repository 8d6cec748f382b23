//! An invoice bills the counted units of its period, with the name of the usage type.

use billing_worker::{reports, webhook::comparison};
use devstack::StripeDoubleOptions;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::rig::{DAY_S, Rig, with_overage};

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_bills_all_that_was_counted_until_its_period_ended() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let first = rig.period(&ada).await;

    // Some of it is reported in the period, the rest while the invoice is a draft.
    rig.use_units(&ada, "export", 135).await;
    rig.turn_by(DAY_S);
    let reporter = rig.billing.reporter().unwrap();
    let flushed = reports::flush(reporter, ada.account, rig.control().now())
        .await
        .unwrap();
    assert_eq!((flushed.delivered, flushed.open, flushed.parked), (1, 0, 0));
    rig.use_units(&ada, "export", 5).await;
    rig.use_units(&ada, "api_call", 10_000).await;
    rig.end_period(&ada).await;

    // $29 for the month that begins, and five cents for each export past a hundred of the one that ended.
    let shown = rig.get(&ada, "invoices").await;
    let shown = &shown["items"][0];
    assert_eq!(
        (&shown["status"], &shown["total_cents"], &shown["amount_paid_cents"]),
        (&json!("paid"), &json!(3_100), &json!(3_100))
    );
    let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
    let lines = invoices.last().unwrap()["lines"]["data"].as_array().unwrap();
    let line = |line: &Value| {
        let number = |field: &str| line[field].as_i64().unwrap();
        let name = line["description"].as_str().unwrap().to_owned();
        (name, number("quantity"), number("amount"))
    };
    let expected = [
        ("1 × Pro", 1, 2_900),
        ("100 × Pro: export", 100, 0),
        ("40 × Pro: export", 40, 200),
    ];
    assert_eq!(lines.len(), expected.len());
    for ((name, quantity, cents), (begins, expected_quantity, expected_cents)) in lines.iter().map(line).zip(expected) {
        assert!(name.starts_with(begins), "{name}");
        assert_eq!((quantity, cents), (expected_quantity, expected_cents), "{name}");
    }

    // The same, as the customer sees it: the month that it pays for, and the month before it, which it bills.
    let seconds = |at: &Value| {
        OffsetDateTime::parse(at.as_str().unwrap(), &Rfc3339)
            .unwrap()
            .unix_timestamp()
    };
    let second = rig.period(&ada).await;
    assert_eq!(
        (seconds(&shown["period_start"]), seconds(&shown["period_end"])),
        (first.start, second.end)
    );
    let details = rig
        .get(&ada, &format!("invoices/{}", shown["id"].as_str().unwrap()))
        .await;
    for field in [
        "id",
        "number",
        "status",
        "total_cents",
        "period_start",
        "period_end",
        "hosted_invoice_url",
        "invoice_pdf",
    ] {
        assert_eq!(details[field], shown[field], "{field}");
    }
    assert!(details["invoice_pdf"].as_str().unwrap().starts_with("http"));
    let amounts = [
        "subtotal_cents",
        "discount_cents",
        "tax_cents",
        "total_cents",
        "amount_remaining_cents",
    ];
    assert_eq!(
        amounts.map(|field| details[field].as_i64().unwrap()),
        [3_100, 0, 0, 3_100, 0]
    );
    let lines: Vec<_> = details["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().map(str::to_owned);
            let number = |field: &str| line[field].as_i64();
            let period = (seconds(&line["period_start"]), seconds(&line["period_end"]));
            (
                text("kind"),
                text("plan"),
                text("usage_type"),
                number("quantity"),
                number("unit_price_micros"),
                number("amount_cents"),
                period,
            )
        })
        .collect();
    let (plan, usage) = (Some("pro".to_owned()), Some("usage".to_owned()));
    let export = Some("export".to_owned());
    let (last, next) = ((first.start, first.end), (second.start, second.end));
    assert_eq!(
        lines,
        [
            (
                plan.clone().map(|_| "plan".to_owned()),
                plan.clone(),
                None,
                Some(1),
                Some(29_000_000),
                Some(2_900),
                next
            ),
            (
                usage.clone(),
                plan.clone(),
                export.clone(),
                Some(100),
                Some(0),
                Some(0),
                last
            ),
            (usage, plan, export, Some(40), Some(50_000), Some(200), last),
        ]
    );

    // The next invoice bills the next period, in which nothing was used.
    assert_eq!(rig.period(&ada).await.start, first.end);
    rig.end_period(&ada).await;
    assert_eq!(rig.get(&ada, "invoices").await["items"][0]["total_cents"], 2_900);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_on_the_next_invoice_if_no_event_reported_that_its_own_is_final() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    let look = async || comparison::run(&rig.billing).await.unwrap();
    assert_eq!(look().await.mended, 1);
    rig.use_units(&ada, "export", 135).await;
    // No event comes, and the invoice is final by then.
    rig.turn_to(rig.period(&ada).await.end + 3 * 3_600);
    look().await;
    let reporter = rig.billing.reporter().unwrap();
    let step = async || reports::step(reporter, rig.control().now()).await.unwrap();
    let first = step().await;
    assert_eq!((first.closed, first.carries > 0), (1, true), "{first:?}");
    assert_eq!(step().await.closed, 0);
    let state = rig.state(&ada).await.unwrap();
    assert!(state["periods"][0]["final_at"].is_string(), "{state}");

    rig.listen();
    rig.end_period(&ada).await;
    let invoices = rig.get(&ada, "invoices").await;
    assert_eq!(invoices["items"][0]["total_cents"], 2_900 + 35 * 5, "{invoices}");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_invoiced_as_a_credit_and_a_charge_for_the_rest_of_the_period() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(10 * DAY_S);
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    let (end, now) = (rig.subscription(&ada).await["period_end"].clone(), rig.control().now());
    let shown = rig.get(&ada, "invoices").await["items"][0].clone();
    let details = rig
        .get(&ada, &format!("invoices/{}", shown["id"].as_str().unwrap()))
        .await;
    let lines = details["lines"].as_array().unwrap();
    let amounts: Vec<_> = lines
        .iter()
        .map(|line| line["amount_cents"].as_i64().unwrap())
        .collect();
    assert!(amounts.len() == 2 && amounts[0] < 0 && amounts[1] > 0, "{details}");
    assert_eq!(details["total_cents"], amounts.iter().sum::<i64>());
    for line in lines {
        assert_eq!(
            (&line["kind"], &line["period_end"]),
            (&json!("proration"), &end),
            "{line}"
        );
    }
    // From the change to the end of the period, not the time before the change.
    let start = OffsetDateTime::parse(shown["period_start"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!((now - 60..=now).contains(&start.unix_timestamp()), "{shown}");
    assert_eq!(shown["period_end"], end);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invoice_of_another_account_is_as_unknown_as_one_that_does_not_exist() {
    let rig = Rig::start().await;
    rig.listen();
    let (ada, ben) = (rig.subscribed("ada", "pro").await, rig.subscribed("ben", "pro").await);
    let nobody = rig.subscriber("nobody").await;
    let theirs = rig.get(&ben, "invoices").await["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut problems = Vec::new();
    for (who, id) in [
        (&ada, theirs.as_str()),
        (&ada, "in_ofNobody1"),
        (&ada, "nonsense"),
        (&ada, "in_"),
        (&ada, "cus_1"),
        (&ada, "%FF"),
        (&nobody, theirs.as_str()),
    ] {
        let url = format!("{}/billing/invoices/{id}", rig.url);
        let answer = rig.http.get(&url, &who.key).await.unwrap();
        let mut problem = answer.json().unwrap();
        assert_eq!(
            (answer.status.as_u16(), &problem["error"]),
            (404, &json!("unknown_invoice")),
            "{id}"
        );
        // The id of the request.
        problem.as_object_mut().unwrap().remove("instance");
        problems.push(problem);
    }
    problems.dedup();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(rig.get(&ben, &format!("invoices/{theirs}")).await["total_cents"], 2_900);
    rig.assert_valid();
}
