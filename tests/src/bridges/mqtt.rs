//! MQTT as far side: a real mosquitto.

use anyhow::Result;
use eventmesh_crds::bridge::MqttVersion;
use eventmesh_wire::report::Direction;
use serde_json::{Value, json};

use super::{FarSide, Identity, Receive, Send};
use crate::mqtt::{Receiver, Sender, Site};
use crate::paths::scratch;
use crate::process::Mosquitto;

/// A broker and the version that the bridge and the trial's clients speak.
pub struct Mqtt {
    mosquitto: Mosquitto,
    version: MqttVersion,
}

impl Mqtt {
    pub async fn start(version: MqttVersion) -> Result<Self> {
        let folder = scratch("mosquitto")?;
        let extra = format!("{}\nmax_inflight_messages 0", Mosquitto::persistence(&folder));
        Ok(Self { mosquitto: Mosquitto::start(folder, &extra).await?, version })
    }

    fn site(&self) -> Site {
        Site { host: "127.0.0.1".to_owned(), port: self.mosquitto.port }
    }
}

impl FarSide for Mqtt {
    type Sender = Sender;
    type Receiver = Receiver;

    fn name(&self) -> String {
        match self.version {
            MqttVersion::V5 => "mqtt 5".to_owned(),
            MqttVersion::V311 => "mqtt 3.1.1".to_owned(),
        }
    }

    fn endpoint(&self, _: Direction) -> Result<Value> {
        let version = if self.version == MqttVersion::V5 { "V5" } else { "V311" };
        Ok(json!({"mqtt": {"url": self.mosquitto.url(), "version": version, "clientId": "bridge"}}))
    }

    fn inbound(&self) -> Value {
        match self.version {
            MqttVersion::V5 => json!({"from": "in/+", "idHeader": "id"}),
            MqttVersion::V311 => json!({"from": "in/+"}),
        }
    }

    fn outbound(&self) -> Value {
        json!({"to": "out/{1}"})
    }

    fn identity(&self) -> Identity {
        if self.version == MqttVersion::V5 { Identity::Id } else { Identity::None }
    }

    async fn sender(&self) -> Result<Sender> {
        Ok(Sender::new(&self.site(), self.version))
    }

    async fn receiver(&mut self) -> Result<Receiver> {
        Receiver::new(&self.site(), self.version, "out/#").await
    }

    /// By SIGTERM: mosquitto confirms events before they are on disk, so that a harder end loses what it has confirmed.
    async fn restart(&mut self) -> Result<()> {
        self.mosquitto.stop().await?;
        self.mosquitto.start_again().await
    }
}

impl Send for Sender {
    async fn send(&self, id: &str, lane: u32, payload: Vec<u8>) -> bool {
        self.try_send(&format!("in/{lane}"), id, payload).await
    }
}

impl Receive for Receiver {
    async fn receive(&mut self) -> Option<Vec<u8>> {
        self.next().await.ok().map(|arrival| arrival.payload)
    }
}
