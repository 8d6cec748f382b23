//! Stripe's lists: newest first, page by page, with filters.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::form::Param;

/// One page of a list. `rows`: all that pass the filters, newest first, with their ids.
pub(crate) fn page(url: &str, params: &Param, rows: Vec<(String, Value)>) -> Result<Value, Failure> {
    let rows = rows.iter().map(|(id, row)| (id.as_str(), row)).collect();
    page_of(url, params, rows, Value::clone)
}

/// The same, but renders only the rows of the page.
pub(crate) fn page_of<T>(
    url: &str,
    params: &Param,
    rows: Vec<(&str, &T)>,
    render: impl Fn(&T) -> Value,
) -> Result<Value, Failure> {
    let limit = match params.int("limit") {
        None => 10,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=100).contains(limit))
            .ok_or_else(|| {
                Failure::invalid("This value must be greater than or equal to 1 and at most 100").param("limit")
            })?,
    };
    let cursor = |name: &str| match params.text(name) {
        None => Ok(None),
        Some(id) => match rows.iter().position(|(row, _)| *row == id) {
            Some(at) => Ok(Some(at)),
            None => Err(Failure::no_such("object", id).param(name)),
        },
    };
    let (after, before) = (cursor("starting_after")?, cursor("ending_before")?);
    let (range, has_more) = match (after, before) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: starting_after, ending_before.",
            ));
        }
        (None, Some(before)) => (before.saturating_sub(limit)..before, before > limit),
        (after, None) => {
            let start = after.map_or(0, |at| at + 1);
            let end = (start + limit).min(rows.len());
            (start..end, end < rows.len())
        }
    };
    let data: Vec<_> = rows[range].iter().map(|(_, row)| render(row)).collect();
    Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
}

/// A complete list inside another object.
pub(crate) fn whole(url: &str, data: Vec<Value>) -> Value {
    json!({ "object": "list", "data": data, "has_more": false, "url": url })
}

/// A filter such as `created=5` or `created[gte]=5`.
pub(crate) fn in_range(params: &Param, name: &str, value: i64) -> bool {
    let bound = |bound: &str| params.int(&format!("{name}.{bound}"));
    params.int(name).is_none_or(|exact| value == exact)
        && bound("gt").is_none_or(|bound| value > bound)
        && bound("gte").is_none_or(|bound| value >= bound)
        && bound("lt").is_none_or(|bound| value < bound)
        && bound("lte").is_none_or(|bound| value <= bound)
}

/// A filter by equality. Without the parameter, every value passes.
pub(crate) fn is(params: &Param, name: &str, value: &str) -> bool {
    params.text(name).is_none_or(|wanted| wanted == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(query: &str) -> (Vec<String>, bool) {
        let rows = (1..=5)
            .rev()
            .map(|n| (format!("r{n}"), json!(format!("r{n}"))))
            .collect();
        let page = page("/v1/x", &Param::parse(query).0, rows).unwrap();
        let ids = page["data"].as_array().unwrap().iter();
        (
            ids.map(|id| id.as_str().unwrap().to_owned()).collect(),
            page["has_more"] == true,
        )
    }

    #[test]
    fn pages_follow_each_other_both_ways() {
        assert_eq!(ids("limit=2"), (vec!["r5".into(), "r4".into()], true));
        assert_eq!(ids("limit=2&starting_after=r4"), (vec!["r3".into(), "r2".into()], true));
        assert_eq!(ids("limit=2&starting_after=r2"), (vec!["r1".into()], false));
        assert_eq!(ids("limit=2&ending_before=r2"), (vec!["r4".into(), "r3".into()], true));
        assert_eq!(ids("limit=2&ending_before=r4"), (vec!["r5".into()], false));
    }
}
