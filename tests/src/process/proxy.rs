//! A TCP relay in front of a program, whose connections can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Relays until it is dropped.
pub struct Proxy {
    pub port: u16,
    /// True while it is cut: connections end, and new ones are closed at once.
    cut: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of a port of this machine.
    pub async fn start(target: u16) -> Result<Self> {
        Self::at("127.0.0.1", target).await
    }

    /// At another address of this machine, by which pods reach what listens on the loopback interface.
    pub async fn at(host: &str, target: u16) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let port = listener.local_addr()?.port();
        let (cut, is_cut) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(relay(near, SocketAddr::from(([127, 0, 0, 1], target)), is_cut.clone()));
            }
        });
        Ok(Self { port, cut, task })
    }

    /// Ends all connections, and lets none through for a time.
    pub async fn cut(&self, pause: Duration) {
        self.cut.send_replace(true);
        tokio::time::sleep(pause).await;
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut.send_replace(true);
    }
}

async fn relay(mut near: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    if *cut.borrow() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {},
        _ = cut.wait_for(|cut| *cut) => {},
    }
}
