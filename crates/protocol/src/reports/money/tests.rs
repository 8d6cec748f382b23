//! Whatever happens to usage, each cent of it is explained. Whatever somebody changes by hand is a difference.

use proptest::prelude::*;

use super::{
    MoneyState, Price, explain,
    usage::{Late, LateOutcome, Line, LineStatus, Priced, Stage, Usage},
};

/// What happens to units that come late.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Waits,
    Charged {
        on_invoice: bool,
    },
    /// At most so much is left on the invoices.
    Credited {
        left: i64,
    },
}

fn history() -> impl Strategy<Value = (Price, i64, Vec<(i64, Happens)>)> {
    let price = (0i64..2_000, prop_oneof![Just(15_000), Just(333_333), 1i64..2_000_000]);
    let price = price.prop_map(|(included, unit_price_micros)| Price {
        included,
        unit_price_micros,
    });
    let late = (
        1i64..700,
        prop_oneof![
            Just(Happens::Waits),
            any::<bool>().prop_map(|on_invoice| Happens::Charged { on_invoice }),
            (0i64..20_000).prop_map(|left| Happens::Credited { left }),
        ],
    );
    (price, 0i64..5_000, prop::collection::vec(late, 0..6))
}

/// The segment after its invoice, as the billing worker and Stripe leave it.
fn billed(price: Price, reported: i64, happened: &[(i64, Happens)]) -> Usage<'static> {
    let mut usage = Usage {
        usage_type: "export",
        currency: "usd",
        priced: Priced::At(price),
        stage: Stage::Final,
        counted: reported,
        carried_in: 0,
        carried_out: 0,
        reported,
        late: vec![],
        lines: vec![],
        charged: 0,
        charged_void: 0,
    };
    // A line for each tier.
    let included = reported.min(price.included);
    for (quantity, amount) in [(included, 0), (reported - included, price.cents(reported))] {
        usage.lines.push(Line {
            invoice: "in_1",
            quantity,
            amount,
            status: LineStatus::Final,
        });
    }
    let mut before = reported;
    for (units, happens) in happened {
        let units = match happens {
            Happens::Credited { .. } => -*units,
            _ => *units,
        };
        usage.counted += units;
        usage.carried_out += units;
        let cost = price.difference(before, units);
        let outcome = match happens {
            Happens::Waits => LateOutcome::Waiting,
            Happens::Charged { .. } if cost == 0 => LateOutcome::Nothing {
                why: "it costs nothing".into(),
            },
            Happens::Charged { on_invoice } => {
                usage.charged += if *on_invoice { cost } else { 0 };
                LateOutcome::Charged {
                    cents: cost,
                    is_due: false,
                }
            }
            Happens::Credited { left } => LateOutcome::Credited {
                cents: (-cost).min(*left),
                noted: Some((-cost).min(*left)),
                why: (-cost > *left).then(|| "the invoices have less left".into()),
            },
        };
        let is_priced = outcome != LateOutcome::Waiting;
        usage.late.push(Late {
            units,
            before: is_priced.then_some(before),
            outcome,
        });
        before += if is_priced { units } else { 0 };
    }
    usage
}

