//! Text of a client, as a message shows it.

/// A text of the client is shown up to this length, in characters.
pub(crate) const CHARACTERS_MAX: usize = 60;

/// The text on one line: shortened, and with `\n`, `\0` or `\u{202e}` for characters that a terminal or a log would obey.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(CHARACTERS_MAX));
    for (index, character) in text.chars().enumerate() {
        match character {
            _ if index == CHARACTERS_MAX => {
                shown.push('…');
                break;
            }
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_text_is_short_and_on_one_line() {
        assert_eq!(shown("it's \"ö\" \\"), "it's \"ö\" \\");
        assert_eq!(shown("a\0b\nc\u{202e}d\u{7f}"), "a\\0b\\nc\\u{202e}d\\u{7f}");
        assert_eq!(shown(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(shown(&"é".repeat(5_000)), format!("{}…", "é".repeat(60)));
    }
}
