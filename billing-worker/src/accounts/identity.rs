//! Finds an account by its id or e-mail address, and says which names and addresses are accepted.

use problem::shown;
use schema::AccountId;

use crate::{administration::Administration, error::Error};

/// Finds an account by its id or its e-mail address.
pub async fn find(admin: &Administration, id_or_email: &str) -> Result<AccountId, Error> {
    let unknown = || Error::UnknownAccount(id_or_email.to_owned());
    if let Ok(id) = id_or_email.parse::<AccountId>() {
        return Ok(id);
    }
    let email = checked_email(id_or_email).map_err(|_| unknown())?;
    sqlx::query_scalar!("select id from accounts where lower(email) = lower($1)", email)
        .fetch_optional(&admin.db)
        .await?
        .map(AccountId)
        .ok_or_else(unknown)
}

/// Returns the name as it is stored: trimmed, not empty, on one line.
pub fn checked_name<'a>(field: &'static str, name: &'a str) -> Result<&'a str, Error> {
    const CHARS_MAX: usize = 200;
    let name = name.trim();
    if name.is_empty() || name.chars().count() > CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::BadValue {
            field,
            rule: format!(
                "must have 1 to {CHARS_MAX} characters on one line, got \"{}\"",
                shown(name)
            ),
        });
    }
    Ok(name)
}

/// Returns the e-mail address as it is stored. Refuses text that cannot be an address. Only a delivered message proves that an
/// address exists.
pub fn checked_email(email: &str) -> Result<&str, Error> {
    // RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them the angle brackets.
    const BYTES_MAX: usize = 254;
    let email = email.trim();
    let plausible = email.len() <= BYTES_MAX
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.contains('@')
                && domain.contains('.')
                && domain.split('.').all(|label| !label.is_empty())
        });
    match plausible {
        true => Ok(email),
        false => Err(Error::BadEmail(email.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_email_addresses_are_refused() {
        let longest = format!("{}@example.com", "a".repeat(242));
        let longer = format!("{}@example.com", "a".repeat(243));
        for good in ["a@b.co", " ann.o+x@mail.example.com ", "jörg@exämple.de", &longest] {
            assert_eq!(checked_email(good).unwrap(), good.trim());
        }
        for bad in [
            "", "a", "@b.co", "a@", "a@b", "a@b@c.d", "a b@c.d", "a@b..c", "a@.b", "a@b.", "a\0@b.c", &longer,
        ] {
            assert!(checked_email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_trimmed_and_stay_on_one_line() {
        assert_eq!(checked_name("name", " Ann & Co ").unwrap(), "Ann & Co");
        for bad in ["", "  ", "a\nb", "a\0b", &"x".repeat(201)] {
            assert!(checked_name("name", bad).is_err(), "{bad:?}");
        }
    }
}
