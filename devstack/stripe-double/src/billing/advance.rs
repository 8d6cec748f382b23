//! What happens as time passes: renewals, ends of trials, finalized drafts, payment retries, phases, cancellations and
//! expiries, each at its own time and in that order.

use crate::billing::invoicing::{self, Finalize};
use crate::billing::payment::{self, Try, debit};
use crate::billing::phases::{self, Entered};
use crate::billing::{cancellation, change, charges, ending, expiry, pause, phase_change, upcoming, write_off};
use crate::objects::invoice::{Invoice, Status as InvoiceStatus};
use crate::objects::subscription::{Status, Subscription, WithoutCard};
use crate::state::State;

/// Three days before the end of the trial, or at its start if the trial is shorter.
const TRIAL_NOTICE_S: i64 = 3 * 86_400;

/// Maximum number of steps of one clock advance, enough for years of a busy account. An endless loop must not hang a test.
const STEPS_MAX: usize = 1_000_000;

/// The order of the variants is the order in which things due in the same second are done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    TrialWillEnd(String),
    Upcoming(String),
    Finalize(String),
    Retry(String),
    SettleDebit(String),
    GiveUpUpdate(String),
    Expire(String),
    ResumeCollection(String),
    Cancel(String),
    Renew(String),
    Phase(String),
    ExpireSession(String),
}

/// Does everything that is due by now.
pub(crate) fn catch_up(state: &mut State) {
    let now = state.now();
    up_to(state, now);
}

/// Advances the clock to `to`, never back, and does everything that is due until then.
pub(crate) fn up_to(state: &mut State, to: i64) {
    let mut frozen_at = i64::MIN;
    for _ in 0..STEPS_MAX {
        let Some((at, due)) = next(state, None).filter(|(at, _)| *at <= to) else {
            break;
        };
        frozen_at = frozen_at.max(at);
        state.clock.freeze_at(frozen_at);
        act(state, due);
    }
    state.clock.resume_from(to);
}

/// The same for a test clock, which its customers live by.
pub(crate) fn test_clock_to(state: &mut State, id: &str, to: i64) {
    let mut frozen_at = i64::MIN;
    for _ in 0..STEPS_MAX {
        let Some((at, due)) = next(state, Some(id)).filter(|(at, _)| *at <= to) else {
            break;
        };
        frozen_at = frozen_at.max(at);
        state.clock.freeze_at(frozen_at);
        act(state, due);
    }
    state.clock.unfreeze();
    if let Some(clock) = state.test_clocks.get_mut(id) {
        clock.frozen_time = to;
    }
}

/// What is due first for the customers of a test clock, or for those without one.
fn next(state: &State, test_clock: Option<&str>) -> Option<(i64, Due)> {
    let lives_by_it = |customer: &str| state.test_clock_of(customer) == test_clock;
    let mut first: Option<(i64, Due)> = None;
    let mut offer = |at: Option<i64>, due: &dyn Fn() -> Due| {
        let Some(at) = at else { return };
        if first.as_ref().is_none_or(|(earliest, _)| at <= *earliest) {
            let due = due();
            if first.as_ref().is_none_or(|best| (at, &due) < (best.0, &best.1)) {
                first = Some((at, due));
            }
        }
    };
    for (id, subscription) in state.subscriptions.iter() {
        if subscription.status.has_ended() || !lives_by_it(&subscription.customer) {
            continue;
        }
        let id = || id.to_owned();
        let renewal = subscription.next_renewal().filter(|_| subscription.status.renews());
        offer(trial_notice(subscription), &|| Due::TrialWillEnd(id()));
        offer(upcoming(state, subscription), &|| Due::Upcoming(id()));
        offer(
            subscription.pending_update.as_ref().map(|pending| pending.expires_at),
            &|| Due::GiveUpUpdate(id()),
        );
        offer(expires_at(state, subscription), &|| Due::Expire(id()));
        offer(
            subscription
                .pause_collection
                .as_ref()
                .and_then(|pause| pause.resumes_at),
            &|| Due::ResumeCollection(id()),
        );
        offer(subscription.cancel_at, &|| Due::Cancel(id()));
        offer(renewal, &|| Due::Renew(id()));
    }
    for (id, invoice) in state.invoices.iter().filter(|(_, one)| lives_by_it(&one.customer)) {
        match invoice.status {
            InvoiceStatus::Draft if invoice.auto_advance => {
                offer(invoice.finalizes_at, &|| Due::Finalize(id.to_owned()))
            }
            InvoiceStatus::Open => {
                offer(invoice.next_attempt, &|| Due::Retry(id.to_owned()));
                offer(invoice.settles_at(), &|| Due::SettleDebit(id.to_owned()));
            }
            _ => {}
        }
    }
    for (id, schedule) in state.schedules.iter().filter(|(_, one)| lives_by_it(&one.customer)) {
        offer(schedule.phase_end(), &|| Due::Phase(id.to_owned()));
    }
    let lives = |customer: Option<&str>| customer.map_or(test_clock.is_none(), lives_by_it);
    for (id, session) in state.sessions.iter().filter(|(_, one)| lives(one.customer.as_deref())) {
        offer(session.open_until(), &|| Due::ExpireSession(id.to_owned()));
    }
    first
}

