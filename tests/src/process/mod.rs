//! Brokers and bridges as child processes: for tests and benchmarks that need the real programs and no cluster.

pub mod bridge;
pub mod certificates;
pub mod mosquitto;
pub mod nats;

pub use bridge::Bridge;
pub use certificates::Authority;
pub use mosquitto::Mosquitto;
pub use nats::Nats;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, anyhow};

use crate::wait::eventually;

/// Waits until something listens there.
async fn listens(what: &str, port: u16) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually(what, Duration::from_secs(20), async || {
        tokio::net::TcpStream::connect(address).await.map(Some).map_err(|error| error.to_string())
    })
    .await
    .map(drop)
    .map_err(|error| anyhow!("{error}"))
}
