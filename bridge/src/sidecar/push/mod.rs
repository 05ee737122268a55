//! Push Subscriptions: their events as `CloudEvents` to the application beside this program. docs/push.md is what its developer reads.

mod connections;
mod lane;
mod pace;
mod ready;
mod request;
mod source;
mod tries;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use eventmesh_wire::config::sidecar::PushSubscription;
use eventmesh_wire::report::{Counters, Direction, LastError, RouteState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::lane::{Lane, Setup, Stop};
pub use self::ready::AppReady;
use self::ready::{Health, Port};
use crate::books::{Books, Obstacle};
use crate::mesh::Mesh;

/// How long an event waits here for an application that is not ready, before another pod may have it.
const HOLD: Duration = Duration::from_mins(5);
/// How long the last answers to the broker may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// What is the same for all subscriptions of an application.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the `ServiceAccount`, and so of the Subscriptions.
    pub namespace: String,
    /// Without one, the port of each subscription decides alone.
    pub app_ready: Option<AppReady>,
    pub hold: Duration,
}

impl Settings {
    #[must_use]
    pub fn new(namespace: &str, app_ready: Option<AppReady>) -> Self {
        Self { namespace: namespace.to_owned(), app_ready, hold: HOLD }
    }
}

/// How one subscription stands.
#[derive(Debug, Clone)]
pub struct Standing {
    pub name: String,
    pub state: RouteState,
    /// Why the application gets nothing now, if it is not ready.
    pub not_ready: Option<String>,
    pub counters: Counters,
    /// Tries that failed and were not the last.
    pub retries: u64,
    /// Events that may be with the application at once: less than `maxInFlight` after it asked for fewer.
    pub concurrency: usize,
    /// Events that wait in the stream.
    pub lag: Option<u64>,
    pub last_error: Option<LastError>,
}

struct Running {
    config: watch::Sender<PushSubscription>,
    books: Arc<Books>,
    port: Arc<Port>,
    concurrency: Arc<AtomicUsize>,
    stop: Stop,
}

/// The push Subscriptions of an application.
pub struct Push {
    mesh: Mesh,
    settings: Settings,
    /// What its readiness probe says; it is asked while there is something to push.
    app: Option<watch::Receiver<Health>>,
    running: BTreeMap<String, Running>,
    lanes: TaskTracker,
    /// Ends what still runs, of those too that were taken off the list.
    stop_now: CancellationToken,
}

impl Push {
    /// Starts all of a list; `mesh` connects, and connects again, by itself.
    #[must_use]
    pub fn start(mesh: Mesh, settings: Settings, list: &[PushSubscription]) -> Self {
        let mut push = Self {
            mesh,
            settings,
            app: None,
            running: BTreeMap::new(),
            lanes: TaskTracker::new(),
            stop_now: CancellationToken::new(),
        };
        push.set(list);
        push
    }

    /// Takes up another list. What did not change is not disturbed; what did goes on with the events that it holds, but for another
    /// stream or consumer. What is gone finishes what is with the application.
    pub fn set(&mut self, list: &[PushSubscription]) {
        match &self.settings.app_ready {
            Some(app_ready) if !list.is_empty() => drop(self.app.get_or_insert_with(|| app_ready.clone().watch())),
            _ => self.app = None,
        }
        self.running.retain(|name, running| {
            let next = list.iter().find(|next| next.name == *name);
            let stays = next.is_some_and(|next| same_consumer(next, &running.config.borrow()));
            if !stays {
                running.stop.finish.cancel();
            }
            stays
        });
        for next in list {
            match self.running.get(&next.name) {
                Some(running) => {
                    running.config.send_if_modified(|known| {
                        let changed = known != next;
                        known.clone_from(next);
                        changed
                    });
                }
                None => self.begin(next),
            }
        }
    }

    fn begin(&mut self, config: &PushSubscription) {
        let running = Running {
            config: watch::Sender::new(config.clone()),
            books: Arc::new(Books::new(&config.name, Direction::Outbound)),
            port: Arc::new(Port::start(config.port)),
            concurrency: Arc::new(AtomicUsize::new(config.max_in_flight as usize)),
            stop: Stop { now: self.stop_now.child_token(), ..Stop::default() },
        };
        let lane = Lane::new(Setup {
            mesh: self.mesh.clone(),
            namespace: self.settings.namespace.clone(),
            config: running.config.subscribe(),
            books: Arc::clone(&running.books),
            app: self.app.clone(),
            port: Arc::clone(&running.port),
            concurrency: Arc::clone(&running.concurrency),
            hold: self.settings.hold,
            stop: running.stop.clone(),
        });
        self.lanes.spawn(lane.run());
        self.running.insert(config.name.clone(), running);
    }

    /// How each subscription stands, by name.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        self.running.iter().map(|(name, running)| self.standing(name, running)).collect()
    }

    fn standing(&self, name: &str, running: &Running) -> Standing {
        let app = self.app.as_ref().and_then(|app| app.borrow().clone().err());
        let not_ready = app.or_else(|| running.port.watch().borrow().clone().err());
        let mesh_error = self.mesh.last_error().filter(|_| !self.mesh.is_connected());
        let wrong = request::path(&running.config.borrow()).is_err();
        let state = match running.books.obstacle() {
            _ if wrong => RouteState::Failed,
            _ if mesh_error.is_some_and(|error| error.refused) => RouteState::Failed,
            _ if !self.mesh.is_connected() => RouteState::Connecting,
            Some(Obstacle::Failed) => RouteState::Failed,
            _ if not_ready.is_some() => RouteState::Connecting,
            Some(Obstacle::Blocked) => RouteState::Blocked,
            None => RouteState::Running,
        };
        Standing {
            name: name.to_owned(),
            state,
            not_ready,
            counters: running.books.counters(),
            retries: running.books.retries(),
            concurrency: running.concurrency.load(Relaxed),
            lag: running.books.lag(),
            last_error: running.books.last_error(),
        }
    }

    /// Asks for nothing more, finishes what is with the application within `grace`, and hands the rest back to the brokers. What was
    /// asked for may come for up to 2 s: a shorter grace leaves that to the consumer's `ack_wait`.
    pub async fn stop(self, grace: Duration) {
        self.running.values().for_each(|running| running.stop.finish.cancel());
        self.lanes.close();
        if tokio::time::timeout(grace, self.lanes.wait()).await.is_err() {
            self.stop_now.cancel();
            self.lanes.wait().await;
        }
        let _ = tokio::time::timeout(FLUSH, self.mesh.client.flush()).await;
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop_now.cancel();
    }
}

fn same_consumer(one: &PushSubscription, other: &PushSubscription) -> bool {
    (&one.stream, &one.consumer) == (&other.stream, &other.consumer)
}