fn act(state: &mut State, due: Due) {
    match due {
        Due::TrialWillEnd(id) => {
            state
                .subscriptions
                .get_mut(&id)
                .into_iter()
                .for_each(|row| row.trial_end_announced = true);
            let object = state.render_subscription(&id);
            state.emit("customer.subscription.trial_will_end", object, None);
        }
        Due::Upcoming(id) => {
            let Some(subscription) = state.subscriptions.get_mut(&id) else {
                return;
            };
            subscription.renewal_announced = subscription.next_renewal();
            let subscription = subscription.clone();
            let invoice = upcoming::renewal(state, &subscription, &subscription.items, Vec::new());
            let object = invoice.render(state);
            state.emit("invoice.upcoming", object, None);
        }
        Due::Finalize(id) => finalize(state, &id),
        Due::Retry(id) => payment::attempt(state, &id, Try::Automatic).unwrap_or_default(), // the failure has become state
        Due::SettleDebit(id) => debit::settle(state, &id),
        Due::GiveUpUpdate(id) => give_up_update(state, &id),
        Due::Expire(id) => ending::expire(state, &id),
        Due::ResumeCollection(id) => state.change_subscription(&id, "customer.subscription.updated", |subscription| {
            subscription.pause_collection = None;
        }),
        Due::Cancel(id) => cancellation::at_period_end(state, &id),
        Due::Renew(id) => renew(state, &id),
        Due::Phase(id) => phase_change::change_now(state, &id),
        Due::ExpireSession(id) => expiry::expire_session(state, &id),
    }
}

/// When an `incomplete` subscription expires. Stripe's documentation says that it is `incomplete` while its first payment is
/// processing; that it does not expire until the payment has failed is an assumption.
fn expires_at(state: &State, subscription: &Subscription) -> Option<i64> {
    let invoice = subscription.latest_invoice.as_deref();
    let invoice = invoice.and_then(|id| state.invoices.get(id));
    let waits = invoice.is_some_and(Invoice::is_processing);
    subscription.expires_at.filter(|_| !waits)
}

fn trial_notice(subscription: &Subscription) -> Option<i64> {
    let end = subscription
        .trial_end
        .filter(|_| subscription.status == Status::Trialing && !subscription.trial_end_announced)?;
    Some((end - TRIAL_NOTICE_S).max(subscription.created))
}

fn upcoming(state: &State, subscription: &Subscription) -> Option<i64> {
    let renewal = subscription.next_renewal()?;
    let announced = subscription.renewal_announced == Some(renewal);
    let ends = subscription.cancel_at.is_some_and(|at| at <= renewal);
    let renews = matches!(subscription.status, Status::Active | Status::Trialing | Status::PastDue);
    if announced || ends || !renews {
        return None;
    }
    Some((renewal - state.settings.upcoming_days * 86_400).max(subscription.period().0))
}

