//! Stripe's form encoding, `a[b]=1&c[0][d]=2&e[]=3`, as a tree. Two bodies with the same meaning are equal, whatever the order of
//! their pairs: idempotency compares parsed parameters. `serde_qs` cannot do this: it stops at the first mistake and accepts duplicates.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Param {
    Text(String),
    /// An object, or a list by its indices.
    Map(BTreeMap<String, Param>),
}

impl Default for Param {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

impl Param {
    /// Parses a query or a body. Also returns its mistakes, one line each.
    pub(crate) fn parse(encoded: &str) -> (Self, Vec<String>) {
        let (mut root, mut errors, mut seen) = (BTreeMap::new(), Vec::new(), std::collections::HashSet::new());
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) => (decode(key), decode(value)),
                None => {
                    errors.push(format!("{}: no \"=\"", decode(pair)));
                    (decode(pair), String::new())
                }
            };
            let Some(path) = path(&key) else {
                errors.push(format!("{key}: malformed key"));
                continue;
            };
            if !key.ends_with("[]") && !seen.insert(key.clone()) {
                errors.push(format!("{key}: given twice"));
            }
            if insert(&mut root, &path, value).is_err() {
                errors.push(format!("{key}: both a value and an object"));
            }
        }
        (Self::Map(root), errors)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(name),
            Self::Text(_) => None,
        }
    }

    /// Follows names separated by dots.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |param, name| param.get(name))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).is_some()
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.at(path)? {
            Self::Text(text) => Some(text),
            Self::Map(_) => None,
        }
    }

    /// A text that is not empty; Stripe reads an empty one as "unset".
    pub(crate) fn filled(&self, path: &str) -> Option<&str> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// An integer. The schema check has already refused any other value.
    pub(crate) fn int(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.text(path).map(|text| text == "true")
    }

    /// The elements of a list in the order of their indices; none if the list is absent or empty.
    pub(crate) fn list(&self, path: &str) -> Vec<&Self> {
        let Some(Self::Map(map)) = self.at(path) else {
            return Vec::new();
        };
        let mut elements: Vec<_> = map.iter().collect();
        elements.sort_by_key(|(index, _)| index.parse::<u64>().unwrap_or(u64::MAX));
        elements.into_iter().map(|(_, element)| element).collect()
    }

    pub(crate) fn texts(&self, path: &str) -> Vec<&str> {
        let text = |param: &'_ Self| matches!(param, Self::Text(_));
        let list = self.list(path).into_iter().filter(|param| text(param));
        list.filter_map(|param| match param {
            Self::Text(text) => Some(text.as_str()),
            Self::Map(_) => None,
        })
        .collect()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Map(map) => map.keys().map(String::as_str).collect(),
            Self::Text(_) => Vec::new(),
        }
    }

    /// The limit that a `metadata` at any depth exceeds. Stripe accepts 50 keys of 40 characters, with values of 500.
    pub(crate) fn oversized_metadata(&self) -> Option<&'static str> {
        let Self::Map(map) = self else { return None };
        let metadata = map.get("metadata").and_then(|metadata| match metadata {
            Self::Map(entries) => Some(entries),
            Self::Text(_) => None,
        });
        let long = |param: &Self| matches!(param, Self::Text(text) if text.chars().count() > 500);
        if let Some(entries) = metadata {
            if entries.len() > 50 {
                return Some("Metadata can have at most 50 keys.");
            }
            if entries.keys().any(|key| key.chars().count() > 40) {
                return Some("Metadata keys can have at most 40 characters.");
            }
            if entries.values().any(long) {
                return Some("Metadata values can have at most 500 characters.");
            }
        }
        map.values().find_map(Self::oversized_metadata)
    }

    /// As JSON, for the record of requests. A list is an object with its indices as keys.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Map(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }
}

/// `a[b][]` as `["a", "b", ""]`.
fn path(key: &str) -> Option<Vec<String>> {
    let (first, mut rest) = match key.find('[') {
        Some(at) => key.split_at(at),
        None => (key, ""),
    };
    if first.is_empty() || first.contains(']') {
        return None;
    }
    let mut path = vec![first.to_owned()];
    while !rest.is_empty() {
        let (part, after) = rest.strip_prefix('[')?.split_once(']')?;
        if part.contains('[') {
            return None;
        }
        path.push(part.to_owned());
        rest = after;
    }
    Some(path)
}

fn insert(map: &mut BTreeMap<String, Param>, path: &[String], value: String) -> Result<(), ()> {
    let Some((first, rest)) = path.split_first() else {
        return Err(());
    };
    let key = if first.is_empty() {
        map.len().to_string()
    } else {
        first.clone()
    };
    if rest.is_empty() {
        return match map.insert(key, Param::Text(value)) {
            Some(Param::Map(_)) => Err(()),
            _ => Ok(()),
        };
    }
    match map.entry(key).or_default() {
        Param::Map(inner) => insert(inner, rest, value),
        Param::Text(_) => Err(()),
    }
}

/// Percent and plus. Bytes that are not UTF-8 are replaced, and a broken percent sign stays as it is.
fn decode(encoded: &str) -> String {
    // Without a "&" there is one pair, and without a "=" all of it is the key.
    let escaped = encoded.replace('=', "%3D");
    let pair = form_urlencoded::parse(escaped.as_bytes()).next();
    pair.map(|(key, _)| key.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_and_appended_pairs_make_a_tree() {
        let (tree, errors) = Param::parse("a[b]=1&c[0][d]=x+y%2Fz&e[]=3&e[]=4");
        assert!(errors.is_empty());
        assert_eq!(tree.int("a.b"), Some(1));
        assert_eq!(tree.list("c")[0].text("d"), Some("x y/z"));
        assert_eq!(tree.texts("e"), ["3", "4"]);
    }

    #[test]
    fn order_and_style_of_lists_do_not_matter() {
        let parse = |body| Param::parse(body).0;
        assert_eq!(parse("a[]=1&a[]=2&b=3"), parse("b=3&a[1]=2&a[0]=1"));
        assert_ne!(parse("a[]=1"), parse("a[]=2"));
    }

    #[test]
    fn lists_are_in_order_of_number_not_of_text() {
        let body: String = (0..12).rev().map(|n| format!("a[{n}]={n}&")).collect();
        let expected: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(Param::parse(&body).0.texts("a"), expected);
    }

    #[test]
    fn mistakes_that_rack_refuses_are_named() {
        for (body, error) in [
            ("a", "a: no \"=\""),
            ("a=1&a=2", "a: given twice"),
            ("a=1&a[b]=2", "a[b]: both a value and an object"),
            ("a[b=1", "a[b: malformed key"),
        ] {
            assert_eq!(Param::parse(body).1, [error], "{body}");
        }
    }

    #[test]
    fn metadata_has_its_limits_at_any_depth() {
        let oversized = |body: &str| Param::parse(body).0.oversized_metadata();
        assert_eq!(oversized(&format!("metadata[a]={}", "x".repeat(500))), None);
        assert!(oversized(&format!("subscription_data[metadata][a]={}", "x".repeat(501))).is_some());
        assert!(oversized(&format!("items[0][metadata][{}]=1", "k".repeat(41))).is_some());
        let many: String = (0..51).map(|n| format!("metadata[k{n}]=1&")).collect();
        assert!(oversized(&many).is_some());
    }

    #[test]
    fn broken_percent_signs_are_kept() {
        assert_eq!(Param::parse("a=5%&b=%zz&c=%c3%a9").0.text("c"), Some("é"));
        assert_eq!(Param::parse("a=5%&b=%zz").0.text("a"), Some("5%"));
    }
}
