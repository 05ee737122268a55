//! AMQP 1.0: a connection that carries a session for each link, so that what ends one leaves the others alone.

mod external;
mod inbound;
mod message;
mod outbound;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::connection::{ConnectionHandle, Error, OpenError};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{BeginError, SessionHandle};
use fe2o3_amqp::transport;
use fe2o3_amqp::types::definitions;
use fe2o3_amqp::types::primitives::Symbol;
use fe2o3_amqp::types::sasl::SaslCode;
use fe2o3_amqp::{Connection, Session};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{CONNECT_TIMEOUT, GOODBYE, LinkError, Shared};

/// Frames of this size; larger messages come in several.
const FRAME: u32 = 64 * 1024;

type Begun = Result<SessionHandle<()>, BeginError>;

/// Makes sessions of the connection, which only its own task can.
struct Sessions {
    asks: mpsc::Sender<oneshot::Sender<Begun>>,
    /// The connection has ended.
    gone: CancellationToken,
}

impl Sessions {
    /// `None` when the connection has ended.
    async fn begin(&self) -> Option<Begun> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(answer).await.ok()?;
        answered.await.ok()
    }
}

/// Runs until the connection is lost (`Err`), or the link is to stop (`Ok`).
pub(super) async fn run(shared: &Arc<Shared>) -> Result<(), LinkError> {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, open(shared)).await;
    let mut connection = connect.unwrap_or_else(|_| Err(shared.place.timed_out()))?;
    let (asks, mut asked) = mpsc::channel(8);
    let gone = CancellationToken::new();
    let _ends = gone.clone().drop_guard();
    let sessions = Arc::new(Sessions { asks, gone });
    shared.up(Arc::new(outbound::Publisher::new(Arc::clone(shared), Arc::clone(&sessions))));
    let mut reading = pin!(inbound::serve(shared, &sessions));
    loop {
        tokio::select! {
            ended = connection.on_close() => return Err(lost(ended)),
            Some(answer) = asked.recv() => {
                let begun = Session::builder().begin(&mut connection).await;
                let _ = answer.send(begun);
            }
            () = &mut reading => break,
        }
    }
    let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
    Ok(())
}

async fn open(shared: &Shared) -> Result<ConnectionHandle<()>, LinkError> {
    let endpoint = &shared.endpoint;
    let bridge = &shared.config.bridge;
    let mut socket = shared.place.connect().await?;
    // The container id names this connection: pods of one bridge are different containers.
    let container = format!("eventmesh-{}-{}-{:08x}", bridge.namespace, bridge.name, rand::random::<u32>());
    // The idle timeout of the protocol is when the other side may be taken for dead.
    let idle = Duration::from_secs(2 * u64::from(endpoint.heartbeat_seconds));
    let mut builder = Connection::builder()
        .container_id(container)
        .scheme("amqp")
        .hostname(shared.place.address.host.as_str())
        .sasl_hostname(shared.place.address.host.as_str())
        .max_frame_size(FRAME)
        .idle_time_out(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX));
    match endpoint.username.clone().zip(endpoint.password.as_ref()) {
        Some((username, password)) => {
            builder = builder.sasl_profile(SaslProfile::Plain { username, password: password.expose().to_owned() });
        }
        None if shared.place.has_identity() => external::sign_in(&mut socket, &shared.place).await?,
        None => builder = builder.sasl_profile(SaslProfile::Anonymous),
    }
    builder.open_with_stream(socket).await.map_err(|error| refused(shared, error))
}

fn refused(shared: &Shared, error: OpenError) -> LinkError {
    match error {
        OpenError::Io(error) => shared.place.failed(&error),
        OpenError::TransportError(transport::Error::Io(error)) => shared.place.failed(&error),
        OpenError::SaslError { code: SaslCode::Auth, .. } => {
            LinkError::refused("the AMQP broker refuses the user or the password; correct the credentials")
        }
        OpenError::SaslError { code, .. } => {
            LinkError::away(format!("the AMQP broker could not sign the bridge in ({code:?}); its log may say why"))
        }
        OpenError::ProtocolHeaderMismatch(_) => LinkError::refused(
            "the broker does not speak AMQP 1.0 with SASL on this port; another version, or another port?",
        ),
        OpenError::NotImplemented(what) => LinkError::refused(format!(
            "the AMQP broker does not let the bridge sign in this way ({}); give credentials, or allow it there",
            what.unwrap_or_default()
        )),
        OpenError::RemoteClosedWithError(error) => {
            LinkError::refused(format!("the AMQP broker refuses the connection: {}", said(&error)))
        }
        error => LinkError::away(format!("no AMQP connection: {error}")),
    }
}

fn lost(ended: Result<(), Error>) -> LinkError {
    LinkError::away(match ended {
        Ok(()) | Err(Error::RemoteClosed) => "the AMQP broker closed the connection".to_owned(),
        Err(Error::RemoteClosedWithError(error)) => {
            format!("the AMQP broker closed the connection: {}", said(&error))
        }
        Err(Error::TransportError(transport::Error::IdleTimeoutElapsed)) => {
            "the AMQP broker was silent for longer than the idle timeout; it hangs, or the network is gone".to_owned()
        }
        Err(error) => format!("the connection to the AMQP broker broke: {error}"),
    })
}

/// What a broker says is wrong, in a sentence's words.
fn said(error: &definitions::Error) -> String {
    let condition = condition(error);
    match &error.description {
        Some(description) => format!("{description} ({condition})"),
        None => condition,
    }
}

/// The condition by its name in the standard, `amqp:not-found` for example.
fn condition(error: &definitions::Error) -> String {
    use definitions::ErrorCondition as Of;
    let symbol = match &error.condition {
        Of::AmqpError(error) => Symbol::from(error),
        Of::ConnectionError(error) => Symbol::from(error),
        Of::SessionError(error) => Symbol::from(error),
        Of::LinkError(error) => Symbol::from(error),
        Of::Custom(symbol) => symbol.clone(),
    };
    symbol.0
}
