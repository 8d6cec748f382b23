//! When each part was in trouble, and so by when a gateway must have learned of a change. Pure.

/// How a fault delays a gateway in learning of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Dead or stopped: it answers nothing. When it continues, its first actions use outdated data.
    Stopped,
    /// Announcements may be lost (NATS or its connection): a change takes effect within [`LOST_MS`].
    Deaf,
    /// PostgreSQL cannot be read either, so the gateway learns of no change.
    Blind,
    /// Another part is in trouble: the gateway learns of changes, but units that others hold may return late.
    Elsewhere,
}

/// Milliseconds since the suite's start, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from_ms: i64,
    /// `i64::MAX` while the trouble lasts.
    pub to_ms: i64,
}

/// All trouble of one run of the suite.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// `None`: all gateways.
    spans: Vec<(Option<usize>, Trouble, Span)>,
}

/// An announced change takes effect within this time.
pub const HEARD_MS: i64 = 1_000;
/// If the announcement of a change is lost, the change takes effect within this time.
pub const LOST_MS: i64 = 60_000;
/// Trouble is over for an affected part after it has noticed the fault and reconnected. A half-open connection to NATS is
/// noticed after two unanswered pings (15 s), and the pause before the next attempt is at most 3.2 s.
const AFTERMATH_MS: i64 = 20_000;

impl Timeline {
    /// Returns the number to pass to [`Self::end`].
    pub fn begin(&mut self, gateway: Option<usize>, trouble: Trouble, from_ms: i64) -> usize {
        let span = Span {
            from_ms,
            to_ms: i64::MAX,
        };
        self.spans.push((gateway, trouble, span));
        self.spans.len() - 1
    }

    pub fn end(&mut self, number: usize, to_ms: i64) {
        if let Some((_, _, span)) = self.spans.get_mut(number) {
            span.to_ms = to_ms;
        }
    }

    /// By when `gateway` must apply a change that was committed and announced at `completed_ms`. The time that the gateway was
    /// stopped, or that PostgreSQL was unavailable, is added.
    pub fn heard_by(&self, gateway: usize, completed_ms: i64) -> i64 {
        let mut by = completed_ms.saturating_add(HEARD_MS);
        if self
            .of(gateway)
            .any(|(_, span)| span.with_aftermath().meets(completed_ms, by))
        {
            by = completed_ms.saturating_add(LOST_MS);
        }
        // The added time may overlap further trouble.
        loop {
            let excusing = self.of(gateway).filter(|(trouble, _)| *trouble != Trouble::Deaf);
            let spans: Vec<Span> = excusing
                .map(|(_, span)| span.with_aftermath())
                .filter(|span| span.meets(completed_ms, by))
                .collect();
            if spans.iter().any(|span| span.to_ms == i64::MAX) {
                return i64::MAX;
            }
            let excused: i64 = spans.iter().map(|span| span.overlap(completed_ms, by)).sum();
            let later = completed_ms.saturating_add(LOST_MS).saturating_add(excused);
            if excused == 0 || later <= by {
                return by;
            }
            by = later;
        }
    }

    /// Whether any part was in trouble between the two times. Then the units of other gateways may legitimately have been
    /// unavailable.
    pub fn is_troubled(&self, from_ms: i64, to_ms: i64) -> bool {
        self.spans
            .iter()
            .any(|(_, _, span)| span.with_aftermath().meets(from_ms, to_ms))
    }

    fn of(&self, gateway: usize) -> impl Iterator<Item = (Trouble, Span)> {
        self.spans
            .iter()
            .filter(move |(of, trouble, _)| *trouble != Trouble::Elsewhere && of.is_none_or(|of| of == gateway))
            .map(|(_, trouble, span)| (*trouble, *span))
    }
}

impl Span {
    pub fn meets(self, from_ms: i64, to_ms: i64) -> bool {
        self.from_ms <= to_ms && from_ms < self.to_ms
    }

    fn with_aftermath(self) -> Self {
        Self {
            to_ms: self.to_ms.saturating_add(AFTERMATH_MS),
            ..self
        }
    }

    fn overlap(self, from_ms: i64, to_ms: i64) -> i64 {
        (self.to_ms.min(to_ms) - self.from_ms.max(from_ms)).max(0)
    }
}
