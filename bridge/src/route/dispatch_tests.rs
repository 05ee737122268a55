//! What a dispatcher does with each answer of its target.

use std::sync::{Mutex, PoisonError};

use eventmesh_wire::config::{DeliveryConfig, Guarantee, MeshConfig, Ordering};
use eventmesh_wire::report::Direction;
use futures::FutureExt as _;
use futures::future::ready;

use super::*;
use crate::books::Books;
use crate::event::{Acknowledge, Receipt};

type Script = Mutex<BTreeMap<String, VecDeque<Result<(), Failure>>>>;

/// Answers as the script says, and well when it says nothing; remembers what it was given.
#[derive(Default)]
struct Scripted {
    script: Script,
    tried: Mutex<Vec<String>>,
}

impl Scripted {
    fn answers(answers: impl IntoIterator<Item = (&'static str, Vec<Result<(), Failure>>)>) -> Arc<Self> {
        let script = answers.into_iter().map(|(name, answers)| (name.to_owned(), answers.into())).collect();
        Arc::new(Self { script: Mutex::new(script), tried: Mutex::default() })
    }

    fn tried(&self) -> Vec<String> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Target for Scripted {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let name = String::from_utf8_lossy(&delivery.payload).into_owned();
        self.tried.lock().unwrap().push(name.clone());
        let answer = self.script.lock().unwrap().get_mut(&name).and_then(VecDeque::pop_front).unwrap_or(Ok(()));
        ready(answer).boxed()
    }
}

struct Source(Arc<Mutex<Vec<&'static str>>>);

impl Acknowledge for Source {
    fn confirm(&mut self) {
        self.0.lock().unwrap().push("confirmed");
    }

    fn give_back(&mut self) {
        self.0.lock().unwrap().push("given back");
    }
}

struct World {
    dispatcher: Arc<Dispatcher>,
    books: Arc<Books>,
    source: Arc<Mutex<Vec<&'static str>>>,
    endpoint: watch::Sender<LinkState>,
}

impl World {
    /// Retries wait for 1 to 8 s, on a clock that jumps whenever nothing else is to do.
    async fn new(target: &Arc<Scripted>, ordering: Ordering, attempts: u32) -> Self {
        Self::with(Arc::clone(target) as Arc<dyn Target>, ordering, attempts).await
    }

    async fn with(target: Arc<dyn Target>, ordering: Ordering, attempts: u32) -> Self {
        // Nobody is there; nothing of this needs a mesh.
        let nowhere = MeshConfig { servers: vec!["nats://127.0.0.1:1".into()], credentials: None, ca_pem: None };
        let mesh = Mesh::connect(&nowhere, "test").await.unwrap();
        let (endpoint, state) = watch::channel(LinkState { connected: true, ..LinkState::default() });
        let retry = RetryConfig { initial_ms: 1_000, max_ms: 8_000, attempts };
        let delivery = DeliveryConfig { ordering, retry, ..DeliveryConfig::default() };
        let dispatch = Dispatch { delivery, mesh, targets: Arc::default(), endpoint: state };
        let dispatcher = Dispatcher::start(target, dispatch);
        let books = Arc::new(Books::new("r", Direction::Outbound));
        Self { dispatcher, books, source: Arc::default(), endpoint }
    }

    fn send(&self, subject: &str, name: &str, guarantee: Guarantee) {
        self.deliver(subject, name, guarantee, 0);
    }

    fn send_number(&self, sequence: u64) {
        self.deliver("s", "", Guarantee::AtLeastOnce, sequence);
    }

    fn deliver(&self, subject: &str, name: &str, guarantee: Guarantee, sequence: u64) {
        self.dispatcher.send(Delivery {
            origin: subject.to_owned(),
            target: String::new(),
            headers: Vec::new(),
            payload: name.to_owned().into(),
            route: None,
            sequence,
            tries: 0,
            receipt: Receipt::new(&self.books, Box::new(Source(Arc::clone(&self.source))), guarantee),
        });
    }

    fn said(&self) -> Vec<&'static str> {
        self.source.lock().unwrap().clone()
    }
}

fn later() -> Result<(), Failure> {
    Err(Failure::later("busy"))
}

#[tokio::test(start_paused = true)]
async fn in_no_order_a_retry_lets_others_by() {
    let target = Scripted::answers([("1", vec![later()])]);
    let world = World::new(&target, Ordering::None, 0).await;
    for name in ["1", "2"] {
        world.send("s", name, Guarantee::AtLeastOnce);
    }
    world.books.settled().await;
    assert_eq!(target.tried(), ["1", "2", "1"]);
    assert_eq!((world.books.counters().delivered, world.books.retries()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn in_the_order_of_the_source_a_retry_holds_up_its_own_subject_only() {
    let target = Scripted::answers([("1", vec![later(), later()])]);
    let world = World::new(&target, Ordering::PerSource, 0).await;
    for name in ["1", "2", "3"] {
        world.send("a", name, Guarantee::AtLeastOnce);
    }
    world.send("b", "4", Guarantee::AtLeastOnce);
    world.books.settled().await;
    assert_eq!(target.tried(), ["1", "4", "1", "1", "2", "3"]);
    assert_eq!(world.said(), ["confirmed"; 4]);
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_connection_leaves_open_goes_back_but_stays_where_order_counts() {
    let lost = || vec![Err(Failure::Lost)];
    let target = Scripted::answers([("1", lost())]);
    let world = World::new(&target, Ordering::None, 0).await;
    world.send("a", "1", Guarantee::AtLeastOnce);
    world.books.settled().await;
    assert_eq!((world.said(), world.books.counters().received), (vec!["given back"], 0));

    let target = Scripted::answers([("1", lost())]);
    let world = World::new(&target, Ordering::PerSource, 1).await;
    world.endpoint.send_modify(|state| state.connected = false);
    for name in ["1", "2"] {
        world.send("a", name, Guarantee::AtLeastOnce);
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(target.tried(), ["1"], "nothing is tried while the endpoint is away");
    world.endpoint.send_modify(|state| state.connected = true);
    world.books.settled().await;
    assert_eq!(target.tried(), ["1", "1", "2"], "a lost connection is no try");
    assert_eq!(world.said(), ["confirmed"; 2]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_names_a_time_is_left_alone_until_then() {
    let after = Some(Duration::from_secs(100));
    let target = Scripted::answers([("1", vec![Err(Failure::Later { problem: "full".into(), after })])]);
    let world = World::new(&target, Ordering::None, 0).await;
    let begun = tokio::time::Instant::now();
    world.send("a", "1", Guarantee::AtLeastOnce);
    world.books.settled().await;
    assert!(begun.elapsed() >= Duration::from_secs(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn at_most_once_drops_what_fails_and_at_least_once_holds_it() {
    let refused = || vec![Err(Failure::Refused("no".into()))];
    let target = Scripted::answers([("1", refused()), ("2", vec![later()])]);
    let world = World::new(&target, Ordering::None, 0).await;
    for name in ["1", "2"] {
        world.send("a", name, Guarantee::AtMostOnce);
    }
    world.books.settled().await;
    assert_eq!((world.books.counters().dropped, target.tried()), (2, vec!["1".to_owned(), "2".to_owned()]));

    let target = Scripted::answers([("1", refused().into_iter().chain(refused()).collect())]);
    let world = World::new(&target, Ordering::None, 1).await;
    world.send("a", "1", Guarantee::AtLeastOnce);
    world.books.settled().await;
    assert_eq!(target.tried(), ["1", "1", "1"], "without dead letters it is tried until it is taken");
}

/// A client that keeps order by itself, and answers when the test says so.
#[derive(Default)]
struct Steady {
    tried: Mutex<Vec<u64>>,
    open: Mutex<BTreeMap<u64, tokio::sync::oneshot::Sender<Result<(), Failure>>>>,
}

impl Steady {
    fn tried(&self) -> Vec<u64> {
        self.tried.lock().unwrap().clone()
    }

    fn answer(&self, sequence: u64, answer: Result<(), Failure>) {
        self.open.lock().unwrap().remove(&sequence).expect("it is on its way").send(answer).unwrap();
    }

    async fn tries(&self, wanted: &[u64]) {
        while self.tried().len() < wanted.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.tried(), wanted);
    }
}

impl Target for Steady {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.tried.lock().unwrap().push(delivery.sequence);
        self.open.lock().unwrap().insert(delivery.sequence, answer);
        async move { answered.await.unwrap_or(Err(Failure::Lost)) }.boxed()
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_connection_leaves_open_is_sent_again_in_order_before_anything_new() {
    let target = Arc::new(Steady::default());
    let world = World::with(Arc::clone(&target) as Arc<dyn Target>, Ordering::PerSource, 0).await;
    for sequence in 1..=4 {
        world.send_number(sequence);
    }
    target.tries(&[1, 2, 3, 4]).await;
    // Their answers come in any order, and one had been stored.
    target.answer(3, Err(Failure::Lost));
    target.answer(1, Err(Failure::Lost));
    target.answer(2, Ok(()));
    world.send_number(5);
    tokio::time::sleep(Duration::from_secs(1)).await;
    target.tries(&[1, 2, 3, 4]).await;
    target.answer(4, Err(Failure::Lost));
    target.tries(&[1, 2, 3, 4, 1, 3, 4, 5]).await;
    for sequence in [1, 3, 4, 5] {
        target.answer(sequence, Ok(()));
    }
    world.books.settled().await;
    assert_eq!(world.books.counters().delivered, 5);
}

#[tokio::test(start_paused = true)]
async fn in_no_order_what_a_steady_client_loses_goes_back() {
    let target = Arc::new(Steady::default());
    let world = World::with(Arc::clone(&target) as Arc<dyn Target>, Ordering::None, 0).await;
    world.send_number(1);
    target.tries(&[1]).await;
    target.answer(1, Err(Failure::Lost));
    world.books.settled().await;
    assert_eq!(world.said(), ["given back"]);
}
