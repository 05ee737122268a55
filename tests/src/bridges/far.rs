//! What a trial needs of a far side, the same for every kind of endpoint.

use std::future::Future;

use anyhow::Result;
use eventmesh_wire::report::Direction;
use serde_json::Value;

/// An outside system: a real one, with clients of the trial's own.
pub trait FarSide: std::marker::Send + Sized {
    type Sender: Send;
    type Receiver: Receive;

    /// What the table calls it.
    fn name(&self) -> String;

    /// The bridge's `endpoint` for routes of this direction.
    fn endpoint(&self, direction: Direction) -> Result<Value>;

    /// Fields of the inbound route beside name, stream and `to`: `from`, and how events are identified.
    fn inbound(&self) -> Value;

    /// Fields of the outbound route beside name, stream, consumer and subjects: `to`.
    fn outbound(&self) -> Value;

    /// What the mesh knows an event by when it comes again.
    fn identity(&self) -> Identity;

    fn sender(&self) -> impl Future<Output = Result<Self::Sender>>;

    /// It must be listening when this returns.
    fn receiver(&mut self) -> impl Future<Output = Result<Self::Receiver>>;

    /// Ends the system as its operators do, or harder, and starts it with the same address and data.
    fn restart(&mut self) -> impl Future<Output = Result<()>>;
}

/// What the mesh knows an event by when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Nothing: a copy after a fault is stored too.
    None,
    /// Its place at the far side: there is no copy, but a sender that tries again makes another event.
    Place,
    /// What its sender calls it: there is no copy, however often it was sent.
    Id,
}

/// Puts events in at the far side.
pub trait Send: std::marker::Send + Sync + 'static {
    /// One try; true when the far side has confirmed the event. `id` identifies the event, `lane` where it belongs in order.
    fn send(&self, id: &str, lane: u32, payload: Vec<u8>) -> impl Future<Output = bool> + std::marker::Send;
}

/// Takes events out at the far side; it goes on by itself after the far side was away.
pub trait Receive: std::marker::Send + 'static {
    /// `None` when it has ended for good.
    fn receive(&mut self) -> impl Future<Output = Option<Vec<u8>>> + std::marker::Send;
}
