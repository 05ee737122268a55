//! One subscription: which events are with the application, which wait for it, and what becomes of each.
//!
//! The broker counts tries: each time it gives an event is one, whatever came of it. So an event is given back only when the application
//! had its try, and is held, with the broker told so, while it could not have one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::AckKind;
use eventmesh_wire::config::sidecar::PushSubscription;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::unconstrained;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::ready::{Health, Port};
use super::request::{Fate, Target};
use super::source::Source;
use super::tries::{self, Next};
use crate::books::{Books, Obstacle, Outcome};
use crate::jetstream::{Held, Place, Told, answer};
use crate::mesh::Mesh;

/// How often it is looked at what waits for long.
const LOOK: Duration = Duration::from_secs(1);
/// How many events are looked at together, of those that have come and of those that have been answered.
const TOGETHER: usize = 64;

/// How a lane ends.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// It asks for nothing more, finishes what it can, and gives the rest back.
    pub finish: CancellationToken,
    /// It gives everything back at once.
    pub now: CancellationToken,
}

/// What a lane is made from.
pub(super) struct Setup {
    pub mesh: Mesh,
    pub namespace: String,
    pub config: watch::Receiver<PushSubscription>,
    pub books: Arc<Books>,
    /// What the readiness probe of the application says, where it has one.
    pub app: Option<watch::Receiver<Health>>,
    pub port: Arc<Port>,
    /// Tells how many events may be with the application at once.
    pub concurrency: Arc<AtomicUsize>,
    pub hold: Duration,
    pub stop: Stop,
}

/// An event that the broker waits for.
struct Event {
    message: Message,
    told: Told,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

/// An event that was with the application, when it was sent, and what came of it.
type Landing = (Box<Event>, Instant, Fate);

pub(super) struct Lane {
    setup: Setup,
    port: watch::Receiver<Health>,
    /// Or why nothing can be sent.
    target: Result<Arc<Target>, String>,
    pace: Pace,
    held: Arc<Held>,
    source: Source,
    window: Arc<Semaphore>,
    /// Room in the window, in all, and what is kept free of it: the pace is slower than the window is large.
    size: usize,
    parked: Option<OwnedSemaphorePermit>,
    /// Those that wait, in their order.
    waiting: BTreeMap<Place, Box<Event>>,
    flights: FuturesUnordered<BoxFuture<'static, Landing>>,
    /// There may be connections that nobody uses.
    has_connections: bool,
}

impl Lane {
    pub fn new(mut setup: Setup) -> Self {
        let config = setup.config.borrow_and_update().clone();
        let size = (config.max_in_flight as usize).max(1);
        let window = Arc::new(Semaphore::new(size));
        let held = Held::start(setup.mesh.client.clone());
        let mut lane = Self {
            port: setup.port.watch(),
            target: Err(String::new()),
            pace: Pace::new(size),
            source: Source::new(&setup.mesh, &config, &setup.books, &held, (&window, size)),
            held,
            window,
            size,
            parked: None,
            waiting: BTreeMap::new(),
            flights: FuturesUnordered::new(),
            has_connections: false,
            setup,
        };
        lane.aim(&config);
        lane
    }

