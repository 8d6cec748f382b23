//! Calls that share a rate, in their order. No I/O.

use std::time::Instant;

use super::{order::Order, rate::Rate};

pub(super) struct Bucket<T> {
    rate: Rate,
    pub(super) order: Order<T>,
}

/// What can be done now.
pub(super) enum Next<T> {
    /// This call may be made.
    Call(T),
    /// The next call may be made then.
    At(Instant),
    /// No call waits.
    Nothing,
}

impl<T> Bucket<T> {
    pub(super) fn per_second(calls: u32) -> Self {
        Self {
            rate: Rate::per_second(calls),
            order: Order::default(),
        }
    }

    pub(super) fn next(&mut self, now: Instant) -> Next<T> {
        match self.rate.free_at(now) {
            Some(at) if !self.order.is_empty() => Next::At(at),
            Some(_) => Next::Nothing,
            None => match self.order.next() {
                Some(call) => {
                    self.rate.take(now);
                    Next::Call(call)
                }
                None => Next::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schema::AccountId;

    use super::*;
    use crate::stripe::queue::class::Class;

    /// Calls of each class that a bucket of 25 a second admits in `seconds`, if each of these classes always has calls of twenty
    /// accounts waiting.
    fn admitted(classes: &[Class], seconds: u64) -> Vec<(Class, usize)> {
        let accounts: Vec<_> = (0..20).map(|_| Some(AccountId::new())).collect();
        let mut bucket = Bucket::per_second(25);
        let begin = Instant::now();
        let (mut now, end) = (begin, begin + Duration::from_secs(seconds));
        let mut calls = Vec::new();
        while now < end {
            for class in classes {
                for account in &accounts {
                    bucket.order.push(*class, *account, *class).ok();
                }
            }
            match bucket.next(now) {
                Next::Call(class) => calls.push(class),
                Next::At(at) => now = at,
                Next::Nothing => panic!("calls wait"),
            }
        }
        let count = |class: &Class| calls.iter().filter(|call| *call == class).count();
        classes.iter().map(|class| (*class, count(class))).collect()
    }

    #[test]
    fn an_idle_class_lends_its_share() {
        let [(_, alone)] = admitted(&[Class::Sweep], 100)[..] else {
            panic!("one class");
        };
        assert!((2_390..=2_410).contains(&alone), "{alone}");
        let all = admitted(&Class::ALL, 100);
        for (class, calls) in &all {
            let expected = 2_400 * class.weight() as usize / 11;
            assert!(calls.abs_diff(expected) <= 10, "{all:?}");
        }
        let two = admitted(&[Class::Change, Class::Sweep], 100);
        assert!(two[0].1.abs_diff(2_400 * 4 / 5) <= 10, "{two:?}");
        assert!(two[1].1.abs_diff(2_400 / 5) <= 10, "{two:?}");
    }

    /// How long eight calls of an account take, each made when the one before is admitted, while another account always has
    /// calls of a class waiting. That one has made some calls before.
    fn delay(crowd: Class, class: Class, before: usize) -> Duration {
        let [many, one] = [(); 2].map(|()| Some(AccountId::new()));
        let mut bucket = Bucket::per_second(25);
        let mut now = Instant::now();
        let mut began = now;
        let mut until = |bucket: &mut Bucket<bool>, wanted: bool| {
            loop {
                for _ in 0..8 {
                    bucket.order.push(crowd, many, false).ok();
                }
                match bucket.next(now) {
                    Next::Call(is_one) if is_one == wanted => return now,
                    Next::Call(_) => {}
                    Next::At(at) => now = at,
                    Next::Nothing => panic!("calls wait"),
                }
            }
        };
        for _ in 0..before {
            began = until(&mut bucket, false);
        }
        let mut ended = began;
        for _ in 0..8 {
            bucket.order.push(class, one, true).unwrap();
            ended = until(&mut bucket, true);
        }
        ended - began
    }

    /// A checkout makes fewer than eight reads and writes, and so does an event.
    #[test]
    fn an_account_that_never_stops_delays_eight_calls_of_another_by_less_than_a_second() {
        for crowd in Class::ALL {
            for class in [Class::Change, Class::Webhook] {
                let longest = (0..30).map(|before| delay(crowd, class, before)).max().unwrap();
                assert!(longest < Duration::from_secs(1), "{crowd:?}, {class:?}: {longest:?}");
            }
        }
    }
}
