//! The stories of examples/, each with the real system that it speaks of. What they call `….example` runs on this machine, so its
//! address is the one thing that is changed, as their readers do.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use eventmesh_crds::{Bridge, EventMesh, Topic};
use eventmesh_tests::http::{Collector, Sender};
use eventmesh_tests::kafka;
use eventmesh_tests::objects::{Namespace, all_ready};
use eventmesh_tests::paths::{repository, scratch};
use eventmesh_tests::process::nats::create_stream;
use eventmesh_tests::process::{Artemis, Kafka, Nats, Proxy, Rabbitmq, artemis};
use eventmesh_tests::wait::eventually;
use eventmesh_tests::{amqp1, amqp091, process};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use krafka::Record;
use lapin::BasicProperties;
use serde_json::json;

use crate::{Test, shared};

const SOON: Duration = Duration::from_mins(3);

/// Applies an example, tells its story in its namespace, and takes it away again.
async fn story(
    test: &Test<'_>,
    example: &str,
    namespace: &str,
    tell: impl AsyncFnOnce(&Namespace) -> Result<()>,
) -> Result<()> {
    let folder = repository().join("examples").join(example).display().to_string();
    test.cluster.kubectl(&["apply", "-k", &folder]).await?;
    let ns = test.cluster.kube.namespace(namespace);
    if let Err(error) = tell(&ns).await {
        eprintln!("{}", ns.show().await);
        return Err(error);
    }
    test.cluster.kubectl(&["delete", "-k", &folder, "--wait=false"]).await.map(drop)
}

/// A Secret of text.
fn secret(name: &str, pairs: &[(&str, &str)]) -> String {
    let data: serde_json::Map<String, serde_json::Value> =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}).to_string()
}

#[test]
fn webhooks_come_in_and_a_partner_hears_of_payments() -> Result<()> {
    shared("story-http", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let partner = Collector::start().await?;
        let reached = Proxy::at(&test.cluster.host_address(), partner.port).await?;
        story(test, "http", "payments", async |ns| {
            let url = format!("http://{}:{}/events", test.cluster.host_address(), reached.port);
            ns.patch::<Bridge>("partner", json!({"spec": {"endpoint": {"http": {"target": {"url": url}}}}})).await?;
            ns.ready::<EventMesh>("payments").await?;
            all_ready::<Bridge>(ns, &["webhooks", "partner"]).await?;
            let service = ns.get::<Service>("webhooks-bridge").await?;
            let address = service.spec.and_then(|spec| spec.cluster_ip).context("a cluster address")?;
            let provider = Sender::new(&format!("http://{address}"), &[])?;
            let body = br#"{"amount": 5}"#;
            let (time, signature) = signed("msg_1", body)?;
            let headers = [
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", time.as_str()),
                ("webhook-signature", signature.as_str()),
                ("content-type", "application/json"),
            ];
            // The Service follows the readiness of its pods a moment later.
            let answer = eventually("answer of the listener", SOON, async || {
                provider.post("/hooks/paid", &headers, body).await.map(Some).map_err(|error| format!("{error:#}"))
            });
            let answer = answer.await?;
            ensure!(answer.status == 202, "{answer:?}");
            let forged = [headers[0], headers[1], ("webhook-signature", "v1,AAAA"), headers[3]];
            let refused = provider.post("/hooks/paid", &forged, body).await?;
            ensure!(refused.status == 403, "{refused:?}");
            let heard = partner.until(SOON, |all| !all.is_empty()).await?;
            assert_eq!(heard[0].path, "/events/payments");
            assert_eq!(heard[0].body.as_ref(), body);
            assert_eq!(heard[0].header("authorization"), Some("Bearer change-me"));
            assert!(heard[0].header("ce-id").is_some(), "{heard:?}");
            Ok(())
        })
        .await
    })
}

/// Time and signature of a webhook, as Standard Webhooks has them; the secret is the example's.
fn signed(id: &str, body: &[u8]) -> Result<(String, String)> {
    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let folder = scratch("webhook")?;
    std::fs::write(folder.join("signed"), [id.as_bytes(), b".", time.as_bytes(), b".", body].concat())?;
    let command = format!(
        "key=$(echo {SECRET} | base64 -d | od -An -tx1 | tr -d ' \\n') && \
         openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary {} | base64",
        folder.join("signed").display()
    );
    let output = Command::new("bash").args(["-c", &command]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((time, format!("v1,{}", String::from_utf8(output.stdout)?.trim())))
}

#[test]
fn a_partner_that_speaks_nats_sends_orders_and_gets_prices() -> Result<()> {
    shared("story-nats", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let far = Nats::start(scratch("partner")?, "2m", "authorization { user: mesh, password: let-me-in }").await?;
        let options = async_nats::ConnectOptions::with_user_and_password("mesh".into(), "let-me-in".into());
        let client = options.connect(far.url()).await?;
        create_stream(&client, "ORDERS", &["orders.>"], &json!({})).await?;
        create_stream(&client, "PRICES", &["prices.>"], &json!({})).await?;
        let reached = Proxy::at(&test.cluster.host_address(), far.port).await?;
        story(test, "nats", "partner", async |ns| {
            ns.apply(&secret("partner-nats", &[("username", "mesh"), ("password", "let-me-in")])).await?;
            let url = format!("nats://{}:{}", test.cluster.host_address(), reached.port);
            ns.patch::<Bridge>("partner", json!({"spec": {"endpoint": {"nats": {"urls": [url]}}}})).await?;
            ns.ready::<EventMesh>("trade").await?;
            all_ready::<Topic>(ns, &["orders", "prices"]).await?;
            ns.ready::<Bridge>("partner").await?;
            let broker = test.cluster.broker(ns, "trade").await?;
            let mut orders = broker.read("partner_orders").await?;
            let context = async_nats::jetstream::new(client.clone());
            context.publish("orders.7.created", "an order".into()).await?.await?;
            let order = orders.next_within(SOON).await?;
            assert_eq!((order.subject.as_str(), order.payload.as_slice()), ("orders.7.created", &b"an order"[..]));
            broker.publish("prices.7", "9.99").await?;
            let stream = context.get_stream("PRICES").await?;
            let mut prices = stream.create_consumer(OrderedConfig::default()).await?.messages().await?;
            let price = tokio::time::timeout(SOON, prices.next()).await?.context("a price")??;
            assert_eq!((price.subject.as_str(), price.payload.as_ref()), ("prices.7", &b"9.99"[..]));
            Ok(())
        })
        .await
    })
}