    /// Works until it is told to stop.
    pub async fn run(mut self) {
        let (finish, now) = (self.setup.stop.finish.clone(), self.setup.stop.now.clone());
        let mut alone = false;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let rests = self.pace.rests(Instant::now());
            let sends = self.is_ready() && rests.is_none();
            if sends {
                self.launch();
            }
            let ends = finish.is_cancelled();
            if ends && !self.source.expects_events() {
                if !sends {
                    self.give_back_waiting(|_| true);
                }
                if self.waiting.is_empty() && self.flights.is_empty() {
                    return;
                }
            }
            self.fit_window();
            let pulls = sends && !ends && self.waiting.is_empty();
            tokio::select! {
                biased;
                () = now.cancelled() => break,
                Some(landing) = self.flights.next(), if !self.flights.is_empty() => self.settle_all(landing),
                (message, room) = self.source.next(pulls) => self.take_all(message, room),
                changed = self.setup.config.changed(), if !alone => match changed {
                    Ok(()) => self.adopt(),
                    // It was taken off the list.
                    Err(_) => alone = true,
                },
                () = news(self.setup.app.as_mut()) => {},
                _ = self.port.changed() => {},
                () = rest(rests) => {},
                () = finish.cancelled(), if !ends => {},
                _ = look.tick(), if !self.waiting.is_empty() || ends || self.has_connections => self.look(),
            }
        }
        // Nothing is waited for any more. It asks for no events before it gives any back.
        drop(self.source);
        for reply in self.held.take_all() {
            answer(&self.setup.mesh.client, reply, AckKind::Nak(None));
            self.setup.books.give_back();
        }
    }

    fn is_ready(&self) -> bool {
        self.target.is_ok()
            && self.setup.app.as_ref().is_none_or(|app| app.borrow().is_ok())
            && self.port.borrow().is_ok()
    }

    /// Takes up another configuration; what waits goes where it says.
    fn adopt(&mut self) {
        let config = self.setup.config.borrow_and_update().clone();
        let most = (config.max_in_flight as usize).max(1);
        if most > self.size {
            self.window.add_permits(most - self.size);
            self.size = most;
        }
        self.pace.set_most(most);
        self.source.look_again(most);
        self.setup.port.set(config.port);
        self.aim(&config);
    }

    fn aim(&mut self, config: &PushSubscription) {
        self.target = Target::new(config, &self.setup.namespace).map(Arc::new);
        if let Err(problem) = &self.target {
            self.setup.books.note(problem.clone());
        }
    }

    /// Sends what waits, as many as the pace allows.
    fn launch(&mut self) {
        let Ok(target) = &self.target else { return };
        while self.flights.len() < self.pace.limit() {
            let Some((_, event)) = self.waiting.pop_first() else { return };
            let target = Arc::clone(target);
            self.has_connections = true;
            // Were they counted among what this task may do in a turn, then after a few answers all the others would be polled
            // in vain, again and again: 25 times for each event (docs/adr/0046).
            self.flights.push(Box::pin(unconstrained(async move {
                let sent = Instant::now();
                let fate = target.send(&event.message, &event.told).await;
                (event, sent, fate)
            })));
        }
    }

    /// Keeps as much of the window free as the pace is slower.
    fn fit_window(&mut self) {
        self.setup.concurrency.store(self.pace.limit(), Relaxed);
        let (wanted, parked) = (self.size.saturating_sub(self.pace.limit()), self.parked_room());
        if wanted < parked {
            drop(self.parked.as_mut().and_then(|room| room.split(parked - wanted)));
        } else if wanted > parked {
            let more = (wanted - parked).min(self.window.available_permits());
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if let Ok(more) = Arc::clone(&self.window).try_acquire_many_owned(more) {
                match &mut self.parked {
                    Some(parked) => parked.merge(more),
                    None => self.parked = Some(more),
                }
            }
        }
    }

