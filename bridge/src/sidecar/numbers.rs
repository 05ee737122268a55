//! The numbers of a sidecar for Prometheus (docs/reference/metrics.md), and what is wrong now, told once.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::nats::Carried;

/// What became of a connection of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Carried,
    /// The mesh does not want the ServiceAccount.
    Refused,
    Unreachable,
    /// The application did not speak NATS.
    Invalid,
    /// One of the two sides ended while signing in, or took too long.
    Broken,
}

impl Opened {
    const ALL: [Self; 5] = [Self::Carried, Self::Refused, Self::Unreachable, Self::Invalid, Self::Broken];

    const fn label(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Invalid => "invalid",
            Self::Broken => "broken",
        }
    }
}

/// What an HTTP request wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Publish,
    Request,
}

impl Operation {
    const fn label(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Request => "request",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

type Counts<L> = Family<L, Counter<u64, AtomicU64>>;

/// Shared by all who count.
#[derive(Clone)]
pub struct Numbers(Arc<Inner>);

struct Inner {
    registry: Registry,
    mesh_connected: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    opened: Counts<ResultLabel>,
    bytes: Counts<DirectionLabel>,
    requests: Counts<RequestLabels>,
    trouble: Mutex<Option<String>>,
}

impl Default for Numbers {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("eventmesh_sidecar");
        let (mesh_connected, connections) = <(Gauge<i64, AtomicI64>, Gauge<i64, AtomicI64>)>::default();
        let (opened, bytes, requests) =
            <(Counts<ResultLabel>, Counts<DirectionLabel>, Counts<RequestLabels>)>::default();
        registry.register("mesh_connected", "1 while the mesh is connected", mesh_connected.clone());
        registry.register("nats_connections", "Connections of the application that are carried", connections.clone());
        registry.register("nats_connections_opened", "Connections by what became of them", opened.clone());
        registry.register("nats_bytes", "Bytes carried", bytes.clone());
        registry.register("http_requests", "Requests by what they wanted and how they were answered", requests.clone());
        for result in Opened::ALL {
            drop(opened.get_or_create(&ResultLabel { result: result.label() }));
        }
        for direction in ["to_mesh", "from_mesh"] {
            drop(bytes.get_or_create(&DirectionLabel { direction }));
        }
        let trouble = Mutex::default();
        Self(Arc::new(Inner { registry, mesh_connected, connections, opened, bytes, requests, trouble }))
    }
}

impl Numbers {
    pub fn opened(&self, result: Opened) {
        self.0.opened.get_or_create(&ResultLabel { result: result.label() }).inc();
    }

    /// Where a connection counts its bytes, and what counts it until it is dropped.
    #[must_use]
    pub fn connected(&self) -> (Carried, Connected) {
        let bytes = |direction| self.0.bytes.get_or_create(&DirectionLabel { direction }).clone();
        self.0.connections.inc();
        (Carried::new(bytes("to_mesh"), bytes("from_mesh")), Connected(self.clone()))
    }

    pub fn answered(&self, operation: Operation, status: u16) {
        self.0.requests.get_or_create(&RequestLabels { operation: operation.label(), status }).inc();
    }

    /// Logs what is wrong, once: many connections find the same.
    pub fn trouble(&self, problem: &str) {
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_deref() != Some(problem) {
            tracing::warn!(problem, "a connection of the application could not be carried");
            *trouble = Some(problem.to_owned());
        }
    }

    /// Nothing is wrong any more.
    pub fn trouble_over(&self) {
        let trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if trouble.is_some() {
            tracing::info!("connections of the application are carried again");
        }
    }

    #[must_use]
    pub fn render(&self, mesh_connected: bool) -> String {
        self.0.mesh_connected.set(mesh_connected.into());
        let mut text = String::new();
        let _ = encode(&mut text, &self.0.registry);
        text
    }
}

/// A connection that is carried.
pub struct Connected(Numbers);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.connections.dec();
    }
}
