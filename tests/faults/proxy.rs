//! A TCP proxy between one service and one server that simulates network faults.
//!
//! Bytes are lost only when their connection is reset. A living connection delivers all bytes in order, so each failure is one
//! that real TCP can have.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The state of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    #[default]
    Clear,
    /// Every connection is reset, and every new one immediately.
    Cut,
    /// Connections stay open but no bytes move in either direction. The bytes arrive when the fault is over.
    HalfOpen,
    /// Each read is delayed by this time.
    Slow(Duration),
    /// Before the write: requests never arrive. Their connections are reset when the fault is over.
    LosesRequests,
    /// After the write: requests arrive, responses do not. Their connections are reset when the fault is over.
    LosesAnswers,
}

/// Listens on a port of 127.0.0.1 and forwards to one address. Dropping it closes its connections.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// How the bytes of one direction are handled.
#[derive(Clone, Copy)]
enum Fate {
    Passed(Duration),
    Held,
    Lost,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("binding a fault proxy")?;
        let address = listener.local_addr().context("reading a fault proxy's port")?;
        let weather = watch::Sender::new(Weather::Clear);
        let accepting = TaskTracker::new().spawn(accept(listener, to, weather.subscribe()));
        Ok(Self {
            address,
            weather,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// The address that the service connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Applies immediately, also to open connections.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Weather {
    fn fate(self, direction: Direction) -> Fate {
        match (self, direction) {
            (Self::LosesRequests, Direction::Request) | (Self::LosesAnswers, Direction::Response) => Fate::Lost,
            (Self::HalfOpen, _) => Fate::Held,
            (Self::Slow(by), _) => Fate::Passed(by),
            _ => Fate::Passed(Duration::ZERO),
        }
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An accept error (such as too few file descriptors) is temporary. The peer sees a connection without an answer.
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connection(client, to, weather.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow() == Weather::Cut {
        return reset(&client);
    }
    let Ok(mut server) = TcpStream::connect(to).await else {
        return reset(&client);
    };
    // If this fails, packets only take longer.
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).ok();
    let (requests, answers) = (weather.clone(), weather.clone());
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let both = async {
        tokio::try_join!(
            pump(&mut from_client, &mut to_server, Direction::Request, requests),
            pump(&mut from_server, &mut to_client, Direction::Response, answers),
        )
    };
    let ended_well = tokio::select! {
        ended = both => ended.is_ok(),
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => false,
    };
    if !ended_well {
        reset(&client);
        reset(&server);
    }
}

/// Closing the connection after this sends a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// Forwards bytes until the end of the stream. Returns an error if the connection must be reset.
async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    direction: Direction,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost = false;
    loop {
        let fate = weather.borrow_and_update().fate(direction);
        if lost && !matches!(fate, Fate::Lost) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let read = tokio::select! {
            // The task ends with the proxy.
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Err(io::ErrorKind::ConnectionReset.into()),
            },
            read = from.read(&mut buffer), if !matches!(fate, Fate::Held) => read?,
        };
        match fate {
            Fate::Lost => lost |= read > 0,
            Fate::Passed(by) => {
                if !by.is_zero() {
                    tokio::time::sleep(by).await;
                }
                to.write_all(&buffer[..read]).await?;
            }
            Fate::Held => {}
        }
        if read == 0 {
            if lost {
                weather.changed().await.ok();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            return to.shutdown().await;
        }
    }
}
