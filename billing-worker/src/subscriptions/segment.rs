//! Which segment of a subscription's period runs. Pure.
//!
//! A segment is a part of a period with one set of usage prices. Its usage goes to the meters of one slot. Segments that are billed
//! by the same invoice have different slots, so that old and new usage share no meter, whenever they arrive.

use protocol::reports::period::BilledBy;
use schema::{Mode, PlanVersion, catalogue::Allowance};
use uuid::Uuid;

use super::mirrored::{Mirrored, MirroredItem};
use crate::stripe::names::METER_SLOTS;

/// A segment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub start: i64,
    pub end: i64,
    /// The end of the period whose invoice bills it.
    pub bills_at: i64,
    pub slot: i16,
    /// `None`: not known.
    pub plan: Option<String>,
    /// `None`: not known, or the price is not one of this service.
    pub version: Option<Uuid>,
    pub is_final: bool,
    pub billed_by: BilledBy,
}

impl Known {
    /// Units may still be reported to its meters.
    fn has_meters(&self) -> bool {
        !self.is_final && self.billed_by == BilledBy::Invoice
    }
}

/// The segment that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: i64,
    pub slot: i16,
}

/// An upgrade of ours that has begun and is not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub at: i64,
    pub slot: i16,
}

/// The metered items of the version of the plan that runs. Items of an earlier one stay until the invoice of their period is final.
pub(super) fn items(of: &Mirrored) -> impl Iterator<Item = &MirroredItem> {
    let of_plan = of.items.iter();
    let of_plan: Vec<_> = of_plan
        .filter(|item| item.usage_type.is_some() && is_of(&of.plan, item))
        .collect();
    let version = of.version.as_ref();
    let items = of_plan.clone().into_iter();
    items.filter(move |item| version.is_none_or(|version| bills(version, item, &of_plan)))
}

/// The metered items that bill the usage of this slot: those of the plan. Somebody may have changed only the price of the plan in
/// Stripe. Then the items of the earlier plan go on.
pub(super) fn billed_by(of: &Mirrored, slot: i16) -> Vec<&MirroredItem> {
    let mut found: Vec<_> = items(of).filter(|item| item.meter_slot == slot).collect();
    for item in of.items.iter().filter(|item| item.metered_slot() == Some(slot)) {
        if !found.iter().any(|other| other.usage_type == item.usage_type) {
            found.push(item);
        }
    }
    found
}

/// `known`: the segments of the subscription whose invoice is not final, and the last one. Oldest first.
pub(super) fn running(known: &[Known], of: &Mirrored, begun: Option<Begun>, now: i64) -> Segment {
    let last = known.iter().max_by_key(|known| known.start);
    let of_period = last.filter(|last| of.period.contains(last.start));
    if let Some(Begun { at, slot }) = begun {
        let stored = of_period.filter(|last| last.slot == slot && last.start >= at);
        let earliest = of_period.map_or(of.period.start, |last| last.start + 1);
        return Segment {
            start: stored.map_or(at.max(earliest), |last| last.start),
            slot,
        };
    }
    let has = |slot: i16| items(of).any(|item| item.meter_slot == slot);
    let is_taken = |slot: i16| known.iter().any(|known| known.slot == slot && known.has_meters());
    // A slot of the plan's items that no other segment uses.
    let free = items(of)
        .map(|item| item.meter_slot)
        .filter(|slot| !is_taken(*slot))
        .max();
    match of_period {
        Some(last) => {
            let version = of.version.as_ref().map(|version| version.id);
            let is_same = last.plan.as_ref().is_none_or(|plan| *plan == of.plan)
                && last.version.is_none_or(|last| Some(last) == version);
            let keeps = is_same || has(last.slot);
            match free.filter(|_| !keeps && of.period.contains(now) && now > last.start) {
                // Somebody changed the plan in Stripe.
                Some(slot) => Segment { start: now, slot },
                None => Segment {
                    start: last.start,
                    slot: last.slot,
                },
            }
        }
        None => Segment {
            start: of.period.start,
            slot: match last {
                Some(last) if has(last.slot) => last.slot,
                _ => free
                    .or_else(|| items(of).map(|item| item.meter_slot).max())
                    .or_else(|| {
                        free_slot(
                            known,
                            of.items.iter().filter_map(MirroredItem::metered_slot),
                            of.period.start,
                        )
                    })
                    .unwrap_or(0),
            },
        },
    }
}

