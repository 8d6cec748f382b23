//! A TCP proxy between one service and one server, which does to the bytes what a network does.
//!
//! Bytes are lost only together with their connection: as long as a connection lives, what it delivers is what was sent,
//! in order, so each failure is one that TCP really has.

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

/// What happens on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    #[default]
    Clear,
    /// Every connection is reset, and every new one at once.
    Cut,
    /// Connections stay open and nothing moves, either way; what was sent arrives when it is over.
    HalfOpen,
    /// Each read is passed on so much later.
    Slow(Duration),
    /// Before the write: requests never arrive. Their connections are reset when it is over.
    LosesRequests,
    /// After the write: requests arrive, answers do not. Their connections are reset when it is over.
    LosesAnswers,
}

/// Listens on a port of 127.0.0.1 and passes on to one address. Dropped, it closes what is open.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// What becomes of bytes that go in one direction.
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

    /// Where the service connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds from now on, also for what is open.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Weather {
    fn fate(self, direction: Direction) -> Fate {
        match (self, direction) {
            (Self::LosesRequests, Direction::Request) | (Self::LosesAnswers, Direction::Answer) => Fate::Lost,
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
            // A failure (no descriptor left) passes; the peer sees a connection that is not answered.
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
    // Where it fails, packets only take longer.
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).ok();
    let (requests, answers) = (weather.clone(), weather.clone());
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let both = async {
        tokio::try_join!(
            pump(&mut from_client, &mut to_server, Direction::Request, requests),
            pump(&mut from_server, &mut to_client, Direction::Answer, answers),
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

/// What is dropped after this ends with a reset, not in order.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// Passes bytes on until the end of the stream; fails when the connection has to be reset.
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
            // It ends with the proxy.
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
