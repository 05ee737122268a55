//! Senders and receivers at the site outside: MQTT clients that keep a session and go on after the broker was away.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use eventmesh_crds::bridge::MqttVersion;
use tokio::{sync::mpsc, task::JoinHandle};

/// Keep-alive of the clients, in seconds.
const KEEP_ALIVE: u16 = 10;
/// How long the site keeps the session of a client that is away, in seconds.
const SESSION_EXPIRY: u32 = 3600;
/// Publishes on their way at once.
const WINDOW: u16 = 500;
/// Pause before a client that was refused or cut off connects again.
const PAUSE: Duration = Duration::from_millis(200);

/// An MQTT broker that lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub host: String,
    pub port: u16,
}

/// What came at the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub topic: String,
    pub payload: Vec<u8>,
    /// MQTT 5 user properties; none in 3.1.1.
    pub properties: Vec<(String, String)>,
    pub retained: bool,
}

/// Sends with `QoS` 1 and knows what was confirmed.
pub struct Sender {
    client: Client,
    session: JoinHandle<()>,
}

enum Client {
    V5(rumqttc::AsyncClient),
    V311(rumqttc_v4::AsyncClient),
}

/// A `QoS` 1 subscription with a session that outlives connections.
pub struct Receiver {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    session: JoinHandle<()>,
}

impl Sender {
    #[must_use]
    pub fn new(site: &Site, version: MqttVersion) -> Self {
        let id = client_id("sender");
        match version {
            MqttVersion::V5 => {
                let (client, mut events) = rumqttc::AsyncClient::builder(v5_options(&id, site)).build();
                let session = tokio::spawn(async move {
                    loop {
                        if events.poll().await.is_err() {
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                });
                Self { client: Client::V5(client), session }
            }
            MqttVersion::V311 => {
                let (client, mut events) = rumqttc_v4::AsyncClient::builder(v311_options(&id, site)).build();
                let session = tokio::spawn(async move {
                    loop {
                        if events.poll().await.is_err() {
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                });
                Self { client: Client::V311(client), session }
            }
        }
    }

    /// Sends until the site has confirmed. `id` goes along as the user property `id` where the protocol has these.
    pub async fn send(&self, topic: &str, id: &str, payload: Vec<u8>) {
        while !self.try_send(topic, id, payload.clone()).await {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One try; true when the site has confirmed.
    pub async fn try_send(&self, topic: &str, id: &str, payload: Vec<u8>) -> bool {
        match &self.client {
            Client::V5(client) => {
                let properties = rumqttc::PublishProperties {
                    user_properties: vec![("id".to_owned(), id.to_owned())],
                    ..Default::default()
                };
                let options = rumqttc::PublishOptions::at_least_once().properties(properties);
                match client.publish_tracked(topic, payload, options).await {
                    Ok(notice) => notice.wait_completion_async().await.is_ok(),
                    Err(_) => false,
                }
            }
            Client::V311(client) => {
                let options = rumqttc_v4::PublishOptions::at_least_once();
                match client.publish_tracked(topic, payload, options).await {
                    Ok(notice) => notice.wait_completion_async().await.is_ok(),
                    Err(_) => false,
                }
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Receiver {
    /// Subscribes, and returns when the site has confirmed.
    pub async fn new(site: &Site, version: MqttVersion, filter: &str) -> Result<Self> {
        let (arrivals_in, arrivals) = mpsc::unbounded_channel();
        let (subscribed_in, mut subscribed) = mpsc::unbounded_channel();
        let (id, filter) = (client_id("receiver"), filter.to_owned());
        let site = site.clone();
        let session = match version {
            MqttVersion::V5 => tokio::spawn(receive_v5(id, site, filter, arrivals_in, subscribed_in)),
            MqttVersion::V311 => tokio::spawn(receive_v311(id, site, filter, arrivals_in, subscribed_in)),
        };
        let confirmed = tokio::time::timeout(Duration::from_mins(1), subscribed.recv()).await;
        let receiver = Self { arrivals, session };
        confirmed.context("the site did not confirm a subscription in a minute")?;
        Ok(receiver)
    }

    /// The next arrival.
    pub async fn next(&mut self) -> Result<Arrival> {
        self.arrivals.recv().await.context("the receiver has ended")
    }

    /// The next arrival, if one comes in time.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Arrival> {
        let arrival = tokio::time::timeout(limit, self.next()).await;
        arrival.with_context(|| format!("nothing came at the site in {} s", limit.as_secs()))?
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.session.abort();
    }
}

async fn receive_v5(
    id: String,
    site: Site,
    filter: String,
    arrivals: mpsc::UnboundedSender<Arrival>,
    subscribed: mpsc::UnboundedSender<()>,
) {
    use rumqttc::{Event, Packet, QoS};
    let (client, mut events) = rumqttc::AsyncClient::builder(v5_options(&id, &site)).unbounded().build();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) if !ack.session_present => {
                let _ = client.subscribe(filter.as_str(), QoS::AtLeastOnce).await;
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                let _ = subscribed.send(());
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let _ = arrivals.send(Arrival {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload.to_vec(),
                    properties: publish.properties.map(|properties| properties.user_properties).unwrap_or_default(),
                    retained: publish.retain,
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn receive_v311(
    id: String,
    site: Site,
    filter: String,
    arrivals: mpsc::UnboundedSender<Arrival>,
    subscribed: mpsc::UnboundedSender<()>,
) {
    use rumqttc_v4::{Event, Packet, QoS};
    let (client, mut events) = rumqttc_v4::AsyncClient::builder(v311_options(&id, &site)).unbounded().build();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) if !ack.session_present => {
                let _ = client.subscribe(filter.as_str(), QoS::AtLeastOnce).await;
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                let _ = subscribed.send(());
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let _ = arrivals.send(Arrival {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload.to_vec(),
                    properties: Vec::new(),
                    retained: publish.retain,
                });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn v5_options(id: &str, site: &Site) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(id, (site.host.as_str(), site.port));
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY))
        .set_outgoing_inflight_upper_limit(WINDOW);
    options
}

fn v311_options(id: &str, site: &Site) -> rumqttc_v4::MqttOptions {
    let mut options = rumqttc_v4::MqttOptions::new(id, (site.host.as_str(), site.port));
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(false).set_inflight(WINDOW);
    options
}

/// An id that no other client at the site has.
fn client_id(role: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("tests-{role}-{}-{start}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
