//! Limits the connections of one address, so that no address can use up all connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

/// Called once for each connection, never for a request. Holds an entry for each connected address.
#[derive(Clone)]
pub(super) struct Addresses {
    inner: Arc<Inner>,
}

struct Inner {
    max: usize,
    unlimited: Arc<[IpNet]>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One counted connection. Dropping it makes room for another one.
pub(super) struct Counted {
    inner: Arc<Inner>,
    /// `None`: the address is not limited.
    address: Option<IpAddr>,
}

impl Addresses {
    pub(super) fn new(max: usize, unlimited: Arc<[IpNet]>) -> Self {
        Self {
            inner: Arc::new(Inner {
                max,
                unlimited,
                open: Mutex::default(),
            }),
        }
    }

    /// `None`: the address has reached its limit.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Counted> {
        let peer = peer.to_canonical();
        let counted = |address| Counted {
            inner: self.inner.clone(),
            address,
        };
        if self.inner.unlimited.iter().any(|network| network.contains(&peer)) {
            return Some(counted(None));
        }
        let address = counted_address(peer);
        let mut open = self.inner.open();
        let connections = open.entry(address).or_default();
        if *connections >= self.inner.max {
            return None;
        }
        *connections += 1;
        Some(counted(Some(address)))
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut open = self.inner.open();
        if let Some(connections) = open.get_mut(&address) {
            *connections -= 1;
            if *connections == 0 {
                open.remove(&address);
            }
        }
    }
}

/// The addresses that count as one: an IPv4 address, or an IPv6 network of 64 bits, because its owner can use any address in it.
fn counted_address(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_limit_of_connections_and_a_trusted_one_has_none() {
        let trusted: Arc<[IpNet]> = ["10.0.0.0/8".parse().unwrap()].into();
        let addresses = Addresses::new(2, trusted);
        let admit = |text: &str| addresses.admit(text.parse().unwrap());
        let first = admit("192.0.2.1");
        let second = admit("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(admit("192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        let many: Vec<_> = (0..10).map(|_| admit("10.1.1.1")).collect();
        assert!(many.iter().all(Option::is_some));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_address() {
        let addresses = Addresses::new(1, Arc::new([]));
        let admit = |text: &str| addresses.admit(text.parse().unwrap());
        let held = admit("2001:db8::1");
        assert!(admit("2001:db8::ffff:2").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
        drop(held);
        assert!(
            addresses.inner.open().is_empty(),
            "no entry is kept without a connection"
        );
    }
}
