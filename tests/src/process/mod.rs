//! Brokers and bridges as child processes: for tests and benchmarks that need the real programs and no cluster.

pub mod accounts;
pub mod artemis;
pub mod bridge;
pub mod cert_manager;
pub mod certificates;
mod clock;
pub mod kafka;
pub mod mosquitto;
pub mod nats;
pub mod proxy;
pub mod rabbitmq;
pub mod sidecar;
mod volume;

pub use accounts::{Accounts, Rights};
pub use artemis::Artemis;
pub use bridge::Bridge;
pub use cert_manager::CertManager;
pub use certificates::Authority;
pub use clock::WallClock;
pub use kafka::Kafka;
pub use mosquitto::Mosquitto;
pub use nats::Nats;
pub use proxy::Proxy;
pub use rabbitmq::Rabbitmq;
pub use sidecar::Sidecar;
pub use volume::Volume;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{child::Child, wait::eventually};

/// Replaces a folder of files as a kubelet does: all of them at one moment, by exchanging a symbolic link.
pub fn exchange(parent: &Path, name: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let version = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = parent.join(&version);
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes)?;
    }
    let next = parent.join(format!("{version}-next"));
    std::os::unix::fs::symlink(&version, &next)?;
    Ok(std::fs::rename(next, parent.join(name))?)
}

/// Waits until something listens there.
async fn listens(what: &str, port: u16) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually(what, Duration::from_mins(1), async || {
        tokio::net::TcpStream::connect(address).await.map(Some).map_err(|error| error.to_string())
    })
    .await
    .map(drop)
    .map_err(|error| anyhow!("{error}"))
}

/// Waits until a program listens that takes its time; one that ends instead is told of at once.
async fn ready(what: &str, child: &Child, port: u16, limit: Duration) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listens = eventually(what, limit, async || {
        if let Some(status) = child.exited() {
            return Ok(Some(Err(anyhow!("{what} ended with {status}"))));
        }
        tokio::net::TcpStream::connect(address).await.map(|_| Some(Ok(()))).map_err(|error| error.to_string())
    });
    listens.await.and_then(std::convert::identity).with_context(|| child.log_tail(20))
}
