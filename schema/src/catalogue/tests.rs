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
            "id = \"free\"\nname = \"Free\"\nprice_cents = 0",
            "id = \"gratis\"\nname = \"Free\"\nprice_cents = 1"
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
    assert!(
        swap("price_cents = 0", "prize_cents = 0")
            .problem
            .contains("prize_cents")
    );
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
