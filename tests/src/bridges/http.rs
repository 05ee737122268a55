//! HTTP as far side: clients that post to the bridge, and a server that collects.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use eventmesh_wire::report::Direction;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};

use super::{FarSide, Identity, Receive, Send};
use crate::child::free_port;
use crate::http::{Collector, Sender};

const TOKEN: &str = "let-me-in";

/// The clients' connections end together when the far side is restarted, and so does the server.
pub struct Http {
    /// Where the bridge listens.
    port: u16,
    clients: Clients,
    collector: Collector,
}

/// Exchanged for new ones when the far side is restarted.
#[derive(Clone)]
pub struct Clients(Arc<Mutex<Sender>>);

impl Http {
    pub async fn start() -> Result<Self> {
        let port = free_port()?;
        let clients = Clients(Arc::new(Mutex::new(client(port)?)));
        Ok(Self { port, clients, collector: Collector::start().await? })
    }
}

fn client(port: u16) -> Result<Sender> {
    Sender::new(&format!("http://127.0.0.1:{port}"), &[("authorization", &format!("Bearer {TOKEN}"))])
}

impl FarSide for Http {
    type Sender = Clients;
    type Receiver = BoxStream<'static, Vec<u8>>;

    fn name(&self) -> String {
        "http".to_owned()
    }

    fn endpoint(&self, direction: Direction) -> Result<Value> {
        Ok(if direction == Direction::Inbound {
            let authentication = json!({"bearer": {"tokens": [TOKEN]}});
            json!({"http": {"listen": {"port": self.port, "authentication": authentication}}})
        } else {
            json!({"http": {"target": {"url": self.collector.url()}}})
        })
    }

    fn inbound(&self) -> Value {
        json!({"from": "/in/*"})
    }

    fn outbound(&self) -> Value {
        json!({"to": "/out/{1}"})
    }

    fn identity(&self) -> Identity {
        Identity::Id
    }

    async fn sender(&self) -> Result<Clients> {
        Ok(self.clients.clone())
    }

    async fn receiver(&mut self) -> Result<Self::Receiver> {
        Ok(self.collector.arrivals().boxed())
    }

    async fn restart(&mut self) -> Result<()> {
        *self.clients.0.lock().unwrap_or_else(PoisonError::into_inner) = client(self.port)?;
        self.collector.stop().await;
        self.collector.start_again(None).await
    }
}

impl Send for Clients {
    async fn send(&self, id: &str, lane: u32, payload: Vec<u8>) -> bool {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/trial"),
            ("ce-type", "trial"),
            ("content-type", "application/json"),
        ];
        client.post(&format!("/in/{lane}"), &headers, &payload).await.is_ok_and(|answer| answer.status == 202)
    }
}

impl Receive for BoxStream<'static, Vec<u8>> {
    async fn receive(&mut self) -> Option<Vec<u8>> {
        self.next().await
    }
}
