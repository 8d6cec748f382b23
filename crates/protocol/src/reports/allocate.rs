//! Spreads a credit over the lines of invoices that billed the units. Pure.

/// What was billed and is not credited yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billed {
    /// Of the line, before discount and tax.
    pub left: i64,
    /// Which invoice it is on.
    pub invoice: usize,
}

/// How much to credit of each line, in their order. `rooms`: what can still be credited of each invoice. The sum is smaller than
/// `credit` if the lines have less left.
pub fn allocate(credit: i64, lines: &[Billed], rooms: &[i64]) -> Vec<i64> {
    let (mut wanted, mut rooms) = (credit.max(0), rooms.to_vec());
    let take = |line: &Billed| {
        let room = rooms.get_mut(line.invoice);
        let most = room.as_ref().map_or(0, |room| line.left.min(**room)).max(0);
        let taken = wanted.min(most);
        wanted -= taken;
        if let Some(room) = room {
            *room -= taken;
        }
        taken
    };
    lines.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on(invoice: usize, left: i64) -> Billed {
        Billed { left, invoice }
    }

    #[test]
    fn the_first_lines_are_credited_first_and_never_more_than_is_left() {
        let lines = [on(0, 0), on(0, 70), on(1, 1_500)];
        for (credit, rooms, expected) in [
            (28, [70, 4_400], [0, 28, 0]),
            (750, [70, 4_400], [0, 70, 680]),
            (750, [0, 4_400], [0, 0, 750]),
            (5_000, [70, 1_000], [0, 70, 1_000]),
            (0, [70, 1_000], [0, 0, 0]),
            (-7, [70, 1_000], [0, 0, 0]),
        ] {
            assert_eq!(allocate(credit, &lines, &rooms), expected, "{credit}");
        }
        assert_eq!(allocate(5, &[on(0, -3), on(7, 9), on(0, 9)], &[9]), [0, 0, 5]);
    }

    proptest! {
        #[test]
        fn it_spreads_all_that_there_is_room_for(
            credit in 0i64..2_000,
            lines in prop::collection::vec((0usize..3, -50i64..500), 0..8),
            rooms in prop::collection::vec(-50i64..1_000, 3),
        ) {
            let lines: Vec<_> = lines.into_iter().map(|(invoice, left)| on(invoice, left)).collect();
            let spread = allocate(credit, &lines, &rooms);
            prop_assert_eq!(spread.len(), lines.len());
            let mut possible = 0;
            for (invoice, room) in rooms.iter().enumerate() {
                let of_it = lines.iter().zip(&spread).filter(|(line, _)| line.invoice == invoice);
                let taken: i64 = of_it.map(|(line, taken)| { assert!((0..=line.left.max(0)).contains(taken)); taken }).sum();
                let left: i64 = lines.iter().filter(|line| line.invoice == invoice).map(|line| line.left.max(0)).sum();
                prop_assert!(taken <= (*room).max(0));
                possible += left.min((*room).max(0));
            }
            prop_assert_eq!(spread.iter().sum::<i64>(), credit.min(possible));
        }
    }
}
