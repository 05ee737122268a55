//! MQTT 5 as far side: a real mosquitto, which keeps everything in memory, and `rumqttc` alone.

use std::cell::Cell;
use std::pin::pin;

use anyhow::{Context as _, Result};
use eventmesh_wire::report::Direction;
use futures::{Stream, StreamExt as _};
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, BrokerSessionResumePolicy, Event, EventLoop, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};

use super::{Arrivals, Far, Feed, WINDOW};
use crate::paths::scratch;
use crate::process::Mosquitto;

/// The client that receives.
const RECEIVER: &str = "alone";

pub struct Mqtt(Mosquitto);

impl Mqtt {
    pub async fn start() -> Result<Self> {
        Ok(Self(Mosquitto::start(scratch("mosquitto")?, "max_inflight_messages 0").await?))
    }

    /// With the settings of the bridge's own client that concern speed. `keep`: with a session that outlives it.
    fn client(&self, id: &str, keep: bool) -> Result<(AsyncClient, EventLoop)> {
        let mut options = MqttOptions::new(id, ("127.0.0.1".to_owned(), self.0.port));
        options
            .set_clean_start(!keep)
            .set_session_expiry_interval(Some(3600))
            // The client that receives takes up a session that another one began.
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
            .set_receive_maximum(Some(u16::try_from(WINDOW)?))
            .set_outgoing_inflight_upper_limit(u16::try_from(WINDOW)?)
            .set_read_batch_size(128)
            .set_max_request_batch(256);
        Ok(AsyncClient::builder(options).capacity(WINDOW).build())
    }
}

fn events(event_loop: EventLoop) -> impl Stream<Item = Result<Event>> {
    futures::stream::unfold(event_loop, async |mut event_loop| {
        let event = event_loop.poll().await.context("the connection to mosquitto ended");
        Some((event, event_loop))
    })
}

impl Far for Mqtt {
    const KEEPS: bool = false;

    fn endpoint(&self, _: Direction) -> Value {
        json!({"mqtt": {"url": self.0.url(), "version": "V5", "clientId": "bridge"}})
    }

    fn address(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Inbound => "in/+",
            Direction::Outbound => "out/{1}",
        }
    }

    /// Makes the session that events wait in, and leaves.
    async fn prepare(&self) -> Result<()> {
        let (client, mut event_loop) = self.client(RECEIVER, true)?;
        client.subscribe("in/+", QoS::AtLeastOnce).await?;
        while !matches!(event_loop.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        client.disconnect().await?;
        while event_loop.poll().await.is_ok() {}
        Ok(())
    }

    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        let (client, event_loop) = self.client("sender", false)?;
        let mut events = Box::pin(events(event_loop));
        let sent = Cell::new(0_u32);
        let mut sending = pin!(async {
            while let Some(event) = feed.next().await {
                let topic = format!("{}/{}", super::side(direction), event.lane);
                client.publish(topic, event.payload, PublishOptions::new(QoS::AtLeastOnce)).await?;
                sent.set(sent.get() + 1);
            }
            anyhow::Ok(())
        });
        let (mut confirmed, mut all_sent) = (0, false);
        while !all_sent || confirmed < sent.get() {
            tokio::select! {
                ended = &mut sending, if !all_sent => {
                    ended?;
                    all_sent = true;
                }
                event = events.next() => {
                    if let Event::Incoming(Packet::PubAck(_)) = event.context("the client ended")?? {
                        confirmed += 1;
                    }
                }
            }
        }
        Ok(())
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        let (client, event_loop) = self.client(RECEIVER, true)?;
        let mut events = Box::pin(events(event_loop));
        if direction == Direction::Outbound {
            client.subscribe("out/+", QoS::AtLeastOnce).await?;
        }
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.next().await.context("the client ended")??
                && arrivals.arrived(&publish.payload)
            {
                return Ok(());
            }
        }
    }
}
