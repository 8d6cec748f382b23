//! A quota as response bodies show it.

use schema::Mode;
use serde::Serialize;

use crate::quota::QuotaView;

/// A number is `null` if the gateway does not know it, or if there is none. A usage type that is never refused needs no lease, so
/// only ClickHouse knows its usage (`GET /billing/usage`), and it has no remaining units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    pub(super) current_usage: Option<i64>,
    /// For a usage type that is billed past its limit: the units that are included.
    pub(super) limit: Option<i64>,
    pub(super) remaining: Option<i64>,
}

impl From<&QuotaView> for Balance {
    fn from(view: &QuotaView) -> Self {
        let is_refused = view.mode == Mode::Limited;
        Self {
            current_usage: is_refused.then_some(view.current_usage),
            limit: (view.mode != Mode::Metered).then_some(view.limit),
            remaining: is_refused.then_some(view.remaining),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::Period;
    use serde_json::json;

    #[test]
    fn only_numbers_that_the_gateway_knows_are_shown() {
        let shown = |mode| {
            let view = QuotaView {
                mode,
                limit: 10,
                remaining: 7,
                current_usage: 3,
                period: Period { start: 0, end: 1 },
                unbilled: None,
            };
            serde_json::to_value(Balance::from(&view)).unwrap()
        };
        let of = |used: Option<i64>, limit: Option<i64>, left: Option<i64>| json!({ "current_usage": used, "limit": limit, "remaining": left });
        assert_eq!(shown(Mode::Limited), of(Some(3), Some(10), Some(7)));
        assert_eq!(shown(Mode::Overage), of(None, Some(10), None));
        assert_eq!(shown(Mode::Metered), of(None, None, None));
    }
}
