//! What a customer owes, computed from the history alone, in integers. It shares no code with the product or the fake Stripe.

use std::collections::BTreeMap;

/// What a unit costs past the included ones, in millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub included: i64,
    pub micros: i64,
}

/// What a plan costs at one time. A usage type without a rate is not billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub plan: &'static str,
    /// Of `months`.
    pub cents: i64,
    /// That are paid at once: 1, or 12.
    pub months: i32,
    pub rates: BTreeMap<&'static str, Rate>,
}

impl Offer {
    pub(super) fn interval(&self) -> &'static str {
        match self.months {
            1 => "month",
            _ => "year",
        }
    }
}

/// Usage at one set of prices within one month.
#[derive(Debug)]
pub(super) struct Part {
    pub offer: Offer,
    /// The start of the month.
    pub month: i64,
    pub units: BTreeMap<&'static str, i64>,
    /// The invoice of the month was voided: these units cost nothing.
    waived: Option<BTreeMap<&'static str, i64>>,
}

#[derive(Debug)]
enum Then {
    Same,
    Changes(Offer),
    Ends,
}

#[derive(Debug)]
struct Running {
    offer: Offer,
    anchor: i64,
    /// The running month, from 0.
    month: i32,
    /// The first month of those that were paid at once.
    paid_from: i32,
    then: Then,
}

/// What one customer bought and used.
#[derive(Debug, Default)]
pub(super) struct Account {
    running: Option<Running>,
    pub parts: Vec<Part>,
    /// Of plans: whole months, and what upgrades added.
    pub plan_cents: i64,
    /// Invoices are voided when they are made.
    pub is_paused: bool,
}

impl Account {
    pub(super) fn subscribe(&mut self, at: i64, offer: &Offer) {
        self.plan_cents += offer.cents;
        self.begin_part(at, offer);
        self.running = Some(Running {
            offer: offer.clone(),
            anchor: at,
            month: 0,
            paid_from: 0,
            then: Then::Same,
        });
    }

    /// The time has come so far.
    pub(super) fn advance(&mut self, now: i64) {
        while let Some(mut running) = self.running.take() {
            let end = running.month_end();
            if now < end {
                self.running = Some(running);
                return;
            }
            running.month += 1;
            if running.month < running.paid_from + running.offer.months {
                self.begin_part(end, &running.offer);
                self.running = Some(running);
                continue;
            }
            if self.is_paused {
                self.waive(months_after(running.anchor, running.month - 1));
            }
            match std::mem::replace(&mut running.then, Then::Same) {
                Then::Ends => return,
                Then::Changes(offer) => running.offer = offer,
                Then::Same => {}
            }
            running.paid_from = running.month;
            if !self.is_paused {
                self.plan_cents += running.offer.cents;
            }
            self.begin_part(end, &running.offer);
            self.running = Some(running);
        }
    }

    pub(super) fn plan(&self) -> Option<&'static str> {
        self.running.as_ref().map(|running| running.offer.plan)
    }

    /// How many months were paid at once.
    pub(super) fn months(&self) -> Option<i32> {
        self.running.as_ref().map(|running| running.offer.months)
    }

    pub(super) fn month_end(&self) -> Option<i64> {
        self.running.as_ref().map(Running::month_end)
    }

    /// The end of the months that were paid at once.
    pub(super) fn paid_until(&self) -> Option<i64> {
        self.running.as_ref().map(Running::paid_until)
    }

    pub(super) fn has_a_planned_change(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| !matches!(running.then, Then::Same))
    }

    pub(super) fn ends(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| matches!(running.then, Then::Ends))
    }

    /// A larger plan from now on, paid from `counts_from`.
    pub(super) fn upgrade(&mut self, counts_from: i64, offer: &Offer) {
        let mut running = self.running.take().unwrap();
        let (start, end) = (months_after(running.anchor, running.paid_from), running.paid_until());
        let share = |cents: i64| round(cents * (end - counts_from), end - start);
        self.plan_cents += share(offer.cents) - share(running.offer.cents);
        if running.offer.rates != offer.rates {
            self.begin_part(running.month_start(), offer);
        }
        running.offer = offer.clone();
        running.then = Then::Same;
        self.running = Some(running);
    }

    pub(super) fn change_with_the_month(&mut self, offer: &Offer) {
        self.running.as_mut().unwrap().then = Then::Changes(offer.clone());
    }

    pub(super) fn end_with_the_month(&mut self) {
        self.running.as_mut().unwrap().then = Then::Ends;
    }

    pub(super) fn resume(&mut self) {
        self.running.as_mut().unwrap().then = Then::Same;
    }

    pub(super) fn end_now(&mut self) {
        self.running = None;
    }

    /// Changes the units of a part: used, arrived late, or voided by a correction.
    pub(super) fn count(&mut self, part: usize, usage_type: &'static str, units: i64) {
        *self.parts[part].units.entry(usage_type).or_default() += units;
    }

    /// Of all usage.
    pub(super) fn usage_cents(&self) -> i64 {
        self.parts.iter().map(Part::cents).sum()
    }

    /// Of the usage of the running month.
    pub(super) fn running_usage_cents(&self) -> i64 {
        let start = self.running.as_ref().map(Running::month_start);
        let parts = self.parts.iter().filter(|part| Some(part.month) == start);
        parts.map(Part::cents).sum()
    }

    fn begin_part(&mut self, month: i64, offer: &Offer) {
        self.parts.push(Part {
            offer: offer.clone(),
            month,
            units: BTreeMap::new(),
            waived: None,
        });
    }

    /// Nobody pays for the usage of the month until now.
    fn waive(&mut self, month: i64) {
        for part in self.parts.iter_mut().filter(|part| part.month == month) {
            part.waived = Some(part.units.clone());
        }
    }
}

