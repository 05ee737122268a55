//! How a connection begins: greeting, sign-in, limits, virtual host (AMQP 0-9-1, section 2.2.4).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use eventmesh_wire::secret::Secret;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::Settings;
use super::frames::{GREETING, Outbox, Reader};
use crate::endpoint::amqp::LinkError;
use crate::endpoint::amqp::socket::Place;

/// As whom, where, and what the bridge wants.
pub struct Login {
    pub vhost: String,
    /// Absent: the client certificate says who.
    pub password: Option<(String, Secret)>,
    pub heartbeat: Duration,
    /// What the broker's operators see.
    pub name: String,
}

/// Frames of the size that RabbitMQ proposes; larger ones only take memory.
const LARGEST_FRAME: u32 = 128 * 1024;
/// Each frame carries eight bytes beside its payload.
const FRAME_OVERHEAD: u32 = 8;
/// A channel for each route, and for each exchange that is published to.
const CHANNELS: u16 = 2047;

pub(super) async fn shake_hands(
    reader: &mut Reader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
    place: &Place,
    login: &Login,
) -> Result<Settings, LinkError> {
    let broken = |error: io::Error| place.failed(&error);
    writer.write_all(&GREETING).await.map_err(broken)?;
    let connection::AMQPMethod::Start(start) = method(reader.next().await.map_err(broken)?)? else {
        return Err(strange());
    };
    send(writer, sign_in(&start, login)?).await.map_err(broken)?;
    let tune = match method(reader.next().await.map_err(broken)?)? {
        connection::AMQPMethod::Tune(tune) => tune,
        connection::AMQPMethod::Close(close) => return Err(closed(&close)),
        _ => return Err(LinkError::refused("the AMQP broker asks for a way to sign in that the bridge does not know")),
    };
    let frame_max = smaller(tune.frame_max, LARGEST_FRAME);
    let heartbeat = smaller(u32::from(tune.heartbeat), u32::try_from(login.heartbeat.as_secs()).unwrap_or(60));
    let channels = u16::try_from(smaller(u32::from(tune.channel_max), u32::from(CHANNELS))).unwrap_or(CHANNELS);
    let answer = connection::TuneOk {
        channel_max: channels,
        frame_max,
        heartbeat: u16::try_from(heartbeat).unwrap_or(u16::MAX),
    };
    send(writer, connection::AMQPMethod::TuneOk(answer)).await.map_err(broken)?;
    send(writer, connection::AMQPMethod::Open(connection::Open { virtual_host: short(&login.vhost) }))
        .await
        .map_err(broken)?;
    match method(reader.next().await.map_err(broken)?)? {
        connection::AMQPMethod::OpenOk(_) => {}
        connection::AMQPMethod::Close(close) => return Err(closed(&close)),
        _ => return Err(strange()),
    }
    Ok(Settings {
        largest_frame: frame_max.saturating_sub(FRAME_OVERHEAD) as usize,
        channels,
        heartbeat: (heartbeat > 0).then(|| Duration::from_secs(u64::from(heartbeat))),
    })
}

/// 0 stands for no limit.
fn smaller(theirs: u32, ours: u32) -> u32 {
    if theirs == 0 { ours } else { theirs.min(ours) }
}

fn sign_in(start: &connection::Start, login: &Login) -> Result<connection::AMQPMethod, LinkError> {
    let offered = start.mechanisms.to_string();
    let (mechanism, response) = match &login.password {
        Some((username, password)) => ("PLAIN", format!("\0{username}\0{}", password.expose())),
        None if offered.split(' ').any(|one| one == "EXTERNAL") => ("EXTERNAL", String::new()),
        None => ("ANONYMOUS", String::new()),
    };
    if !offered.split(' ').any(|one| one == mechanism) {
        return Err(LinkError::refused(format!(
            "the AMQP broker does not let the bridge sign in with {mechanism}, only with {offered}; give credentials, or \
             allow it there"
        )));
    }
    let capabilities = ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"]
        .into_iter()
        .chain(["authentication_failure_close"])
        .map(|name| (short(name), AMQPValue::Boolean(true)))
        .collect::<BTreeMap<_, _>>();
    let mut client_properties = FieldTable::default();
    client_properties.insert(short("product"), AMQPValue::LongString("Event Mesh bridge".into()));
    client_properties.insert(short("connection_name"), AMQPValue::LongString(login.name.as_str().into()));
    client_properties.insert(short("capabilities"), AMQPValue::FieldTable(capabilities.into()));
    Ok(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: short(mechanism),
        response: response.into(),
        locale: short("en_US"),
    }))
}

/// The words for a broker that ends the connection.
pub(super) fn closed(close: &connection::Close) -> LinkError {
    let text = &close.reply_text;
    match close.reply_code {
        403 => LinkError::refused(format!(
            "the AMQP broker refuses the user or the password ({text}); correct the credentials"
        )),
        530 => LinkError::refused(format!(
            "the AMQP broker does not let the bridge into the virtual host ({text}); correct the URL, or give the user rights to it"
        )),
        320 => LinkError::away(format!("the AMQP broker ended the connection ({text})")),
        code => LinkError::away(format!("the AMQP broker ended the connection with {code} ({text})")),
    }
}

fn strange() -> LinkError {
    LinkError::away("the AMQP broker sent what it can not send now; does it speak AMQP 0-9-1?")
}

fn method(frame: AMQPFrame) -> Result<connection::AMQPMethod, LinkError> {
    match frame {
        AMQPFrame::Method(0, AMQPClass::Connection(method)) => Ok(method),
        _ => Err(strange()),
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), method: connection::AMQPMethod) -> io::Result<()> {
    let outbox = Outbox::default();
    outbox.method(0, AMQPClass::Connection(method));
    writer.write_all(&outbox.take().await).await?;
    writer.flush().await
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
