//! What becomes of events when the lease has ended, with a real broker.

use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::{Nats, nats};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::config::{Guarantee, MeshConfig, RetryConfig};
use eventmesh_wire::report::Direction;
use rstest::rstest;
use serde_json::json;

use super::super::Publisher;
use super::*;
use crate::event::{Acknowledge, Receipt, Sink as _};
use crate::mesh::lease;

struct Source;

impl Acknowledge for Source {
    fn confirm(&mut self) {}
    fn give_back(&mut self) {}
}

fn event(books: &Arc<Books>) -> Delivery {
    Delivery {
        origin: String::new(),
        target: "s.a".to_owned(),
        headers: Vec::new(),
        payload: "event".into(),
        route: None,
        sequence: 0,
        tries: 0,
        receipt: Receipt::new(books, Box::new(Source), Guarantee::AtLeastOnce),
    }
}

/// Nobody tells the publisher that the time is over, nor that it was prolonged: both are seen when something is sent.
#[rstest]
#[case::in_order(true, Ingest::Atomic)]
#[case::in_any_order(false, Ingest::Atomic)]
#[case::one_by_one(false, Ingest::Single)]
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_just_after_the_end_of_a_lease_goes_when_it_is_renewed(
    #[case] ordered: bool,
    #[case] ingest: Ingest,
) {
    let limit = Duration::from_secs(20);
    let broker = Nats::start(scratch("lapse").unwrap(), "2m", "").await.unwrap();
    nats::create_stream(&broker.client().await.unwrap(), "S", &["s.>"], &json!({})).await.unwrap();
    let config = MeshConfig { servers: vec![broker.url()], credentials: None, ca_pem: None };
    let mesh = Mesh::connect(&config, "test").await.unwrap();
    mesh.until_open().await;
    let books = Arc::new(Books::new("r", Direction::Inbound));
    let settings = Settings {
        stream: "S".to_owned(),
        ingest,
        window: 10,
        retry: RetryConfig::default(),
        ordered,
        at_most_once: false,
        dead_letters: None,
    };
    mesh.set_lease_end(lease::now() + Duration::from_millis(200));
    let publisher = Publisher::start(mesh.clone(), Arc::clone(&books), settings);
    // It waits for events by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    eventually("end of the lease", limit, async || Ok((!mesh.may_carry()).then_some(()))).await.unwrap();
    for _ in 0..3 {
        publisher.send(event(&books));
    }
    // Long enough to store them, if it did not know better.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(books.counters().delivered, 0, "sent although another pod could be the active one");
    mesh.set_lease_end(lease::now() + Duration::from_hours(1));
    eventually("delivery", limit, async || {
        let counters = books.counters();
        if counters.delivered == 3 { Ok(Some(())) } else { Err(format!("{counters:?}")) }
    })
    .await
    .unwrap();
}
