//! What runs for one configuration, and how it changes into what runs for the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::{BridgeConfig, DesiredState, EndpointConfig, MeshConfig, OutboundRoute};
use eventmesh_wire::report::Direction;
use tokio::task::JoinHandle;

use crate::books::Books;
use crate::copy::{self, Copy};
use crate::endpoint::{self, Endpoint, LinkState};
use crate::mesh::Mesh;
use crate::mesh::consume::{self, Stop};
use crate::route::inbound::Inbound;
use crate::route::outbound::{Outbound, OutboundTargets};

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

    /// Waits until no route has an event in flight. Nothing must be taken in any more.
    async fn settled(&self) {
        for books in self.all() {
            books.settled().await;
        }
    }
}

struct RunningOutbound {
    config: OutboundRoute,
    stop: Stop,
    task: JoinHandle<()>,
}

/// The running routes of one configuration.
pub struct Running {
    config: BridgeConfig,
    mesh: Mesh,
    library: Library,
    endpoint: Box<dyn Endpoint>,
    inbound: Vec<Arc<Inbound>>,
    outbound: Vec<RunningOutbound>,
    targets: Arc<OutboundTargets>,
}

impl Running {
    /// Starts all routes, for as long as nobody abandons `mesh`. A paused bridge runs none.
    ///
    /// # Errors
    /// What `validate` would have found, and certificates that can not be read.
    pub fn start(config: &BridgeConfig, mesh: &Mesh, library: &Library) -> anyhow::Result<Option<Self>> {
        if config.state == DesiredState::Paused {
            library.open_all(config);
            return Ok(None);
        }
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
        let endpoint = endpoint::start(endpoint::Setup {
            config: config.clone(),
            mesh: mesh.clone(),
            inbound: inbound.clone(),
            targets: Arc::clone(&targets),
        })?;
        let mut running = Self {
            config: config.clone(),
            mesh: mesh.clone(),
            library: library.clone(),
            endpoint,
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
        let stop = Stop::default();
        let window = self.config.delivery.max_in_flight as usize;
        if matches!(self.config.endpoint, EndpointConfig::Link(_)) {
            let copy = Copy { config: Arc::new(route.clone()), books, mesh: self.mesh.clone(), window };
            let task = tokio::spawn(copy::run(copy, stop.clone()));
            self.outbound.push(RunningOutbound { config: route.clone(), stop, task });
            return Ok(());
        }
        self.targets.set(route, &books);
        let consume = consume::Consume {
            route: Outbound::new(route, &self.config, books)?,
            mesh: self.mesh.clone(),
            endpoint: self.endpoint.state(),
            sink: self.endpoint.sink(),
            targets: Arc::clone(&self.targets),
            window,
            alone: self.config.lease.is_some(),
        };
        let task = tokio::spawn(consume::run(consume, stop.clone()));
        self.outbound.push(RunningOutbound { config: route.clone(), stop, task });
        Ok(())
    }

    /// Whether the next configuration differs only in routes and in what the connections take up while they stand, so that
    /// they can stay.
    #[must_use]
    pub fn can_become(&self, next: &BridgeConfig) -> bool {
        let mesh = MeshConfig { credentials: next.mesh.credentials.clone(), ..self.config.mesh.clone() };
        let endpoint =
            if self.endpoint.can_adopt(&next.endpoint) { &next.endpoint } else { &self.config.endpoint }.clone();
        let (inbound, outbound) = (next.inbound.clone(), next.outbound.clone());
        let routes_aside = BridgeConfig { mesh, endpoint, inbound, outbound, ..self.config.clone() };
        routes_aside == BridgeConfig { report_interval_seconds: self.config.report_interval_seconds, ..next.clone() }
    }

    /// Restarts the routes that changed, and no others.
    ///
    /// # Errors
    /// What `validate` would have found.
    pub fn become_next(&mut self, next: &BridgeConfig) -> anyhow::Result<()> {
        if next.endpoint != self.config.endpoint {
            self.endpoint.adopt(&next.endpoint)?;
        }
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
        self.endpoint.set_routes(inbound);
        self.outbound.retain(|running| {
            let stays = next.outbound.contains(&running.config);
            if !stays {
                running.stop.give_way.cancel();
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
        self.endpoint.state().borrow().clone()
    }

    /// Another pod is the active one by now: what is here is its to carry, and is given back.
    pub async fn abandon(self) {
        self.mesh.abandon();
        for running in &self.outbound {
            running.stop.give_way.cancel();
            running.task.abort();
        }
        self.endpoint.drain();
        self.endpoint.stop().await;
    }

    /// Takes nothing more in, finishes what is on its way as far as that is possible in time, and disconnects.
    pub async fn stop(self) {
        self.outbound.iter().for_each(|running| running.stop.finish.cancel());
        self.endpoint.drain();
        let mut endpoint = self.endpoint.state();
        let finished = async {
            for running in self.outbound {
                let _ = running.task.await;
            }
            self.library.settled().await;
        };
        tokio::select! {
            () = finished => {},
            // Nothing more can be finished then.
            () = self.mesh.until_lost() => {},
            _ = endpoint.wait_for(|state| !state.connected) => {},
            () = tokio::time::sleep(DRAIN) => {},
        }
        self.endpoint.stop().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.mesh.client.flush()).await;
    }
}