#[test]
fn a_warehouse_hears_from_rabbitmq_and_tells_artemis() -> Result<()> {
    shared("story-amqp", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let rabbit = Rabbitmq::start(scratch("rabbitmq")?, "").await?;
        let artemis = Artemis::start(scratch("artemis")?, &artemis::Settings::default()).await?;
        let machines = amqp091::Outside::connect(&rabbit.url(), Rabbitmq::USER, Rabbitmq::PASSWORD).await?;
        machines.queue("orders", &[]).await?;
        let host = test.cluster.host_address();
        let (to_rabbit, to_artemis) = (Proxy::at(&host, rabbit.port).await?, Proxy::at(&host, artemis.port).await?);
        story(test, "amqp", "warehouse", async |ns| {
            ns.apply(&secret("rabbit", &[("username", Rabbitmq::USER), ("password", Rabbitmq::PASSWORD)])).await?;
            ns.apply(&secret("artemis", &[("username", Artemis::USER), ("password", Artemis::PASSWORD)])).await?;
            for (bridge, port) in [("rabbit", to_rabbit.port), ("artemis", to_artemis.port)] {
                let url = format!("amqp://{host}:{port}");
                ns.patch::<Bridge>(bridge, json!({"spec": {"endpoint": {"amqp": {"url": url}}}})).await?;
            }
            ns.ready::<EventMesh>("warehouse").await?;
            all_ready::<Bridge>(ns, &["rabbit", "artemis"]).await?;
            let broker = test.cluster.broker(ns, "warehouse").await?;
            let mut readings = broker.read("warehouse_machines").await?;
            let json = || BasicProperties::default().with_content_type("application/json".into());
            for celsius in [20, 90] {
                let reading = format!("{{\"celsius\": {celsius}}}");
                machines.publish("amq.topic", "line.7.temperature", reading.as_bytes(), json()).await?;
            }
            let reading = readings.next_within(SOON).await?;
            assert_eq!(reading.subject.as_str(), "machines.7.temperature");
            assert_eq!(reading.payload, b"{\"celsius\": 90}", "cooler ones are filtered");
            let mut erp = amqp1::Outside::connect(&artemis.url(), Artemis::USER, Artemis::PASSWORD).await?;
            let mut receiver = erp.receiver("erp.orders").await?;
            machines.publish("", "orders", b"an order", BasicProperties::default()).await?;
            let order = amqp1::take(&mut receiver).await?;
            assert_eq!(amqp1::data(&order), b"an order", "through the mesh, from one version to the other");
            Ok(())
        })
        .await
    })
}

#[test]
fn a_shop_takes_orders_from_kafka_and_sends_invoices() -> Result<()> {
    shared("story-kafka", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let cluster = Kafka::start_at(&test.cluster.host_address(), scratch("kafka")?, "").await?;
        let outside = kafka::Outside::connect(&cluster.bootstrap()).await?;
        outside.create_topic("shop.east.orders", 3, &[]).await?;
        outside.create_topic("invoices", 3, &[]).await?;
        story(test, "kafka", "web-shop", async |ns| {
            let user = [("username", process::kafka::USER), ("password", process::kafka::PASSWORD)];
            ns.apply(&secret("kafka-user", &user)).await?;
            let endpoint = json!({"bootstrapServers": [cluster.sasl()], "tls": null});
            ns.patch::<Bridge>("kafka", json!({"spec": {"endpoint": {"kafka": endpoint}}})).await?;
            ns.ready::<EventMesh>("web-shop").await?;
            all_ready::<Topic>(ns, &["orders", "invoices"]).await?;
            ns.ready::<Bridge>("kafka").await?;
            let broker = test.cluster.broker(ns, "web-shop").await?;
            let mut orders = broker.read("web-shop_orders").await?;
            outside.send(Record::new("shop.east.orders", "an order").key("c1")).await?;
            let order = orders.next_within(SOON).await?;
            assert_eq!((order.subject.as_str(), order.payload.as_slice()), ("orders.east", &b"an order"[..]));
            broker.publish("invoices.east.c1", "a bill").await?;
            let invoices = outside.collect("invoices", |records| !records.is_empty()).await?;
            assert_eq!((invoices[0].key_str(), invoices[0].value_str()), (Some("c1"), Some("a bill")));
            Ok(())
        })
        .await
    })
}
