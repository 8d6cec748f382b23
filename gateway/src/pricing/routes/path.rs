//! The normal form of a path, by which routes are matched. Another spelling of an expensive route must not match a cheap one, so
//! spellings that servers commonly treat as the same path have the same normal form.

use std::borrow::Cow;

/// Servers understand such a path in different ways, so its cost is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path must not have `.` or `..` segments")]
    Dots,
    /// For one server it is a character in a segment, for another one it ends the segment.
    #[error("the path must not have a backslash, an encoded slash (%2F) or an encoded backslash (%5C)")]
    Slash,
    /// It is another method here, and the same one for servers that convert it to capital letters.
    #[error("the method must be in capital letters")]
    Method,
}

/// Percent-encoded characters that a segment may hold unencoded (RFC 3986, 3.3) are decoded. Empty segments and the last slash
/// are removed.
pub(super) fn normal_form(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path.contains('\\') {
        return Err(PathError::Slash);
    }
    let plain = !path.contains('%') && !path.contains("//") && (path.len() < 2 || !path.ends_with('/'));
    let path = if plain {
        Cow::Borrowed(path)
    } else if has_encoded_slash(path) {
        return Err(PathError::Slash);
    } else {
        Cow::Owned(rebuilt(path))
    };
    if path.contains("/.") && path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(PathError::Dots);
    }
    Ok(path)
}

fn rebuilt(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        let (decoded, taken) = match encoded(rest) {
            Some(decoded) => (decoded, 3),
            None => (character, character.len_utf8()),
        };
        if decoded != '/' || !out.ends_with('/') {
            out.push(decoded);
        }
        rest = &rest[taken..];
    }
    if out.len() > 1 && out.ends_with('/') {
        out.pop();
    }
    out
}

/// The percent-encoded character at the start of `text`, if a segment may hold it unencoded: an unreserved character, a
/// sub-delimiter, `:` or `@`.
fn encoded(text: &str) -> Option<char> {
    let byte = encoded_byte(text)?;
    (byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)).then_some(char::from(byte))
}

fn encoded_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix('%')?.get(..2)?;
    u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))
}

fn has_encoded_slash(path: &str) -> bool {
    path.match_indices('%')
        .filter_map(|(at, _)| encoded_byte(&path[at..]))
        .any(|byte| matches!(byte, b'/' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_path_is_not_copied() {
        assert!(matches!(normal_form("/api/posts/search"), Ok(Cow::Borrowed(_))));
        assert!(matches!(normal_form("/"), Ok(Cow::Borrowed("/"))));
    }

    #[test]
    fn only_characters_of_a_segment_are_decoded() {
        for (path, normal) in [
            ("/a%3Ab%40", "/a:b@"),
            ("/a%20b", "/a%20b"),
            ("/a%252Fb", "/a%252Fb"),
            ("/%7Euser", "/~user"),
            ("/100%", "/100%"),
            ("/%+1", "/%+1"),
            ("/%C3%A9", "/%C3%A9"),
            ("/a.b/.well-known", "/a.b/.well-known"),
            ("/", "/"),
            ("///", "/"),
        ] {
            assert_eq!(normal_form(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn an_encoded_slash_or_a_backslash_is_refused() {
        for path in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5c", "/a\\b"] {
            assert_eq!(normal_form(path), Err(PathError::Slash), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_does_not_change_again(path in "/[a-c/.%2ef]{0,24}") {
            // The path is decoded once: a percent sign that is encoded itself stays as it is.
            prop_assume!(!path.contains("%2"));
            if let Ok(normal) = normal_form(&path) {
                prop_assert_eq!(normal_form(&normal), Ok(normal.clone()));
                prop_assert!(!normal.contains("//"));
            }
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,40}") {
            prop_assert!(normal_form(&path).map_or(true, |normal| normal.len() <= path.len()));
        }
    }
}
