//! How fast a bridge is, beside what the client library it uses for an endpoint does alone, and what the mesh's does.
//!
//! All of it runs in one thread, as a bridge does, so that a library alone has no more processors than the library in a bridge.

pub mod amqp;
mod bridge;
mod flow;
pub mod http;
mod jetstream;
pub mod kafka;
mod mesh;
pub mod mqtt;
pub mod nats;
pub mod push;
mod row;
pub mod sidecar;

use std::future::Future;

use anyhow::Result;
pub use bridge::{Run, at_rest, run};
use eventmesh_wire::report::Direction;
pub use flow::{Arrivals, Clock, Event, Feed, send_window};
pub use mesh::{INSIDE, Mesh, Place, USUAL, Way};
pub use row::{Ceilings, Row, header};
use serde_json::Value;

/// Events on their way at once: the bridge's `maxInFlight`, and as many for a library alone.
pub const WINDOW: usize = 1000;

/// An outside system with the client library alone.
pub trait Far {
    /// Inbound events wait there until somebody takes them; otherwise their senders wait for the bridge.
    const WAITS: bool = true;
    /// Outbound events stay there until somebody takes them.
    const KEEPS: bool = true;

    /// The bridge's `endpoint` for routes of this direction.
    fn endpoint(&self, direction: Direction) -> Value;

    /// `from` of an inbound route, `to` of an outbound one.
    fn address(&self, direction: Direction) -> &'static str;

    /// `to` of an inbound route.
    fn subject(&self) -> &'static str {
        "in.{1}"
    }

    /// Whatever [`Far::receive`] of inbound events needs before these are sent.
    fn prepare(&self) -> impl Future<Output = Result<()>> {
        std::future::ready(Ok(()))
    }

    /// Sends events to where the routes of this direction take or bring them; returns when the system has confirmed all.
    fn send(&self, direction: Direction, feed: &Feed<'_>) -> impl Future<Output = Result<()>>;

    /// Receives events from where the routes of this direction take or bring them, and acknowledges them, until no more are
    /// wanted.
    fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> impl Future<Output = Result<()>>;

    /// Events a second of the library alone, doing what the bridge does there.
    fn alone(&self, direction: Direction, events: u32) -> impl Future<Output = Result<f64>> {
        async move {
            let feed = Feed::all(events);
            if direction == Direction::Outbound {
                self.send(direction, &feed).await?;
                return Ok(feed.rate());
            }
            self.prepare().await?;
            self.send(direction, &feed).await?;
            let mut arrivals = Arrivals::all(events);
            self.receive(direction, &mut arrivals).await?;
            Ok(arrivals.rate())
        }
    }
}

/// What addresses begin with, on either side.
const fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}
