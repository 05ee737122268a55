//! Where events leave for Kafka: one lane a topic, which keeps their order through whatever is tried again.
//!
//! The client tries again by itself, in order, while brokers are away or lack replicas. What it gives up on (no such topic, no
//! right) the lane tries again, also in order: nothing of the topic overtakes. So the dispatcher needs no lanes of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::{DeliveryConfig, Guarantee, KafkaEndpoint, OutboundRoute};
use eventmesh_wire::key::KeyTemplate;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use krafka::producer::{Acks, Producer};
use krafka::{CloseOptions, KrafkaError};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::lane::{Job, Lane};
use super::{client, headers};
use crate::event::{Delivery, header};
use crate::route::dispatch::{Failure, Target};

/// How long a batch waits for more events: at most this is added to the time that an event takes.
const LINGER: Duration = Duration::from_millis(2);
/// How long an event may wait for the topic's partitions and for room in the client, before the lane tries again.
const MAX_BLOCK: Duration = Duration::from_secs(5);
/// The client never gives up on what it can try again: giving up would let later events of the partition overtake.
const DELIVERY_TIMEOUT: Duration = Duration::from_hours(24 * 365);
/// Bytes that the client may hold; together with the window it bounds memory.
const BUFFER: usize = 8 << 20;

/// Where events leave: the connection there is now.
pub struct Outlet {
    open: Mutex<Option<Arc<Writer>>>,
    /// How many events are on their way on each connection there was.
    earlier: Mutex<Vec<Arc<AtomicUsize>>>,
    delivery: DeliveryConfig,
    keys: Mutex<BTreeMap<String, Option<KeyTemplate>>>,
}

/// A connection that stands, and the lanes on it.
pub struct Writer {
    endpoint: KafkaEndpoint,
    client_id: String,
    producer: OnceCell<Producer>,
    lanes: Mutex<BTreeMap<String, mpsc::UnboundedSender<Job>>>,
    /// Events on their way on this connection, and on those before it.
    flights: Arc<AtomicUsize>,
    earlier: Vec<Arc<AtomicUsize>>,
    delivery: DeliveryConfig,
    /// The client can not go on; a new one is needed.
    pub broken: CancellationToken,
}

impl Outlet {
    pub fn new(delivery: DeliveryConfig) -> Self {
        Self { open: Mutex::default(), earlier: Mutex::default(), delivery, keys: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Writer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, endpoint: &KafkaEndpoint, client_id: &str) -> Arc<Writer> {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|flights| flights.load(Ordering::Relaxed) > 0);
        let flights = Arc::default();
        let writer = Arc::new(Writer {
            endpoint: endpoint.clone(),
            client_id: client_id.to_owned(),
            producer: OnceCell::new(),
            lanes: Mutex::default(),
            flights: Arc::clone(&flights),
            earlier: earlier.clone(),
            delivery: self.delivery.clone(),
            broken: CancellationToken::new(),
        });
        earlier.push(flights);
        *self.lock() = Some(Arc::clone(&writer));
        writer
    }

    /// What is on its way is lost to this bridge, and goes back to the mesh.
    pub async fn close(&self) {
        let writer = self.lock().take();
        if let Some(writer) = writer {
            writer.close().await;
        }
    }

    /// The key of an event: what the route says, or what came with it, or else its subject, so that the events of a subject
    /// are in one partition and keep their order.
    fn key(&self, delivery: &Delivery) -> Option<Vec<u8>> {
        let wanted = delivery.route.as_ref().and_then(|route| self.wanted_key(route, delivery));
        let carried = [headers::KEY, headers::KEY_BASE64, "ce-partitionkey"];
        let has_own = carried.iter().any(|name| header(&delivery.headers, name).is_some());
        wanted.or_else(|| (!has_own).then(|| delivery.origin.clone())).map(String::into_bytes)
    }

    fn wanted_key(&self, route: &OutboundRoute, delivery: &Delivery) -> Option<String> {
        let text = route.key.as_ref()?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains_key(text) {
            // A route's template was checked with the configuration.
            keys.insert(text.clone(), KeyTemplate::new(&route.subjects, text).ok());
        }
        keys.get(text)?.as_ref()?.apply(&delivery.origin, |name| header(&delivery.headers, name))
    }
}

/// An event on its way, until whoever sent it has the answer.
struct Flight(Arc<AtomicUsize>);

impl Flight {
    fn begin(flights: &Arc<AtomicUsize>) -> Self {
        flights.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(flights))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target for Outlet {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let Some(writer) = self.lock().clone() else { return ready(Err(Failure::Lost)).boxed() };
        // What was on its way on an earlier connection and is not answered yet must not be overtaken on this one.
        if writer.earlier.iter().any(|flights| flights.load(Ordering::Relaxed) > 0) {
            return ready(Err(Failure::Lost)).boxed();
        }
        let key = self.key(delivery);
        let record = headers::to_record(&delivery.target, &delivery.headers, delivery.payload.clone(), key);
        let (answer, answered) = oneshot::channel();
        writer.send(&delivery.target, Job::new(record, Arc::clone(delivery.receipt.books()), answer));
        let flight = Flight::begin(&writer.flights);
        async move {
            let answer = answered.await.unwrap_or(Err(Failure::Lost));
            drop(flight);
            answer
        }
        .boxed()
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

impl Writer {
    fn send(self: &Arc<Self>, topic: &str, job: Job) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(topic.to_owned()).or_insert_with(|| {
            let (jobs, received) = mpsc::unbounded_channel();
            let retry = self.delivery.retry;
            let at_most_once = self.delivery.guarantee == Guarantee::AtMostOnce;
            tokio::spawn(Lane::new(topic.to_owned(), Arc::clone(self), retry, at_most_once).run(received));
            jobs
        });
        // A lane that has ended drops the job, and so tells that it is lost.
        let _ = lane.send(job);
    }

    /// The producer, made when the first event needs it: a bridge that only reads needs no right to write. It has connections
    /// of its own: a broker answers one after the other, and one that reads waits half a second for events.
    ///
    /// # Errors
    /// When Kafka gives it no id.
    pub async fn producer(&self) -> Result<&Producer, KrafkaError> {
        let make = || async {
            let kafka = client::connect(&self.endpoint, &self.client_id).await?;
            kafka
                .producer()
                .acks(Acks::All)
                .idempotent(true)
                .linger(LINGER)
                .max_block(MAX_BLOCK)
                .delivery_timeout(DELIVERY_TIMEOUT)
                .buffer_memory(BUFFER)
                .metrics_push(false)
                .build()
                .await
        };
        self.producer.get_or_try_init(make).await
    }

    async fn close(&self) {
        self.broken.cancel();
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(producer) = self.producer.get() {
            let _ = producer.close_with(CloseOptions::new().timeout(Duration::from_secs(1))).await;
        }
    }
}
