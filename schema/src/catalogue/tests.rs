use super::*;

#[test]
fn the_built_in_catalogue_has_the_numbers_of_the_price_list() {
    let catalogue = Catalogue::built_in();
    let limits = |plan: &str| -> Vec<i64> {
        let plan = catalogue.plan(plan).unwrap();
        catalogue
            .usage_types()
            .iter()
            .map(|usage_type| plan.allowance(*usage_type).limit)
            .collect()
    };
    assert_eq!(limits("free"), [100, 5, 50]);
    assert_eq!(limits("pro"), [10_000, 100, 2_000]);
    assert_eq!(limits("enterprise"), [100_000, 1_000, 20_000]);
    let prices: Vec<_> = catalogue
        .plans()
        .iter()
        .map(|plan| (plan.price_cents, plan.retention_days))
        .collect();
    assert_eq!(prices, [(0, Some(30)), (2_900, Some(365)), (29_900, None)]);
}

#[test]
fn a_plan_has_a_burst_limit_only_if_it_sets_one() {
    let catalogue = Catalogue::built_in();
    assert!(catalogue.plans().iter().all(|plan| plan.burst.is_none()));
    let with = |burst: &str| {
        let line = format!("id = \"pro\"\nburst = {burst}");
        Catalogue::parse(&BUILT_IN.replacen("id = \"pro\"", &line, 1))
    };
    let burst = with("{ per_second = 20, size = 50 }")
        .unwrap()
        .plan("pro")
        .unwrap()
        .burst
        .unwrap();
    assert_eq!((burst.per_second.get(), burst.size.get()), (20, 50));
    for wrong in [
        "{ per_second = 0, size = 1 }",
        "{ per_second = 1, size = 1_000_001 }",
        "{ per_second = 1 }",
        "7",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
    let named = BUILT_IN.replacen("\"api_call\"", "\"burst\"", 1);
    assert!(Catalogue::parse(&named).unwrap_err().problem.contains("called"));
}

#[test]
fn mistakes_are_named_with_their_line() {
    let swap = |from: &str, to: &str| Catalogue::parse(&BUILT_IN.replacen(from, to, 1)).unwrap_err();
    let line = |needle: &str| BUILT_IN.lines().position(|l| l.starts_with(needle)).unwrap() + 1;

    let error = swap("usage.export = { limit = 5 }", "usage.exprot = { limit = 5 }");
    assert_eq!(error.line, line("usage.export"));
    assert!(error.problem.contains("unknown usage type `exprot`"), "{error}");

    let error = swap("usage.api_call = { limit = 100 }", "usage.api_call = { limit = -1 }");
    assert_eq!(error.line, line("usage.api_call"));

    assert!(
        swap(
            "id = \"free\"\nname = \"Free\"",
            "id = \"gratis\"\nname = \"Free\"\nprices = { month = 1 }"
        )
        .problem
        .contains("no plan `free`")
    );
    assert!(swap("id = \"pro\"", "id = \"free\"").problem.contains("different"));
    for (usage, price) in [
        (
            "usage.export = { limit = 5 }",
            "usage.export = { limit = 5, mode = \"overage\", unit_price_micros = 1 }",
        ),
        (
            "usage.export = { limit = 100 }",
            "usage.export = { limit = 100, mode = \"overage\" }",
        ),
        (
            "usage.export = { limit = 100 }",
            "usage.export = { limit = 100, unit_price_micros = 5 }",
        ),
    ] {
        assert!(swap(usage, price).problem.contains("unit_price_micros"), "{price}");
    }
    assert!(swap("prices =", "prizes =").problem.contains("prizes"));
}

#[test]
fn a_plan_is_in_the_price_list_unless_it_says_otherwise() {
    let catalogue = Catalogue::built_in();
    assert!(catalogue.plans().iter().all(|plan| plan.listed));
    let unlisted = |id: &str| {
        let id = format!("id = \"{id}\"");
        Catalogue::parse(&BUILT_IN.replacen(&id, &format!("{id}\nlisted = false"), 1))
    };
    assert!(!unlisted("pro").unwrap().plan("pro").unwrap().listed);
    assert!(unlisted("free").unwrap_err().problem.contains("listed"));
}

#[test]
fn prices_that_do_not_fit_are_refused_with_what_to_write() {
    let pro = |prices: &str| Catalogue::parse(&BUILT_IN.replacen("prices = { month = 2900 }", prices, 1));
    for (prices, problem) in [
        (
            "price_cents = 2900",
            "instead of `price_cents = 2900` write `prices = { month = 2900 }`",
        ),
        ("", "needs a price per month"),
        ("prices = {}", "needs a price per month"),
        ("prices = { year = 29000 }", "needs a price per month"),
        ("prices = { month = 0 }", "more than 0"),
        ("prices = { month = \"29\" }", "a whole number"),
        ("prices = { week = 700 }", "week"),
        ("prices = { month = { eur = 2700 } }", "`usd` is missing"),
        (
            "prices = { month = { usd = 2900, EUR = 2700 } }",
            "three lower-case letters",
        ),
        ("prices = { month = { usd = 2900, jpy = 4000 } }", "hundredths"),
        (
            "prices = { month = { usd = 2900, eur = 2700 }, year = 29000 }",
            "same currencies",
        ),
        (
            "prices = { month = 2900 }\nusage_billing = \"year_end\"",
            "only for a plan with a price per year",
        ),
        (
            "prices = { month = 2900, year = 29000 }\nusage_billing = \"weekly\"",
            "weekly",
        ),
    ] {
        let error = pro(prices).unwrap_err();
        assert!(error.problem.contains(problem), "{prices}: {error}");
    }
    let yearly = pro("prices.month = 2900\nprices.year = { usd = 29000 }\nusage_billing = \"year_end\"").unwrap();
    let yearly = yearly.plan("pro").unwrap();
    assert_eq!(yearly.usage_billing, UsageBilling::YearEnd);
    assert_eq!(yearly.prices[&Interval::Year][&Currency::USD], 29_000);

    let with_price = BUILT_IN.replacen("name = \"Free\"", "name = \"Free\"\nprices = { month = 1 }", 1);
    assert!(
        Catalogue::parse(&with_price)
            .unwrap_err()
            .problem
            .contains("remove `prices`")
    );
    let before = BUILT_IN.replacen("name = \"Free\"", "name = \"Free\"\nprice_cents = 0", 1);
    assert!(
        Catalogue::parse(&before)
            .unwrap_err()
            .problem
            .contains("remove `price_cents`")
    );
    // A unit costs something in each currency of the plan.
    let unit = |price: &str| {
        let export = format!("usage.export = {{ limit = 100, mode = \"overage\", unit_price_micros = {price} }}");
        let text = BUILT_IN.replacen("{ month = 2900 }", "{ month = { usd = 2900, eur = 2700 } }", 1);
        Catalogue::parse(&text.replacen("usage.export = { limit = 100 }", &export, 1))
    };
    assert!(unit("1000").unwrap_err().problem.contains("eur, usd"));
    assert!(
        unit("{ usd = 1000, eur = 0 }")
            .unwrap_err()
            .problem
            .contains("more than 0")
    );
    assert!(unit("{ usd = 1000, eur = 900 }").is_ok());
}