    fn parked_room(&self) -> usize {
        self.parked.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// An event that has come, and those that came with it: looking at everything else between any two costs more than they do.
    fn take_all(&mut self, message: Message, room: OwnedSemaphorePermit) {
        self.take(message, room);
        for _ in 0..TOGETHER {
            // Only of what was asked for before.
            let Some((message, room)) = self.source.next(false).now_or_never() else { return };
            self.take(message, room);
        }
    }

    fn take(&mut self, message: Message, room: OwnedSemaphorePermit) {
        // Only messages of a stream come here, and they all tell their place in it.
        let Some(reply) = message.reply.clone() else { return };
        let Some(told) = Told::read(&reply) else { return };
        self.setup.books.set_lag(Some(told.pending));
        if !self.held.add(told.place, reply) {
            return; // Given again although it is still here.
        }
        self.setup.books.receive();
        self.wait(Box::new(Event { message, told, since: Instant::now(), _room: room }));
    }

    fn wait(&mut self, event: Box<Event>) {
        self.waiting.insert(event.told.place, event);
    }

    /// What has come of an event, and of others by now.
    fn settle_all(&mut self, landing: Landing) {
        self.settle(landing);
        for _ in 0..TOGETHER {
            let Some(Some(landing)) = self.flights.next().now_or_never() else { return };
            self.settle(landing);
        }
    }

    fn settle(&mut self, (event, sent, fate): Landing) {
        let books = Arc::clone(&self.setup.books);
        match fate {
            Fate::Taken => {
                self.pace.taken(sent);
                if self.held_up() {
                    books.clear();
                }
                books.settle(Outcome::Delivered);
                self.answer(event.told.place, AckKind::Ack);
            }
            Fate::SlowDown(wait, problem) => {
                self.pace.slow_down(sent, wait, Instant::now());
                books.obstructed(Obstacle::Blocked, problem);
                self.wait(event);
            }
            Fate::Unsent(problem) => {
                self.setup.port.refuses(&problem);
                self.wait(event);
            }
            Fate::Refused(problem) => self.refused(&event, &problem),
        }
    }

    fn held_up(&self) -> bool {
        self.setup.books.obstacle() == Some(Obstacle::Blocked)
    }

    /// The application had its try.
    fn refused(&self, event: &Event, problem: &str) {
        let Some(reply) = self.held.remove(event.told.place) else { return };
        // It may have been given again in the meantime.
        let tries = Told::read(&reply).map_or(event.told.deliveries, |told| told.deliveries);
        let (books, config) = (&self.setup.books, self.setup.config.borrow());
        let (stream, number) = (&config.stream, event.told.place.0);
        let wait = match tries::next(tries, config.max_deliver, &config.backoff_ms) {
            Next::Again(wait) => {
                books.note(format!("event {number} of stream `{stream}`, try {tries}: {problem}"));
                books.retried(1);
                books.give_back();
                wait
            }
            Next::Last => {
                let message = format!("event {number} of stream `{stream}` is given up after {tries} tries: {problem}");
                tracing::warn!(subscription = config.name, "{message}");
                books.note(message);
                books.settle(Outcome::DeadLettered);
                Duration::ZERO
            }
        };
        answer(&self.setup.mesh.client, reply, tries::nak(wait, tries, self.source.waits()));
    }

    fn look(&mut self) {
        let idle = self.target.as_ref().is_ok_and(|target| target.sweep());
        self.has_connections = idle || !self.flights.is_empty();
        self.give_back_what_waits_for_long();
    }

    /// Another pod may be able to send what this one can not for long. That costs a try, so it is never the last one.
    fn give_back_what_waits_for_long(&mut self) {
        if self.source.expects_events() {
            return;
        }
        let (hold, most) = (self.setup.hold, self.setup.config.borrow().max_deliver.map(u64::from));
        self.give_back_waiting(|event| {
            event.since.elapsed() >= hold && most.is_none_or(|most| event.told.deliveries < most)
        });
    }

    /// Hands events that wait back to the stream at once. Not while a request for events is open: they would come back by it, with
    /// one try less.
    fn give_back_waiting(&mut self, which: impl Fn(&Event) -> bool) {
        let given: Vec<Place> =
            self.waiting.iter().filter(|(_, event)| which(event)).map(|(place, _)| *place).collect();
        for place in given {
            self.answer(place, AckKind::Nak(None));
            self.setup.books.give_back();
            self.waiting.remove(&place);
        }
    }

    fn answer(&self, place: Place, kind: AckKind) {
        if let Some(reply) = self.held.remove(place) {
            answer(&self.setup.mesh.client, reply, kind);
        }
    }
}

/// Waits until a readiness probe says something else.
async fn news(app: Option<&mut watch::Receiver<Health>>) {
    let ended = match app {
        Some(app) => app.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

async fn rest(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