proptest! {
    #[test]
    fn every_cent_is_explained((price, reported, happened) in history()) {
        let usage = billed(price, reported, &happened);
        let explained = explain(&usage);
        prop_assert_eq!(&explained.differences, &Vec::<String>::new());
        let money = explained.money;
        prop_assert_eq!(money.difference, 0);
        prop_assert_eq!(money.owed, price.cents(usage.counted));
        prop_assert_eq!(money.owed, money.invoiced - money.credited + money.pending + money.open + money.waived);
    }

    #[test]
    fn a_running_period_owes_what_is_shown((price, reported, _) in history(), more in 0i64..50) {
        let usage = Usage { stage: Stage::Open, counted: reported + more, lines: vec![], ..billed(price, reported, &[]) };
        let explained = explain(&usage);
        prop_assert_eq!((explained.money.owed, explained.money.difference), (price.cents(reported + more), 0));
    }

    #[test]
    fn a_change_by_hand_is_a_difference((price, reported, happened) in history(), what in 0usize..5, by in 1i64..900) {
        let mut usage = billed(price, reported, &happened);
        let is_changed = match what {
            0 => usage.lines.pop().is_some_and(|line| line.quantity != 0),
            1 => { usage.lines[1].amount += by; true }
            2 => { usage.lines[0].quantity -= by; true }
            3 => usage.late.iter_mut().any(|late| match &mut late.outcome {
                LateOutcome::Charged { cents, .. } => { *cents += by; true }
                _ => false,
            }),
            _ => usage.late.iter_mut().any(|late| match &mut late.outcome {
                LateOutcome::Credited { noted: Some(noted), .. } => { *noted += by; true }
                _ => false,
            }),
        };
        let explained = explain(&usage);
        prop_assert_eq!(explained.state == MoneyState::Difference, is_changed);
        prop_assert_eq!(explained.differences.is_empty(), !is_changed);
    }

    #[test]
    fn an_item_of_late_usage_that_no_invoice_has_is_a_difference_once_it_is_due(
        (price, reported, happened) in history()
    ) {
        let mut usage = billed(price, reported, &happened);
        let on_invoices = usage.charged;
        let mut charged = 0;
        for late in &mut usage.late {
            if let LateOutcome::Charged { cents, is_due } = &mut late.outcome {
                charged += *cents;
                *is_due = true;
            }
        }
        let explained = explain(&usage);
        prop_assert_eq!(explained.money.difference, on_invoices - charged);
        prop_assert_eq!(explained.differences.is_empty(), on_invoices == charged);
    }
}

#[test]
fn what_nobody_pays_for_is_free_and_an_unread_invoice_is_no_difference() {
    let price = Price {
        included: 0,
        unit_price_micros: 15_000,
    };
    let usage = billed(price, 500, &[]);
    let of = |priced, lines: &[Line<'static>], stage| {
        explain(&Usage {
            priced,
            lines: lines.to_vec(),
            stage,
            ..usage.clone()
        })
    };
    let free = Priced::Free { why: "it is a trial" };
    assert_eq!(of(free, &[], Stage::Final).state, MoneyState::Free);
    let asked = of(free, &usage.lines, Stage::Final);
    assert_eq!((asked.state, asked.money.difference), (MoneyState::Difference, 750));
    assert_eq!(of(Priced::Not, &[], Stage::Final).state, MoneyState::Ok);
    let unread = of(Priced::At(price), &[], Stage::Unread);
    assert_eq!(
        (unread.state, unread.money.pending, unread.notes.len()),
        (MoneyState::Pending, 750, 1)
    );
    let unknown = of(Priced::Unknown, &usage.lines, Stage::Final);
    assert_eq!((unknown.state, unknown.notes.len()), (MoneyState::Ok, 1));
    let nothing = of(Priced::At(price), &[], Stage::Final);
    assert_eq!(
        nothing.differences,
        ["export: 500 units were reported, and no invoice bills them: 0.00 usd instead of 7.50 usd"]
    );
}

#[test]
fn a_void_invoice_is_waived_unless_another_one_replaces_it() {
    let price = Price {
        included: 0,
        unit_price_micros: 15_000,
    };
    let mut usage = billed(price, 500, &[]);
    for line in &mut usage.lines {
        line.status = LineStatus::Void;
    }
    let waived = explain(&usage);
    assert_eq!(
        (waived.state, waived.money.waived, waived.notes.len()),
        (MoneyState::Ok, 750, 1)
    );
    usage.lines.push(Line {
        invoice: "in_2",
        quantity: 500,
        amount: 750,
        status: LineStatus::Final,
    });
    let replaced = explain(&usage);
    assert_eq!(
        (replaced.state, replaced.money.invoiced, replaced.money.waived),
        (MoneyState::Ok, 750, 0)
    );
}