/// The segment of a slice that runs. Slices share no meters, so all have the first slot. `costs_the_same`: units cost what they cost
/// in the last known segment.
pub(super) fn of_slice(known: &[Known], of: &Mirrored, costs_the_same: bool, now: i64) -> Segment {
    let last = known.iter().max_by_key(|known| known.start);
    let start = match last.filter(|last| of.period.contains(last.start)) {
        None => of.period.start,
        Some(last) if costs_the_same || !of.period.contains(now) || now <= last.start => last.start,
        // Another version of the plan has begun.
        Some(_) => now,
    };
    Segment { start, slot: 0 }
}

/// A slot for a segment that begins then: no item bills its meters, and no segment that is billed later uses them. `billed`: the
/// slots of the subscription's items.
pub(super) fn free_slot(known: &[Known], billed: impl IntoIterator<Item = i16>, at: i64) -> Option<i16> {
    let billed: Vec<i16> = billed.into_iter().collect();
    let is_used = |slot: i16| {
        let mut open = known.iter().filter(|known| known.has_meters() && known.bills_at > at);
        open.any(|known| known.slot == slot)
    };
    (0..METER_SLOTS).find(|slot| !billed.contains(slot) && !is_used(*slot))
}

fn is_of(plan: &str, item: &MirroredItem) -> bool {
    item.plan.as_deref() == Some(plan)
}

/// Whether the item bills usage of this version. `all`: the metered items of its plan. If none of a usage type has the prices of the
/// version, somebody changed them in Stripe.
fn bills(version: &PlanVersion, item: &MirroredItem, all: &[&MirroredItem]) -> bool {
    let usage_type = item.usage_type.as_deref().unwrap_or_default();
    let Some(allowance) = version.terms.usage.get(usage_type) else {
        return false;
    };
    let mut same_type = all.iter().filter(|other| other.usage_type == item.usage_type);
    allowance.mode != Mode::Limited && (agrees(allowance, item) || !same_type.any(|other| agrees(allowance, other)))
}

