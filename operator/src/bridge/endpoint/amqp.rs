//! An AMQP broker.

use eventmesh_crds::{
    bridge::{AmqpEndpoint, AmqpVersion},
    conditions::Verdict,
};
use eventmesh_wire::config as wire;

use super::{super::resolve::Resolved, login, seconds, tls};

pub(super) fn run(amqp: &AmqpEndpoint, resolved: &Resolved) -> Result<wire::AmqpEndpoint, Verdict> {
    let (username, password) = login(amqp.credentials.as_ref(), resolved)?;
    Ok(wire::AmqpEndpoint {
        url: amqp.url.clone(),
        version: match amqp.version {
            AmqpVersion::V091 => wire::AmqpVersion::V091,
            AmqpVersion::V1 => wire::AmqpVersion::V1,
        },
        username,
        password,
        heartbeat_seconds: amqp.heartbeat.as_ref().map_or(30, |d| seconds(d).try_into().unwrap_or(u16::MAX)),
        prefetch: amqp.prefetch.and_then(|prefetch| u16::try_from(prefetch).ok()),
        tls: tls(amqp.tls.as_ref(), resolved)?,
    })
}
