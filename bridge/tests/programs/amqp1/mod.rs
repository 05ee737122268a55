//! A bridge at a real ActiveMQ Artemis, in AMQP 1.0.

mod delivery;
mod faults;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use eventmesh_tests::amqp1::Outside;
use eventmesh_tests::child::free_port;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Artemis;
use eventmesh_tests::process::artemis::Settings;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::amqp::Mesh;

/// Addresses that begin with `small.` hold little: below `small.refuse.` the broker then rejects, below `small.wait.` it gives
/// no credit.
const SMALL: &str = r#"<address-setting match="small.refuse.#"><max-size-messages>10</max-size-messages>
<address-full-policy>FAIL</address-full-policy></address-setting>
<address-setting match="small.wait.#"><max-size-messages>10</max-size-messages>
<address-full-policy>BLOCK</address-full-policy></address-setting>"#;

/// Where the shared Artemis gives little credit at once, so that it notices early that an address is full.
static FRUGAL: OnceLock<u16> = OnceLock::new();

/// One Artemis for all tests that do it no harm.
async fn artemis() -> &'static Artemis {
    static SHARED: OnceCell<Artemis> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            let frugal = FRUGAL.get_or_init(|| free_port().unwrap());
            let acceptors = format!(
                "<acceptor name=\"frugal\">tcp://127.0.0.1:{frugal}?protocols=AMQP;amqpCredits=4;amqpLowCredits=1</acceptor>"
            );
            let settings = Settings { address_settings: SMALL.to_owned(), acceptors };
            Artemis::start(scratch("artemis").unwrap(), &settings).await.unwrap()
        })
        .await
}

fn endpoint(url: &str) -> Value {
    json!({"url": url, "version": "V1", "username": Artemis::USER, "password": Artemis::PASSWORD})
}

async fn outside(artemis: &Artemis) -> Outside {
    Outside::connect(&artemis.url(), Artemis::USER, Artemis::PASSWORD).await.unwrap()
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A mesh, the shared Artemis and a client there.
async fn world() -> (Mesh, &'static Artemis, Outside) {
    let artemis = artemis().await;
    (Mesh::new().await, artemis, outside(artemis).await)
}
