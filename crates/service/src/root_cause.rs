//! Why a connection failed, in the words of the system or the server.

use std::error::Error;

/// The last of the error's causes. The errors before it say only which layer failed.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_system_says_why() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = refused.to_string();
        assert_eq!(root_cause(&sqlx::Error::Io(refused)), text);
        let unnamed = clickhouse::error::Error::Network(Box::new(sqlx::Error::Io(io::Error::other("no such host"))));
        assert_eq!(root_cause(&unnamed), "no such host");
    }
}
