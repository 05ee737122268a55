//! AMQP 0-9-1, as RabbitMQ speaks it.
//!
//! Two connections: a broker short of memory or disk stops reading from one that publishes, and acknowledgements of what
//! came in must not wait for that.

mod client;
mod inbound;
mod message;
mod outbound;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Connection, Driver, Login};

use super::{CONNECT_TIMEOUT, GOODBYE, LinkError, Shared};

/// Runs until the connections are lost (`Err`), or the link is to stop (`Ok`).
pub(super) async fn run(shared: &Arc<Shared>) -> Result<(), LinkError> {
    let (reading, reads) = open(shared, "in").await?;
    let (writing, writes) = open(shared, "out").await?;
    let (mut reads, mut writes) = (pin!(reads.run()), pin!(writes.run()));
    let (reading, writing) = (Arc::new(reading), Arc::new(writing));
    shared.up(Arc::new(outbound::Publisher::new(Arc::clone(shared), Arc::clone(&writing))));
    tokio::select! {
        ended = &mut reads => return ended,
        ended = &mut writes => return ended,
        () = inbound::serve(shared, &reading) => {},
    }
    // What was acknowledged leaves before the close does.
    reading.close();
    writing.close();
    let _ = tokio::time::timeout(GOODBYE, async { tokio::join!(reads, writes) }).await;
    Ok(())
}

async fn open(shared: &Shared, way: &str) -> Result<(Connection, Driver), LinkError> {
    let endpoint = &shared.endpoint;
    let login = Login {
        vhost: endpoint.broker().map_err(LinkError::refused)?.1,
        password: endpoint.username.clone().zip(endpoint.password.clone()),
        heartbeat: Duration::from_secs(endpoint.heartbeat_seconds.into()),
        name: format!("{} ({way})", shared.name()),
    };
    tokio::time::timeout(CONNECT_TIMEOUT, Connection::open(&shared.place, &login))
        .await
        .unwrap_or_else(|_| Err(shared.place.timed_out()))
}
