//! The headers about a client's limits: `RateLimit-Policy` and `RateLimit`, as structured fields
//! (draft-ietf-httpapi-ratelimit-headers-10), and `Retry-After`.
//!
//! `RateLimit-Policy: "api_call";q=10000;w=2592000` gives the limit and the length of the period in seconds.
//! `RateLimit: "api_call";r=9999;t=86400` gives the remaining units (a lower bound) and the seconds until the period ends. If the
//! plan has a burst limit, each header gets a second line: `"burst";q=50;w=3` means 50 requests at once, and 50 again after three
//! seconds.

use std::{fmt::Write, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Bytes, BytesMut};
use schema::{Mode, UsageType, catalogue::BURST};

use crate::{accounts::burst::BurstView, quota::QuotaView};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Sets both headers. A metered usage type has no limit, so it is left out.
pub fn insert(headers: &mut HeaderMap, views: &[(UsageType, QuotaView)], now_s: i64) {
    let limited = || views.iter().filter(|(_, view)| view.mode != Mode::Metered);
    if limited().next().is_none() {
        return;
    }
    let policy = list(limited(), |out, view| {
        write!(
            out,
            ";q={};w={}",
            view.limit.max(0),
            (view.period.end - view.period.start).max(1)
        )
    });
    let rest = list(limited(), |out, view| {
        write!(
            out,
            ";r={};t={}",
            view.remaining.max(0),
            (view.period.end - now_s).max(0)
        )
    });
    // The upstream may have set headers of these names, for limits of its own.
    headers.insert(RATELIMIT_POLICY, policy);
    headers.insert(RATELIMIT, rest);
}

/// Adds a line to both headers, after [`insert`]: how many requests may follow at once, and in how many seconds the bucket is
/// full again.
pub fn insert_burst(headers: &mut HeaderMap, view: Option<BurstView>) {
    let Some(BurstView { burst, remaining }) = view else {
        return;
    };
    let seconds = |requests: u32| requests.div_ceil(burst.per_second.get());
    let (size, missing) = (burst.size.get(), burst.size.get().saturating_sub(remaining));
    let (window, rest) = (seconds(size), seconds(missing));
    for (name, line) in [
        (RATELIMIT_POLICY, format!("\"{BURST}\";q={size};w={window}")),
        (RATELIMIT, format!("\"{BURST}\";r={remaining};t={rest}")),
    ] {
        let line = HeaderValue::try_from(line).expect("names and numbers are visible ASCII");
        headers.append(name, line);
    }
}

/// Whole seconds for `Retry-After`, rounded up.
pub fn whole_seconds(wait: Duration) -> i64 {
    i64::try_from(wait.as_nanos().div_ceil(1_000_000_000).max(1)).unwrap_or(i64::MAX)
}

/// Seconds until a new period gives new units; at least one.
pub fn retry_after_s(view: &QuotaView, now_s: i64) -> i64 {
    (view.period.end - now_s).max(1)
}

fn list<'a>(
    views: impl Iterator<Item = &'a (UsageType, QuotaView)>,
    item: impl Fn(&mut BytesMut, &QuotaView) -> std::fmt::Result,
) -> HeaderValue {
    let mut out = BytesMut::with_capacity(64);
    for (usage_type, view) in views {
        let comma = if out.is_empty() { "" } else { ", " };
        // Names of usage types consist of a-z, 0-9 and _, so they need no escape in a quoted string.
        write!(out, "{comma}\"{usage_type}\"")
            .and_then(|()| item(&mut out, view))
            .expect("a BytesMut grows as needed");
    }
    HeaderValue::from_maybe_shared(Bytes::from(out)).expect("names and numbers are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::{Catalogue, Period};

    fn view(limit: i64, remaining: i64) -> QuotaView {
        QuotaView {
            mode: Mode::Limited,
            limit,
            remaining,
            current_usage: limit - remaining,
            period: Period {
                start: 1_000,
                end: 2_593_000,
            },
            unbilled: None,
        }
    }

    fn headers(views: &[(&str, QuotaView)], now_s: i64) -> HeaderMap {
        let catalogue = Catalogue::built_in();
        let views: Vec<_> = views
            .iter()
            .map(|(name, view)| (catalogue.usage_type(name).unwrap(), *view))
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(RATELIMIT, HeaderValue::from_static("the upstream's"));
        insert(&mut headers, &views, now_s);
        headers
    }

    #[test]
    fn the_headers_are_structured_fields() {
        let headers = headers(&[("api_call", view(10_000, 9_999))], 2_000);
        assert_eq!(headers["ratelimit-policy"], "\"api_call\";q=10000;w=2592000");
        assert_eq!(headers["ratelimit"], "\"api_call\";r=9999;t=2591000");
    }

    #[test]
    fn several_usage_types_are_one_list() {
        let headers = headers(&[("api_call", view(100, 0)), ("export", view(5, 4))], 2_593_000);
        assert_eq!(
            headers["ratelimit-policy"],
            "\"api_call\";q=100;w=2592000, \"export\";q=5;w=2592000"
        );
        assert_eq!(headers["ratelimit"], "\"api_call\";r=0;t=0, \"export\";r=4;t=0");
    }

    #[test]
    fn overage_never_shows_negative_units_and_metered_shows_nothing() {
        let overage = QuotaView {
            mode: Mode::Overage,
            ..view(100, -7)
        };
        assert_eq!(
            headers(&[("api_call", overage)], 2_000)["ratelimit"],
            "\"api_call\";r=0;t=2591000"
        );
        let metered = QuotaView {
            mode: Mode::Metered,
            ..view(0, 0)
        };
        let headers = headers(&[("api_call", metered)], 2_000);
        assert_eq!(headers["ratelimit"], "the upstream's");
    }

    #[test]
    fn retry_after_ends_with_the_period() {
        assert_eq!(retry_after_s(&view(100, 0), 2_592_990), 10);
        assert_eq!(retry_after_s(&view(100, 0), 2_593_000), 1);
    }
}