/// Starts the next periods of the items whose periods have ended. The invoice has the usage of the old and the charges of the new ones.
fn renew(state: &mut State, id: &str) {
    let now = state.now();
    let Some(old) = state.subscriptions.get(id).cloned() else {
        return;
    };
    let trial_ends = old.status == Status::Trialing;
    if trial_ends && !ends_trial_with_card(state, &old) {
        return;
    }
    let ended: Vec<_> = old
        .items
        .iter()
        .filter(|item| item.period_end <= now)
        .cloned()
        .collect();
    // A trial's usage is free.
    let metered = if trial_ends {
        Vec::new()
    } else {
        charges::usage(state, &old, &ended, now)
    };
    let mut next = old.clone();
    let scheduled = old.schedule.clone();
    let phase_ends = |id: &String| {
        state
            .schedules
            .get(id)
            .and_then(|s| s.phase_end())
            .is_some_and(|end| end <= now)
    };
    if let Some(schedule) = scheduled.filter(phase_ends) {
        match phases::enter_next(state, &schedule) {
            Entered::Next => next.items = phases::phase_items(state, &schedule, &old),
            Entered::Released => next.schedule = None,
            Entered::End => return cancellation::at_period_end(state, id),
        }
    }
    // A phase with another interval begins a new cycle.
    if change::other_interval(state, &old.items, &next.items) {
        next.anchor = now;
    }
    let mut rolled = Vec::new();
    for item in next.items.iter_mut().filter(|item| item.period_end <= now) {
        // New items have no period yet, so they are due.
        Subscription::open_periods(state, std::slice::from_mut(item), next.anchor, now);
        rolled.push(item.clone());
    }
    let lines = charges::charges(state, &old, &rolled);
    let period = ended
        .first()
        .map_or(old.period(), |item| (item.period_start, item.period_end));
    let invoice = invoicing::invoice(state, id, "subscription_cycle", period, lines, metered);
    if trial_ends {
        next.status = Status::Active;
    }
    next.latest_invoice = invoice.clone().or(next.latest_invoice);
    if next.cancel_at_period_end {
        next.cancel_at = next.last_period_end();
    }
    let unpaid = next.status == Status::Unpaid;
    let paused = next.pause_collection.as_ref().map(|pause| pause.behavior.clone());
    state.change_subscription(id, "customer.subscription.updated", |row| *row = next);
    let Some(invoice) = invoice else { return };
    // Drafts of an unpaid subscription, or of one with paused collection, are not finalized.
    if unpaid || paused.as_deref() == Some("keep_as_draft") {
        state.change_invoice(&invoice, |invoice| invoice.auto_advance = false);
    }
    invoicing::issue(state, &invoice, Finalize::Later).unwrap_or_default(); // a draft owes nothing yet
}

/// `false`: there is no card, and the end of the trial has ended or paused the subscription.
fn ends_trial_with_card(state: &mut State, subscription: &Subscription) -> bool {
    let card = state.paying_card(subscription);
    match (card, subscription.without_card) {
        (None, WithoutCard::Cancel) => ending::end(state, &subscription.id, "payment_failed"),
        (None, WithoutCard::Pause) => {
            pause::pause_for(state, &subscription.id, "trial_end_without_payment_method");
        }
        _ => return true,
    }
    false
}

/// Finalizes a draft when its hour is over.
fn finalize(state: &mut State, id: &str) {
    let subscription = state.invoices.get(id).and_then(|invoice| invoice.subscription.clone());
    let subscription = subscription.and_then(|id| state.subscriptions.get(&id));
    let paused = subscription.and_then(|subscription| subscription.pause_collection.as_ref());
    let paused = paused.map(|pause| pause.behavior.clone());
    payment::finalize(state, id);
    match paused.as_deref() {
        Some("void") => write_off::void(state, id),
        Some("mark_uncollectible") => write_off::mark_uncollectible(state, id),
        _ => payment::settle(state, id, Some(Try::Automatic)).unwrap_or_default(), // the failure has become state
    }
}

fn give_up_update(state: &mut State, id: &str) {
    let Some(pending) = state
        .subscriptions
        .get(id)
        .and_then(|subscription| subscription.pending_update.clone())
    else {
        return;
    };
    write_off::void(state, &pending.invoice);
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        subscription.pending_update = None
    });
    let object = state.render_subscription(id);
    state.emit("customer.subscription.pending_update_expired", object, None);
}
