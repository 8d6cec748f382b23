//! Free ports on 127.0.0.1.
//!
//! Ports are below the range that the kernel uses for outgoing connections (32768 on Linux, 49152 on macOS):
//! otherwise a client's connection could occupy the port of a killed server before it restarts. A port is only
//! *probably* free until the server has bound it, so [`on_free_port`] retries with another one.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt;

const RANGE: std::ops::Range<u16> = 15_000..32_000;
/// After this many starts on taken ports in a row, something else is wrong.
const STARTS_MAX: usize = 5;

/// A free port that this function has not returned before.
pub fn free() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    for _ in 0..1_000 {
        let port = rand::rng().random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
    bail!(
        "found no free port between {} and {} on 127.0.0.1",
        RANGE.start,
        RANGE.end
    )
}

/// Starts something on `fixed`, or on a free port, and retries on another one if that was taken in the meantime.
pub async fn on_free_port<T>(fixed: Option<u16>, start: impl AsyncFn(u16) -> Result<T>) -> Result<T> {
    if let Some(port) = fixed {
        return start(port).await;
    }
    for _ in 1..STARTS_MAX {
        match start(free()?).await {
            Err(error) if is_taken(&error) => continue,
            result => return result,
        }
    }
    start(free()?).await
}

/// Errors contain the server's log, and all servers log the system's text for EADDRINUSE.
fn is_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_lowercase().contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_given_together_are_distinct() {
        let ports: HashSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
    }

    #[tokio::test]
    async fn start_that_lost_its_port_is_tried_on_another() {
        let tries = std::cell::RefCell::new(Vec::new());
        let started = on_free_port(None, async |port| {
            tries.borrow_mut().push(port);
            if tries.borrow().len() == 1 {
                bail!("bind: Address already in use (98)")
            } else {
                Ok(port)
            }
        });
        let port = started.await.unwrap();
        assert_eq!(tries.borrow().len(), 2);
        assert_eq!(tries.borrow()[1], port);
        assert_ne!(tries.borrow()[0], port);
    }

    #[tokio::test]
    async fn port_that_the_caller_chose_is_not_replaced() {
        let started = on_free_port(Some(7), async |port| -> Result<()> {
            bail!("{port}: address already in use")
        });
        assert_eq!(started.await.unwrap_err().to_string(), "7: address already in use");
    }
}
