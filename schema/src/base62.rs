//! Base 62: digits, then uppercase letters, then lowercase letters. Safe in URLs and shells, and a double click selects all
//! of it.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `value` in exactly `width` digits, most significant first. The caller chooses a width that holds the value.
pub fn encode(mut value: u128, width: usize) -> String {
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value % 62) as usize];
        value /= 62;
    }
    debug_assert_eq!(value, 0, "the width holds the value");
    String::from_utf8(digits).expect("the digits are ASCII")
}

/// The value of a digit string. `None`: another character, or more than 128 bits.
pub fn decode(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        value.checked_mul(62)?.checked_add(u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decode_reverses_encode(value: u128) {
            prop_assert_eq!(decode(encode(value, 22).as_bytes()), Some(value));
        }
    }

    #[test]
    fn anything_but_a_number_of_128_bits_is_refused() {
        assert_eq!(decode(b"zzzzzzzzzzzzzzzzzzzzzzz"), None);
        assert_eq!(decode(b"ab-c"), None);
        assert_eq!(decode("ä".as_bytes()), None);
    }
}
