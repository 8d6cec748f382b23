use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// The calls of a round while all classes wait.
const ROUND: usize = 11;

fn account(number: u128) -> Option<AccountId> {
    Some(AccountId(Uuid::from_u128(number)))
}

fn count(calls: &[Class], class: Class) -> usize {
    calls.iter().filter(|call| **call == class).count()
}

fn take(order: &mut Order<Class>, calls: usize) -> Vec<Class> {
    (0..calls).map_while(|_| order.next()).collect()
}

#[test]
fn weights_hold_under_load() {
    let mut order = Order::default();
    for class in Class::ALL {
        for number in 0..400 {
            order.push(class, account(number), class).unwrap();
        }
    }
    for _ in 0..50 {
        let round = take(&mut order, ROUND);
        for class in Class::ALL {
            assert_eq!(count(&round, class), class.weight() as usize, "{class:?}: {round:?}");
        }
        // No class makes its calls in one row: then an event that needs several calls would wait for a row each time.
        let longest = round.chunk_by(|a, b| a == b).map(<[Class]>::len).max();
        assert_eq!(longest, Some(1), "{round:?}");
    }
}

#[test]
fn a_class_that_was_idle_saves_nothing() {
    let mut order = Order::default();
    for number in 0..1_000 {
        order.push(Class::Sweep, account(number), Class::Sweep).unwrap();
    }
    assert_eq!(count(&take(&mut order, 500), Class::Sweep), 500);
    for number in 0..400 {
        order.push(Class::Change, account(number), Class::Change).unwrap();
    }
    // The round that runs may end early.
    take(&mut order, 5);
    assert_eq!(count(&take(&mut order, 50), Class::Sweep), 10);
}

#[test]
fn the_calls_that_may_wait_are_bounded() {
    let mut order = Order::default();
    let one = account(1);
    for class in [Class::Change, Class::Webhook] {
        let pushed = (0..10).filter(|_| order.push(class, one, ()).is_ok()).count();
        assert_eq!(pushed, WAITING_PER_ACCOUNT, "{class:?}");
        assert!(order.push(class, account(2), ()).is_ok());
    }
    for class in Class::ALL {
        let pushed = (0..10_000).filter(|number| order.push(class, account(*number), ()).is_ok());
        assert!(pushed.count() <= WAITING_PER_CLASS);
        assert_eq!(order.push(class, account(20_000), ()), Err(Full));
    }
    let waited = std::iter::from_fn(|| order.next()).count();
    assert_eq!(waited, WAITING_PER_CLASS * Class::ALL.len());
    for queue in &order.queues {
        assert!(queue.calls.is_empty() && queue.accounts.is_empty() && queue.len == 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(Class, u128),
    Next,
    /// The caller of the n-th waiting call leaves.
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(Class::ALL.to_vec());
    prop_oneof![
        4 => (class, 0..6_u128).prop_map(|(class, account)| Step::Push(class, account)),
        3 => Just(Step::Next),
        1 => (0..50_usize).prop_map(Step::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Compared with a plain list of the waiting calls.
    #[test]
    fn each_call_comes_once_in_the_order_of_its_account_and_none_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let (mut order, mut waiting, mut number) = (Order::default(), Vec::<(Ticket, u32)>::new(), 0);
        for step in steps {
            match step {
                Step::Push(class, of) => {
                    let theirs = waiting.iter().filter(|(ticket, _)| (ticket.class, ticket.account) == (class, account(of)));
                    let fits = !class.is_from_outside() || theirs.count() < WAITING_PER_ACCOUNT;
                    let pushed = order.push(class, account(of), number);
                    prop_assert_eq!(pushed.is_ok(), fits);
                    waiting.extend(pushed.ok().map(|ticket| (ticket, number)));
                    number += 1;
                }
                Step::Next => {
                    let Some(call) = order.next() else {
                        prop_assert!(waiting.is_empty(), "a call waits, and none is next");
                        continue;
                    };
                    let at = waiting.iter().position(|(_, waits)| *waits == call);
                    let (ticket, _) = waiting.remove(at.expect("it was waiting"));
                    let earlier = waiting.iter().any(|(other, waits)| {
                        (other.class, other.account) == (ticket.class, ticket.account) && *waits < call
                    });
                    prop_assert!(!earlier, "an account's later call came first");
                }
                Step::Leave(at) => {
                    if at < waiting.len() {
                        let (ticket, call) = waiting.remove(at);
                        prop_assert_eq!(order.remove(&ticket), Some(call));
                        prop_assert_eq!(order.remove(&ticket), None);
                    }
                }
            }
            prop_assert_eq!(order.is_empty(), waiting.is_empty());
        }
        for queue in &order.queues {
            prop_assert_eq!(queue.accounts.len(), queue.calls.len(), "an account is there once, and only with calls");
        }
    }

    /// A call that comes at any moment, into any load, while others keep the queue full.
    #[test]
    fn no_call_starves(
        before in prop::collection::vec(step(), 0..200),
        after in prop::collection::vec(step(), 50),
        class in prop::sample::select(Class::ALL.to_vec()),
    ) {
        let mut order = Order::default();
        let apply = |order: &mut Order<bool>, step: &Step| match step {
            Step::Push(class, of) => order.push(*class, account(*of), false).is_ok(),
            _ => false,
        };
        for step in &before {
            match step {
                Step::Next => {
                    order.next();
                }
                step => {
                    apply(&mut order, step);
                }
            }
        }
        let others = order.queues[class as usize].accounts.len();
        order.push(class, account(1_000), true).unwrap();
        let mut calls = 0;
        for step in after.iter().cycle() {
            apply(&mut order, step);
            calls += 1;
            if order.next() == Some(true) {
                break;
            }
            prop_assert!(calls <= ROUND * (others + 2), "{calls} calls came before it");
        }
    }
    /// An account that keeps as many calls waiting as it may. It goes ahead of each call of another account at most once, and a
    /// few times more at the end of a round.
    #[test]
    fn a_crowd_goes_ahead_of_each_call_once(
        crowd in prop::sample::select(Class::ALL.to_vec()),
        class in prop::sample::select(vec![Class::Change, Class::Webhook]),
        idle in prop::collection::vec(0..30_usize, 1..40),
    ) {
        let fill = |order: &mut Order<bool>| {
            for _ in 0..WAITING_PER_ACCOUNT {
                order.push(crowd, account(1), false).ok();
            }
        };
        let (mut order, mut ahead, calls) = (Order::default(), 0, idle.len());
        for idle in idle {
            // Before the account makes its next call, only the crowd has calls.
            for _ in 0..idle {
                fill(&mut order);
                order.next();
            }
            fill(&mut order);
            order.push(class, account(2), true).unwrap();
            while order.next() != Some(true) {
                fill(&mut order);
                ahead += 1;
            }
        }
        let most = calls + crowd.weight() as usize;
        prop_assert!(ahead <= most, "{ahead} calls of the crowd went ahead of {calls}");
    }
}
