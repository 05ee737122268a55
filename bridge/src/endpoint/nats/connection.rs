//! One connection to the other system. It is made anew each time, and never by the client itself, so that it is known why it
//! did not come about.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use eventmesh_wire::config::{NatsCredentials, NatsEndpoint};
use tokio::sync::watch;

use crate::tls;

/// How long the making of a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How a connection stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    pub connected: bool,
    /// It was lost. What the client makes in its place is not used.
    pub over: bool,
    /// What the server last said against the bridge, or why it is gone.
    pub said: Option<String>,
    /// The server threw the bridge out.
    pub refused: bool,
}

/// A connection that stood a moment ago.
pub(super) struct Connection {
    pub client: Client,
    pub health: watch::Receiver<Health>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct LinkError {
    pub message: String,
    pub refused: bool,
}

impl Connection {
    pub(super) async fn make(endpoint: &NatsEndpoint, name: &str) -> Result<Self, LinkError> {
        let (tell, health) = watch::channel(Health::default());
        let options = options(endpoint).map_err(|error| LinkError { message: format!("{error:#}"), refused: true })?;
        let connect = options
            .name(name)
            .connection_timeout(CONNECT)
            .ping_interval(Duration::from_secs(10))
            // Enough for one try at each; it is never used again after it was lost.
            .max_reconnects(endpoint.urls.len())
            .ignore_discovered_servers()
            .reconnect_delay_callback(|_| Duration::ZERO)
            .event_callback(move |event| {
                note(&tell, &event);
                async {}
            })
            .connect(endpoint.urls.clone());
        let client = connect.await.map_err(|error| explain(&error))?;
        let mut told = health.clone();
        let _ = told.wait_for(|health| health.connected || health.over).await;
        Ok(Self { client, health })
    }

    /// Waits until it is lost, and tells why as far as that is known.
    pub(super) async fn lost(&self) -> LinkError {
        let mut health = self.health.clone();
        let _ = health.wait_for(|health| health.over).await;
        let Health { said, refused, .. } = health.borrow().clone();
        let message = match said {
            Some(said) if refused => format!("the NATS server ended the connection: {said}; {ADVICE}"),
            Some(said) => format!("the NATS server ended the connection; it had said: {said}"),
            None => "the NATS server ended the connection, or is gone".to_owned(),
        };
        LinkError { message, refused }
    }
}

const ADVICE: &str = "look at the credentials in the Secret, and at what they are allowed there";

fn note(tell: &watch::Sender<Health>, event: &Event) {
    match event {
        Event::Connected => tell.send_modify(|health| health.connected = !health.over),
        Event::Disconnected | Event::Closed => tell.send_modify(|health| {
            health.connected = false;
            health.over = true;
        }),
        Event::ServerError(error) => tell.send_modify(|health| {
            let said = error.to_string();
            let lower = said.to_lowercase();
            health.refused =
                ["authorization", "authentication", "revoked", "maximum"].iter().any(|w| lower.contains(w));
            health.said = Some(said);
        }),
        _ => {}
    }
}

fn options(endpoint: &NatsEndpoint) -> anyhow::Result<ConnectOptions> {
    let mut options = ConnectOptions::new();
    options = match &endpoint.credentials {
        None => options,
        Some(NatsCredentials::Creds(text)) => options
            .credentials(text.expose())
            .map_err(|_| anyhow::anyhow!("endpoint.nats.credentials is no credentials file"))?,
        Some(NatsCredentials::Login { username, password }) => {
            options.user_and_password(username.clone(), password.expose().to_owned())
        }
        Some(NatsCredentials::Token(token)) => options.token(token.expose().to_owned()),
        Some(NatsCredentials::Nkey(seed)) => options.nkey(seed.expose().to_owned()),
    };
    let servers = endpoint.servers().map_err(|problem| anyhow::anyhow!(problem))?;
    if servers.iter().any(|server| server.tls) {
        options = options.require_tls(true).tls_client_config(tls::of_endpoint(endpoint.tls.as_ref())?);
    }
    Ok(options)
}

fn explain(error: &ConnectError) -> LinkError {
    if let Some(problem) = tls::problem(error) {
        return LinkError {
            message: format!("the NATS server's certificate can not be trusted: {problem}"),
            refused: true,
        };
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            LinkError { message: format!("the NATS server refuses the credentials ({error}); {ADVICE}"), refused: true }
        }
        ConnectErrorKind::TimedOut => LinkError {
            message: format!(
                "the NATS server did not answer in {} s; is it there, and is it a NATS server?",
                CONNECT.as_secs()
            ),
            refused: false,
        },
        ConnectErrorKind::Dns => {
            LinkError { message: format!("no address is known for the NATS server{cause}"), refused: false }
        }
        _ => LinkError { message: format!("can not connect to the NATS server: {error}{cause}"), refused: false },
    }
}
