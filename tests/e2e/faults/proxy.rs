//! The fault proxy, between a client and a server that echoes bytes and records them.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use harness::{
    eventually,
    faults::proxy::{Proxy, Weather},
    wait::PATIENCE,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Long enough for a byte on this machine, short enough for a test.
const SOON: Duration = Duration::from_millis(300);

struct Server {
    address: std::net::SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (tracker, kept) = (TaskTracker::new(), got.clone());
        let connections = tracker.clone();
        let serving = tracker.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let kept = kept.clone();
                connections.spawn(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        kept.lock().unwrap().extend(&buffer[..read]);
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            got,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    async fn until_got(&self, text: &str) {
        eventually(&format!("the server has {text:?}"), async || {
            (*self.got.lock().unwrap() == text.as_bytes()).then_some(())
        })
        .await;
    }

    fn got(&self) -> String {
        String::from_utf8(self.got.lock().unwrap().clone()).unwrap()
    }
}

async fn echo(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

async fn rig() -> (Server, Proxy, TcpStream) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo(&mut stream, "a").await.unwrap(), "a");
    (server, proxy, stream)
}

#[tokio::test]
async fn a_cut_resets_open_and_new_connections() {
    let (_server, proxy, mut stream) = rig().await;
    proxy.set(Weather::Cut);
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(timeout(PATIENCE, echo(&mut refused, "b")).await.unwrap().is_err());
    proxy.set(Weather::Clear);
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo(&mut again, "c").await.unwrap(), "c");
}

#[tokio::test]
async fn a_half_open_connection_delivers_its_bytes_when_the_fault_is_over() {
    let (server, proxy, mut stream) = rig().await;
    proxy.set(Weather::HalfOpen);
    assert!(timeout(SOON, echo(&mut stream, "b")).await.is_err());
    assert_eq!(server.got(), "a");
    proxy.set(Weather::Clear);
    assert_eq!(stream.read_u8().await.unwrap(), b'b');
    assert_eq!(server.got(), "ab");
}

#[tokio::test]
async fn a_request_lost_before_the_write_never_arrives() {
    let (server, proxy, mut stream) = rig().await;
    proxy.set(Weather::LosesRequests);
    assert!(timeout(SOON, echo(&mut stream, "b")).await.is_err());
    proxy.set(Weather::Clear);
    // The connection does not continue with missing bytes.
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo(&mut again, "c").await.unwrap(), "c");
    assert_eq!(server.got(), "ac");
}

#[tokio::test]
async fn a_write_takes_effect_although_its_response_is_lost() {
    let (server, proxy, mut stream) = rig().await;
    proxy.set(Weather::LosesAnswers);
    assert!(timeout(SOON, echo(&mut stream, "b")).await.is_err());
    server.until_got("ab").await;
    proxy.set(Weather::Clear);
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_slow_link_delays_both_ways_and_loses_nothing() {
    let (server, proxy, mut stream) = rig().await;
    proxy.set(Weather::Slow(Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(echo(&mut stream, "b").await.unwrap(), "b");
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(server.got(), "ab");
}

#[tokio::test]
async fn an_orderly_end_is_passed_on() {
    let (_server, _proxy, mut stream) = rig().await;
    stream.write_all(b"b").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"b");
}
