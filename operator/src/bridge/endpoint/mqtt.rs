//! An MQTT broker.

use eventmesh_crds::{
    Bridge,
    bridge::{MqttEndpoint, MqttVersion},
    conditions::Verdict,
};
use eventmesh_wire::config as wire;

use super::{super::resolve::Resolved, login, seconds, tls};
use crate::cache::namespaced;

pub(super) fn run(bridge: &Bridge, mqtt: &MqttEndpoint, resolved: &Resolved) -> Result<wire::MqttEndpoint, Verdict> {
    let (namespace, name) = namespaced(bridge);
    let (username, password) = login(mqtt.credentials.as_ref(), resolved)?;
    Ok(wire::MqttEndpoint {
        url: mqtt.url.clone(),
        version: match mqtt.version.unwrap_or(MqttVersion::V5) {
            MqttVersion::V5 => wire::MqttVersion::V5,
            MqttVersion::V311 => wire::MqttVersion::V311,
        },
        client_id: mqtt.client_id.clone().unwrap_or_else(|| format!("eventmesh-{namespace}-{name}")),
        username,
        password,
        keep_alive_seconds: mqtt.keep_alive.as_ref().map_or(30, |d| seconds(d).try_into().unwrap_or(u16::MAX)),
        session_expiry_seconds: mqtt.session_expiry.as_ref().map_or(7 * 24 * 3600, seconds),
        tls: tls(mqtt.tls.as_ref(), resolved)?,
    })
}
