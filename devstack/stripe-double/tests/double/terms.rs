//! Coupons, promotion codes and tax.

use serde_json::{Value, json};
use stripe_double::BillingSettings;

use crate::rig::{Catalogue, Rig};
use crate::timeline::{period, starting, time};

async fn rig() -> (Rig, Catalogue, String) {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    (rig, plans, customer)
}

/// Subtotal, discount, tax, total.
fn amounts(invoice: &Value) -> [i64; 4] {
    let sum = |list: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .map(|one| time(one, "amount"))
            .sum::<i64>()
    };
    let lines = invoice["lines"]["data"].as_array().unwrap().iter();
    let by_line: i64 = lines
        .map(|line| sum(&line["taxes"]) - sum(&line["discount_amounts"]))
        .sum();
    let (discount, tax) = (sum(&invoice["total_discount_amounts"]), sum(&invoice["total_taxes"]));
    assert_eq!(by_line, tax - discount, "the lines add up");
    [time(invoice, "subtotal"), discount, tax, time(invoice, "total")]
}

#[tokio::test]
async fn coupons_last_as_long_as_they_say() {
    for (duration, discounts) in [
        ("once", [725, 0, 0]),
        ("repeating&duration_in_months=2", [725, 725, 0]),
        ("forever", [725, 725, 725]),
    ] {
        let (rig, plans, customer) = rig().await;
        let coupon = format!("id=quarter&percent_off=25&duration={duration}");
        rig.client.ok("/v1/coupons", &coupon).await;
        let body = format!(
            "customer={customer}&items[0][price]={}&discounts[0][coupon]=quarter",
            plans.pro
        );
        let id = rig.client.id("/v1/subscriptions", &body).await;
        for _ in 0..2 {
            let end = period(&rig.control.object(&id).unwrap()).1;
            rig.control.advance_to(end + 3_600);
        }
        let invoices = rig.control.invoices(&customer);
        let seen: Vec<_> = invoices.iter().map(|invoice| amounts(invoice)[1]).collect();
        assert_eq!(seen, discounts, "{duration}");
        assert_eq!(
            invoices.iter().map(|one| amounts(one)[3]).sum::<i64>(),
            8_700 - discounts.iter().sum::<i64>()
        );
        assert_eq!(rig.client.get("/v1/coupons/quarter").await["times_redeemed"], 1);
        assert_eq!(rig.control.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_code_that_a_customer_types_lowers_the_first_invoice() {
    let (rig, plans, customer) = rig().await;
    let coupon = rig.client.id("/v1/coupons", "amount_off=900&currency=usd").await;
    let code = format!("promotion[type]=coupon&promotion[coupon]={coupon}&code=WELCOME&max_redemptions=1");
    let code = rig.client.id("/v1/promotion_codes", &code).await;
    let checkout = format!(
        "mode=subscription&customer={customer}&success_url=http://x&line_items[0][price]={}&line_items[0][quantity]=1",
        plans.pro
    );
    let closed = rig.client.id("/v1/checkout/sessions", &checkout).await;
    assert!(
        rig.control.complete_checkout_with_code(&closed, "WELCOME").is_err(),
        "no codes here"
    );
    let both = format!("{checkout}&allow_promotion_codes=true&discounts[0][coupon]={coupon}");
    assert_eq!(rig.client.post("/v1/checkout/sessions", &both).await.status, 400);
    let open = rig
        .client
        .id(
            "/v1/checkout/sessions",
            &format!("{checkout}&allow_promotion_codes=true"),
        )
        .await;
    assert!(rig.control.complete_checkout_with_code(&open, "OTHER").is_err());
    rig.control.complete_checkout_with_code(&open, "welcome").unwrap();
    let session = rig.control.object(&open).unwrap();
    assert_eq!(
        (
            &session["amount_subtotal"],
            &session["amount_total"],
            &session["discounts"][0]["promotion_code"]
        ),
        (&json!(2_900), &json!(2_000), &json!(code))
    );
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!(
        (amounts(&invoice), time(&invoice, "amount_paid")),
        ([2_900, 900, 0, 2_000], 2_000)
    );
    let used = rig
        .client
        .id(
            "/v1/checkout/sessions",
            &format!("{checkout}&allow_promotion_codes=true"),
        )
        .await;
    assert!(
        rig.control.complete_checkout_with_code(&used, "WELCOME").is_err(),
        "once"
    );
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn tax_is_on_top_of_what_remains_after_the_discount() {
    let (rig, plans, customer) = rig().await;
    let taxed = format!(
        "customer={customer}&items[0][price]={}&automatic_tax[enabled]=true&discounts[0][coupon]=half",
        plans.pro
    );
    rig.client
        .ok("/v1/coupons", "id=half&percent_off=50&duration=forever")
        .await;
    assert_eq!(rig.client.get("/v1/tax/settings").await["status"], "pending");
    assert_eq!(
        rig.client.post("/v1/subscriptions", &taxed).await.status,
        400,
        "tax is not set up"
    );
    rig.control.set_tax_basis_points(Some(825));
    assert_eq!(rig.client.get("/v1/tax/settings").await["status"], "active");
    let nowhere = rig.client.post("/v1/subscriptions", &taxed).await;
    assert_eq!(
        nowhere.json().unwrap()["error"]["code"],
        "customer_tax_location_invalid"
    );
    let address = "address[country]=US&address[postal_code]=94103";
    rig.client.ok(&format!("/v1/customers/{customer}"), address).await;
    let subscription = rig.client.ok("/v1/subscriptions", &taxed).await;
    assert_eq!(subscription["automatic_tax"]["enabled"], true);
    // 8.25 % of $14.50 is $1.19625.
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!(
        (amounts(&invoice), time(&invoice, "amount_paid")),
        ([2_900, 1_450, 120, 1_570], 1_570)
    );
    let preview = format!("subscription={}", subscription["id"].as_str().unwrap());
    let preview = rig.client.ok("/v1/invoices/create_preview", &preview).await;
    assert_eq!(amounts(&preview), [2_900, 1_450, 120, 1_570]);
    // A credit note takes the same part of discount and tax.
    let line = format!(
        "invoice={}&credit_amount=785&lines[0][type]=invoice_line_item&lines[0][amount]=1450&lines[0][invoice_line_item]={}",
        invoice["id"].as_str().unwrap(),
        invoice["lines"]["data"][0]["id"].as_str().unwrap()
    );
    let note = rig.client.ok("/v1/credit_notes", &line).await;
    assert_eq!(
        (
            time(&note, "subtotal"),
            time(&note, "total_excluding_tax"),
            time(&note, "total")
        ),
        (1_450, 725, 785)
    );

    let checkout = format!(
        "mode=subscription&success_url=http://x&line_items[0][price]={}&line_items[0][quantity]=1&automatic_tax[enabled]=true",
        plans.pro
    );
    let other = rig.customer().await;
    let theirs = format!("{checkout}&customer={other}");
    let refused = rig.client.post("/v1/checkout/sessions", &theirs).await;
    assert_eq!(
        refused.json().unwrap()["error"]["code"],
        "customer_tax_location_invalid"
    );
    let theirs = format!("{theirs}&customer_update[address]=auto");
    let session = rig.client.ok("/v1/checkout/sessions", &theirs).await;
    assert_eq!(
        (&session["amount_total"], &session["total_details"]["amount_tax"]),
        (&json!(3_139), &json!(239))
    );
    rig.control.complete_checkout(session["id"].as_str().unwrap()).unwrap();
    assert_eq!(amounts(&rig.control.invoices(&other)[0]), [2_900, 0, 239, 3_139]);
    assert_eq!(rig.control.violations(), [""; 0]);
}