impl Part {
    pub(super) fn is_waived(&self) -> bool {
        self.waived.is_some()
    }

    fn cents(&self) -> i64 {
        let cents = |(usage_type, units): (&&'static str, &i64)| {
            let rate = self.offer.rates.get(usage_type)?;
            Some(round((units - rate.included).max(0) * rate.micros, 10_000))
        };
        let of = |units: &BTreeMap<_, _>| units.iter().filter_map(cents).sum::<i64>();
        of(&self.units) - self.waived.as_ref().map_or(0, of)
    }
}

impl Running {
    fn month_start(&self) -> i64 {
        months_after(self.anchor, self.month)
    }

    fn month_end(&self) -> i64 {
        months_after(self.anchor, self.month + 1)
    }

    fn paid_until(&self) -> i64 {
        months_after(self.anchor, self.paid_from + self.offer.months)
    }
}

/// `a / b`, half away from zero.
fn round(a: i64, b: i64) -> i64 {
    let (a, b) = (i128::from(a), i128::from(b));
    let rounded = (a.abs() * 2 + b) / (b * 2) * a.signum();
    i64::try_from(rounded).unwrap()
}

/// The same day and time of a later month, or its last day.
fn months_after(anchor: i64, months: i32) -> i64 {
    let (day, second) = (anchor.div_euclid(86_400), anchor.rem_euclid(86_400));
    let (year, month, day) = date(day);
    let month = i64::from(month - 1 + months);
    let (year, month) = (
        year + month.div_euclid(12),
        i32::try_from(month.rem_euclid(12)).unwrap() + 1,
    );
    (days(year, month) + (day.min(month_days(year, month)) - 1)) * 86_400 + second
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_days(year: i64, month: i32) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// From 1970 to the first day of the month.
fn days(year: i64, month: i32) -> i64 {
    let years = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 });
    let months = (1..month).map(|month| month_days(year, month));
    years.sum::<i64>() + months.sum::<i64>()
}

/// Year, month, day.
fn date(mut days_since_1970: i64) -> (i64, i32, i64) {
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days_since_1970 < length {
            break;
        }
        days_since_1970 -= length;
        year += 1;
    }
    let mut month = 1;
    while days_since_1970 >= month_days(year, month) {
        days_since_1970 -= month_days(year, month);
        month += 1;
    }
    (year, month, days_since_1970 + 1)
}

#[test]
fn amounts_and_months_are_as_by_hand() {
    assert_eq!([(25, 10), (-25, 10), (24, 10)].map(|(a, b)| round(a, b)), [3, -3, 2]);
    // 31 January 2026, noon: 28 February, 31 March, and a year later.
    let january = 1_769_860_800;
    let later = [1, 2, 12].map(|months| (months_after(january, months) - january) / 86_400);
    assert_eq!(later, [28, 59, 365]);
    let rates = BTreeMap::from([(
        "export",
        Rate {
            included: 0,
            micros: 333_333,
        },
    )]);
    let offer = Offer {
        plan: "pro",
        cents: 2_900,
        months: 1,
        rates,
    };
    let mut account = Account::default();
    account.subscribe(january, &offer);
    account.count(0, "export", 7);
    assert_eq!((account.plan_cents, account.usage_cents()), (2_900, 233));
    // Half of February's 28 days.
    account.advance(january + 28 * 86_400);
    let half = january + (28 + 59) * 43_200;
    account.upgrade(
        half,
        &Offer {
            cents: 9_900,
            ..offer.clone()
        },
    );
    assert_eq!(account.plan_cents, 2_900 + 2_900 - 1_450 + 4_950);
    // Nobody pays for 40 of February, and for March. Two more of February arrive late.
    account.count(1, "export", 40);
    account.is_paused = true;
    account.advance(january + 59 * 86_400);
    assert_eq!((account.plan_cents, account.usage_cents()), (9_300, 233));
    account.count(1, "export", 2);
    assert_eq!(account.usage_cents(), 233 + 1_400 - 1_333);
    // A year is paid at its start, and again after twelve months, each of which has its own usage.
    let mut account = Account::default();
    let per_year = Offer {
        cents: 29_000,
        months: 12,
        ..offer
    };
    account.subscribe(january, &per_year);
    account.advance(january + 364 * 86_400);
    account.count(11, "export", 7);
    assert_eq!(
        (account.plan_cents, account.running_usage_cents(), account.parts.len()),
        (29_000, 233, 12)
    );
    account.advance(january + 365 * 86_400);
    assert_eq!(
        (account.plan_cents, account.running_usage_cents(), account.usage_cents()),
        (58_000, 0, 233)
    );
}
