//! Very slow clients: each sends a head byte by byte without an end, and reconnects when it is cut off.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections per address, below the limit of a gateway.
const OF_AN_ADDRESS: usize = 900;

/// Continues until it is dropped.
pub(super) struct Slow {
    open: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Slow {
    /// Starts `connections` connections from addresses of this machine.
    pub(super) fn start(server: SocketAddr, connections: usize) -> Self {
        let slow = Self {
            open: Arc::default(),
            cut: Arc::default(),
            stop: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        for n in 0..connections {
            let source = Ipv4Addr::new(127, 0, 1, 1 + (n / OF_AN_ADDRESS) as u8);
            let crawling = crawl(server, source, slow.open.clone(), slow.cut.clone());
            tasks.spawn(slow.stop.clone().run_until_cancelled_owned(crawling));
        }
        slow
    }

    /// The number of connections that are open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How often the server has cut a connection off.
    pub(super) fn cut(&self) -> usize {
        self.cut.load(Relaxed)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn crawl(server: SocketAddr, source: Ipv4Addr, open: Arc<AtomicUsize>, cut: Arc<AtomicUsize>) {
    // Spread the starts over a second.
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..1_000))).await;
    loop {
        let connected = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(server).await
        };
        if let Ok(mut stream) = connected.await {
            open.fetch_add(1, Relaxed);
            for byte in b"GET /api/x HTTP/1.1\r\nhost: a.example\r\nx: "
                .iter()
                .chain(std::iter::repeat(&b'x'))
            {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(rand::random_range(500..3_000))).await;
            }
            open.fetch_sub(1, Relaxed);
            cut.fetch_add(1, Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(10..200))).await;
    }
}

pub(super) fn percentile(mut times: Vec<Duration>, part: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * part) as usize;
    times[at.min(times.len() - 1)]
}
