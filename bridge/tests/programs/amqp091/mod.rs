//! A bridge at a real RabbitMQ, in AMQP 0-9-1.

mod delivery;
mod faults;

use std::sync::atomic::{AtomicU32, Ordering};

use eventmesh_tests::amqp091::Outside;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Rabbitmq;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::amqp::Mesh;

/// One RabbitMQ for all tests that do it no harm.
async fn rabbitmq() -> &'static Rabbitmq {
    static SHARED: OnceCell<Rabbitmq> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            Rabbitmq::start(scratch("rabbitmq").unwrap(), "max_message_size = 200000\n").await.unwrap()
        })
        .await
}

fn endpoint(url: &str) -> Value {
    json!({"url": url, "version": "V091", "username": Rabbitmq::USER, "password": Rabbitmq::PASSWORD})
}

async fn outside(rabbitmq: &Rabbitmq) -> Outside {
    Outside::connect(&rabbitmq.url(), Rabbitmq::USER, Rabbitmq::PASSWORD).await.unwrap()
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A mesh, the shared RabbitMQ and a client there.
async fn world() -> (Mesh, &'static Rabbitmq, Outside) {
    let rabbitmq = rabbitmq().await;
    (Mesh::new().await, rabbitmq, outside(rabbitmq).await)
}
