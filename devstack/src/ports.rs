//! Free ports on 127.0.0.1.
//!
//! Ports are below the range that the kernel uses for outgoing connections (32768 on Linux, 49152 on macOS):
//! otherwise a client's connection could occupy the port of a killed server before it restarts. Each process
//! reserves [`Blocks`] of ports, so that a demo and two test runs on one machine do not choose the same one. Other
//! programs can still take a port before the server has bound it, so [`on_free_port`] retries with another one.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt;

const RANGE: Range<u16> = 15_000..32_000;
const BLOCK: u16 = 100;
/// After this many starts on taken ports in a row, something else is wrong.
const STARTS_MAX: usize = 5;

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks {
    reserved: Vec::new(),
    rest: 0..0,
});

/// The ports of this process. A block belongs to the process that has bound its first port for UDP, which none of
/// the servers uses; the kernel returns it when the process ends, however it ends.
struct Blocks {
    reserved: Vec<UdpSocket>,
    /// What was not given yet of the newest block.
    rest: Range<u16>,
}

impl Blocks {
    fn next(&mut self) -> Result<u16> {
        for _ in 0..1_000 {
            if let Some(port) = self
                .rest
                .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            {
                return Ok(port);
            }
            let first = RANGE.start + BLOCK * rand::rng().random_range(0..(RANGE.end - RANGE.start) / BLOCK);
            if let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, first)) {
                self.reserved.push(reservation);
                self.rest = first..first + BLOCK;
            }
        }
        bail!(
            "found no free port between {} and {} on 127.0.0.1",
            RANGE.start,
            RANGE.end
        )
    }
}

/// A free port that this function has not returned before, in this process or another one that runs.
pub fn free() -> Result<u16> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).next()
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_given_together_are_distinct() {
        let ports: HashSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn two_processes_are_given_different_ports() {
        // Two of these are for each other what two processes are: they share the kernel's table of sockets alone.
        let [mut one, mut other] = [(), ()].map(|()| Blocks {
            reserved: Vec::new(),
            rest: 0..0,
        });
        let ports: HashSet<u16> = (0..250)
            .flat_map(|_| [one.next().unwrap(), other.next().unwrap()])
            .collect();
        assert_eq!(ports.len(), 500);
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