fn agrees(allowance: &Allowance, item: &MirroredItem) -> bool {
    item.rate
        .as_ref()
        .is_some_and(|rate| (rate.included, rate.unit_price_micros) == (allowance.limit, allowance.unit_price_micros))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schema::{Catalogue, Period, PlanTerms, SubscriptionId, subscription::SubscriptionStatus};

    use super::*;
    use crate::stripe::catalogue::Rate;

    const START: i64 = 1_800_000_000;
    const END: i64 = START + 1_000;

    fn mirrored(plan: &str, metered: &[(&str, i16)]) -> Mirrored {
        let period = Period { start: START, end: END };
        let items = metered.iter().map(|(plan, slot)| MirroredItem {
            id: format!("si_{plan}_{slot}"),
            price_id: format!("price_{plan}_{slot}"),
            usage_type: Some("export".into()),
            plan: Some((*plan).to_owned()),
            meter_slot: *slot,
            rate: None,
            created: None,
            period,
        });
        Mirrored {
            id: SubscriptionId::NIL,
            stripe_id: "sub_1".into(),
            plan: plan.into(),
            version: None,
            status: SubscriptionStatus::Active,
            period,
            paid: period,
            interval_months: 1,
            currency: None,
            anchor: START,
            ends_at: None,
            then_plan: None,
            then_version: None,
            then_price_ids: Vec::new(),
            grace_until: None,
            owed_invoice: None,
            is_paused: false,
            cancel_at_period_end: false,
            trial_ends_at: None,
            schedule_id: None,
            ended_at: None,
            items: items.collect(),
        }
    }

    fn known(start: i64, plan: &str, slot: i16) -> Known {
        let end = if start < START { START } else { END };
        Known {
            start,
            end,
            bills_at: end,
            slot,
            plan: Some(plan.into()),
            version: None,
            is_final: false,
            billed_by: BilledBy::Invoice,
        }
    }

    #[test]
    fn other_prices_begin_a_segment_within_a_slice() {
        let (pro, first) = (mirrored("pro", &[]), known(START, "pro", 0));
        let of = |known: &[Known], costs_the_same: bool, now: i64| of_slice(known, &pro, costs_the_same, now).start;
        assert_eq!(of(&[], false, START + 9), START);
        assert_eq!(of(&[known(START - 5, "pro", 0)], false, START + 9), START);
        assert_eq!(of(std::slice::from_ref(&first), true, START + 9), START);
        assert_eq!(of(std::slice::from_ref(&first), false, START + 9), START + 9);
        let second = known(START + 9, "team", 0);
        assert_eq!(of(&[first.clone(), second], true, START + 20), START + 9);
        // The slice is over, and its end is stored late.
        assert_eq!(of(std::slice::from_ref(&first), false, END), START);
    }

    #[test]
    fn a_segment_begins_with_its_period_or_with_other_prices_in_a_free_slot() {
        let (early, pro, before) = (START + 5, known(START, "pro", 0), known(START - 1_000, "pro", 0));
        for (stored, of, expected) in [
            (vec![], mirrored("pro", &[]), (START, 0)),
            (vec![], mirrored("pro", &[("pro", 0)]), (START, 0)),
            (vec![pro.clone()], mirrored("pro", &[("pro", 0)]), (START, 0)),
            // Nothing is billed by the unit: the prices are the same.
            (vec![pro.clone()], mirrored("enterprise", &[]), (START, 0)),
            // Prices that were replaced in the same meter are the segment's.
            (
                vec![pro.clone()],
                mirrored("enterprise", &[("enterprise", 0)]),
                (START, 0),
            ),
            // An upgrade: the old items stay.
            (
                vec![pro.clone()],
                mirrored("enterprise", &[("pro", 0), ("enterprise", 1)]),
                (START + 9, 1),
            ),
            (
                vec![pro.clone(), known(early, "enterprise", 1)],
                mirrored("enterprise", &[("pro", 0), ("enterprise", 1)]),
                (early, 1),
            ),
            // And back again.
            (
                vec![pro.clone(), known(early, "enterprise", 1)],
                mirrored("pro", &[("pro", 0), ("enterprise", 1), ("pro", 2)]),
                (START + 9, 2),
            ),
            // The next period keeps the slot of its plan, or gets that of a planned change.
            (vec![before.clone()], mirrored("pro", &[("pro", 0)]), (START, 0)),
            (
                vec![known(START - 5, "pro", 1)],
                mirrored("pro", &[("team", 0), ("pro", 1)]),
                (START, 1),
            ),
            (
                vec![before.clone()],
                mirrored("team", &[("pro", 0), ("team", 1)]),
                (START, 1),
            ),
            // No item of the old plan bills the usage of the new one.
            (vec![before.clone()], mirrored("flat", &[("pro", 0)]), (START, 1)),
            (
                vec![before, known(START - 5, "enterprise", 1)],
                mirrored("pro", &[("pro", 0), ("enterprise", 1), ("pro", 2)]),
                (START, 2),
            ),
        ] {
            let segment = running(&stored, &of, None, START + 9);
            assert_eq!((segment.start, segment.slot), expected, "{stored:?} {of:?}");
        }
    }

    /// A version of Pro that bills exports past 100 at this price; `None`: it limits them.
    fn version(number: i32, micros: Option<i64>) -> PlanVersion {
        let mut text = include_str!("../../../schema/plans.toml").to_owned();
        if let Some(micros) = micros {
            let billed = format!("usage.export = {{ limit = 100, mode = \"overage\", unit_price_micros = {micros} }}");
            text = text.replacen("usage.export = { limit = 100 }", &billed, 1);
        }
        let catalogue = Catalogue::parse(&text).unwrap();
        PlanVersion {
            id: Uuid::from_u128(u128::try_from(number).unwrap()),
            plan: "pro".to_owned(),
            number,
            terms: PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap()),
        }
    }

    #[test]
    fn a_version_with_other_usage_prices_begins_a_segment() {
        let of_first = |start: i64| Known {
            version: Some(version(1, None).id),
            ..known(start, "pro", 0)
        };
        for (stored, to, metered, expected) in [
            // The old items stay.
            (of_first(START), Some(60), &[(0, 50), (1, 60)][..], (START + 9, 1)),
            (of_first(START - 5), Some(60), &[(0, 50), (1, 60)], (START, 1)),
            // Usage is billed alike.
            (of_first(START), Some(50), &[(0, 50)], (START, 0)),
            (of_first(START - 5), Some(50), &[(0, 50)], (START, 0)),
            // Somebody changed only the price of the plan in Stripe.
            (of_first(START), Some(60), &[(0, 50)], (START, 0)),
            // It bills no usage.
            (of_first(START - 5), None, &[(0, 50)], (START, 1)),
        ] {
            let slots: Vec<_> = metered.iter().map(|(slot, _)| ("pro", *slot)).collect();
            let mut of = mirrored("pro", &slots);
            of.version = Some(Arc::new(version(2, to)));
            for (item, (_, micros)) in of.items.iter_mut().zip(metered) {
                item.rate = Some(Rate {
                    currency: "usd".into(),
                    included: 100,
                    unit_price_micros: *micros,
                });
            }
            let segment = running(std::slice::from_ref(&stored), &of, None, START + 9);
            assert_eq!((segment.start, segment.slot), expected, "{stored:?} {to:?} {metered:?}");
        }
    }

    #[test]
    fn a_slot_is_free_once_its_invoice_is_final_and_its_items_are_gone() {
        assert_eq!(free_slot(&[], [0, 1, 2], START), None);
        assert_eq!(free_slot(&[known(START, "team", 1)], [0], START + 5), Some(2));
        let billed = Known {
            is_final: true,
            ..known(START, "team", 1)
        };
        assert_eq!(free_slot(&[billed], [0], START + 5), Some(1));
        assert_eq!(free_slot(&[known(START - 1_000, "team", 1)], [0], START), Some(1));
    }

    #[test]
    fn an_upgrade_of_ours_begins_when_and_where_it_says_whatever_stripe_shows() {
        let begun = Some(Begun { at: START + 3, slot: 1 });
        let (pro, stored) = (known(START, "pro", 0), known(START + 3, "enterprise", 1));
        for (known, of, expected) in [
            // Its items are not added yet, or it bills nothing.
            (vec![pro.clone()], mirrored("enterprise", &[("pro", 0)]), START + 3),
            (
                vec![pro, stored.clone()],
                mirrored("enterprise", &[("pro", 0), ("enterprise", 1)]),
                START + 3,
            ),
            // The payment was confirmed when another segment, or the next period, had begun.
            (
                vec![known(START + 5, "team", 2)],
                mirrored("enterprise", &[("team", 2)]),
                START + 6,
            ),
            (
                vec![known(START - 9, "pro", 0)],
                mirrored("enterprise", &[("pro", 0)]),
                START + 3,
            ),
            (vec![], mirrored("enterprise", &[]), START + 3),
        ] {
            let segment = running(&known, &of, begun, START + 9);
            assert_eq!((segment.start, segment.slot), (expected, 1), "{known:?}");
        }
        let before = Some(Begun { at: START - 3, slot: 1 });
        let segment = running(&[], &mirrored("enterprise", &[]), before, START + 9);
        assert_eq!((segment.start, segment.slot), (START, 1));
    }
}
