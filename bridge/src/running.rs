//! What runs for one configuration, and how it changes into what runs for the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventmesh_wire::config::{BridgeConfig, DesiredState, EndpointConfig, MqttEndpoint, OutboundRoute};
use eventmesh_wire::report::Direction;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::endpoint::mqtt::client::Options;
use crate::endpoint::mqtt::{Link, LinkState};
use crate::mesh::{Mesh, consume};
use crate::route::inbound::Inbound;
use crate::route::outbound::{Outbound, OutboundTargets};
use crate::tls;

/// How long events on their way may take to finish when their route ends.
pub const DRAIN: Duration = Duration::from_secs(20);

/// The books of all routes there ever were in this process: they outlive restarts of their routes.
#[derive(Default, Clone)]
pub struct Library {
    books: Arc<Mutex<Shelf>>,
}

type Shelf = BTreeMap<(Direction, String), Arc<Books>>;

impl Library {
    /// The books of a route; it counts as restarted when there were some.
    fn open(&self, direction: Direction, name: &str) -> Arc<Books> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (direction, name.to_owned());
        if let Some(known) = books.get(&key) {
            known.restarted();
            known.clear();
            return Arc::clone(known);
        }
        let new = Arc::new(Books::new(name, direction));
        books.insert(key, Arc::clone(&new));
        new
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Books>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn keep_only(&self, config: &BridgeConfig) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.retain(|(direction, name), _| match direction {
            Direction::Inbound => config.inbound.iter().any(|route| route.name == *name),
            Direction::Outbound => config.outbound.iter().any(|route| route.name == *name),
        });
    }

    /// The books of the routes of a configuration that runs none of them.
    pub fn open_all(&self, config: &BridgeConfig) {
        config.inbound.iter().for_each(|route| drop(self.open(Direction::Inbound, &route.name)));
        config.outbound.iter().for_each(|route| drop(self.open(Direction::Outbound, &route.name)));
        self.keep_only(config);
    }

    fn in_flight(&self) -> u64 {
        self.all().iter().map(|books| books.counters().in_flight).sum()
    }
}

struct RunningOutbound {
    config: OutboundRoute,
    stop: CancellationToken,
}

/// The running routes of one configuration.
pub struct Running {
    config: BridgeConfig,
    mesh: Mesh,
    library: Library,
    link: Link,
    inbound: Vec<Arc<Inbound>>,
    outbound: Vec<RunningOutbound>,
    targets: Arc<OutboundTargets>,
}

impl Running {
    /// Starts all routes. A paused bridge runs none.
    ///
    /// # Errors
    /// What `validate` would have found, and certificates that can not be read.
    pub fn start(config: &BridgeConfig, mesh: &Mesh, library: &Library) -> anyhow::Result<Option<Self>> {
        if config.state == DesiredState::Paused {
            library.open_all(config);
            return Ok(None);
        }
        let EndpointConfig::Mqtt(mqtt) = &config.endpoint;
        let options = options(config, mqtt)?;
        let inbound = config
            .inbound
            .iter()
            .map(|route| {
                Ok(Arc::new(Inbound::start(
                    route,
                    config,
                    library.open(Direction::Inbound, &route.name),
                    mesh.clone(),
                )?))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let targets = Arc::new(OutboundTargets::default());
        let link = Link::start(options, config.delivery.guarantee, mesh.clone(), inbound.clone(), Arc::clone(&targets));
        let mut running = Self {
            config: config.clone(),
            mesh: mesh.clone(),
            library: library.clone(),
            link,
            inbound,
            outbound: Vec::new(),
            targets,
        };
        for route in &config.outbound {
            running.start_outbound(route)?;
        }
        library.keep_only(config);
        Ok(Some(running))
    }

    fn start_outbound(&mut self, route: &OutboundRoute) -> anyhow::Result<()> {
        let books = self.library.open(Direction::Outbound, &route.name);
        self.targets.set(route, &books);
        let stop = CancellationToken::new();
        let consume = consume::Consume {
            route: Outbound::new(route, &self.config.bridge.uid, self.config.delivery.guarantee, books)?,
            mesh: self.mesh.clone(),
            endpoint: self.link.state.clone(),
            sink: self.link.sink(),
            targets: Arc::clone(&self.targets),
            window: self.config.delivery.max_in_flight as usize,
        };
        tokio::spawn(consume::run(consume, stop.clone()));
        self.outbound.push(RunningOutbound { config: route.clone(), stop });
        Ok(())
    }

    /// Whether the next configuration differs in routes only, so that the connections can stay.
    #[must_use]
    pub fn can_become(&self, next: &BridgeConfig) -> bool {
        let routes_aside =
            BridgeConfig { inbound: next.inbound.clone(), outbound: next.outbound.clone(), ..self.config.clone() };
        routes_aside == BridgeConfig { report_interval_seconds: self.config.report_interval_seconds, ..next.clone() }
    }

    /// Restarts the routes that changed, and no others.
    ///
    /// # Errors
    /// What `validate` would have found.
    pub fn become_next(&mut self, next: &BridgeConfig) -> anyhow::Result<()> {
        self.config = next.clone();
        let mut inbound = Vec::with_capacity(next.inbound.len());
        for route in &next.inbound {
            let same = self.inbound.iter().find(|running| running.config == *route);
            inbound.push(if let Some(running) = same {
                Arc::clone(running)
            } else {
                let books = self.library.open(Direction::Inbound, &route.name);
                Arc::new(Inbound::start(route, next, books, self.mesh.clone())?)
            });
        }
        self.inbound.clone_from(&inbound);
        self.link.set_routes(inbound);
        self.outbound.retain(|running| {
            let stays = next.outbound.contains(&running.config);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        for route in &next.outbound {
            if !self.outbound.iter().any(|running| running.config == *route) {
                self.start_outbound(route)?;
            }
        }
        self.library.keep_only(next);
        Ok(())
    }

    /// How the connection to the endpoint stands.
    #[must_use]
    pub fn endpoint(&self) -> LinkState {
        self.link.state.borrow().clone()
    }

    /// Takes nothing more in, finishes what is on its way as far as that is possible in time, and disconnects.
    pub async fn stop(self) {
        self.outbound.iter().for_each(|running| running.stop.cancel());
        self.link.drain();
        let deadline = Instant::now() + DRAIN;
        let can_finish = || self.mesh.is_connected() && self.link.state.borrow().connected;
        while self.library.in_flight() > 0 && can_finish() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // One more turn of the event loop, so that the last acknowledgements are handed over before the goodbye.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.link.stop().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.mesh.client.flush()).await;
    }
}

fn options(config: &BridgeConfig, mqtt: &MqttEndpoint) -> anyhow::Result<Options> {
    let address = mqtt.broker().map_err(|problem| anyhow::anyhow!(problem))?;
    let tls = if address.tls {
        let settings = mqtt.tls.clone().unwrap_or_default();
        let key = settings.client_key_pem.as_ref().map(|key| key.expose().to_owned());
        let identity = settings.client_cert_pem.as_deref().zip(key.as_deref());
        Some(Arc::new(tls::client_config(settings.ca_pem.as_deref(), identity)?))
    } else {
        None
    };
    let max_in_flight = u16::try_from(config.delivery.max_in_flight).unwrap_or(u16::MAX);
    Ok(Options { endpoint: mqtt.clone(), address, tls, max_in_flight })
}
