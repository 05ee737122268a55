//! What the bridge needs of an MQTT client, in words that both protocol versions share.
//!
//! One client is one connection: it is never reused for a second one, so nothing of an old connection can reach a new.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use eventmesh_wire::config::MqttEndpoint;
use eventmesh_wire::validate::BrokerAddress;
use rustls::CertificateError;

use crate::event::Headers;
use crate::ledger::SendAck;
use crate::tls;

/// How long connecting may take, the answer to CONNECT included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end may take: what is acknowledged is sent, then DISCONNECT.
pub const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection is made from.
#[derive(Clone)]
pub struct Options {
    pub endpoint: MqttEndpoint,
    pub address: BrokerAddress,
    pub tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    /// Events on their way at once, per direction.
    pub max_in_flight: u16,
}

impl Options {
    /// The name to find in the broker's certificate. The MQTT client takes it for the host; [`Options::address`] is where
    /// the socket goes.
    #[must_use]
    pub fn name(&self) -> String {
        let configured = self.endpoint.tls.as_ref().and_then(|tls| tls.server_name.clone());
        configured.unwrap_or_else(|| self.address.host.clone())
    }

    fn has_identity(&self) -> bool {
        self.endpoint.tls.as_ref().is_some_and(|tls| tls.client_cert_pem.is_some())
    }
}

/// A publication that came in.
#[derive(Debug)]
pub struct Publication {
    pub topic: Bytes,
    pub payload: Bytes,
    /// 0 when the broker expects no acknowledgement.
    pub packet: u16,
    pub redelivery: bool,
    pub headers: Headers,
}

/// What happens on a connection.
#[derive(Debug)]
pub enum Signal {
    Connected {
        session_present: bool,
        max_packet: Option<u32>,
    },
    Publication(Publication),
    /// The broker's answer to a subscription, one for each filter: what is wrong with it, if anything.
    Subscribed(Vec<Option<String>>),
    /// An acknowledgement was written to the connection.
    Acknowledged,
    /// Nothing that the bridge must know.
    Other,
}

/// Why there is no connection any more, or none came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError {
    pub message: String,
    pub kind: LinkErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkErrorKind {
    /// The network or the broker; worth another try soon.
    Away,
    /// One of the two does not want the other; a person must change something.
    Refused,
    /// Another client uses the client id: trying soon would only start a fight.
    TakenOver,
}

impl LinkError {
    pub fn away(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: LinkErrorKind::Away }
    }

    /// The broker, again and again, ends connections soon after they were made.
    pub fn thrown_out(client_id: &str, times: u32) -> Self {
        Self {
            message: format!(
                "the broker closed the connection {times} times within seconds: another client may use the client id \
                 `{client_id}`, or the broker does not allow what the bridge asks for; its log says which"
            ),
            kind: LinkErrorKind::TakenOver,
        }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: LinkErrorKind::Refused }
    }
}

/// A publication to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Bytes,
    pub headers: Headers,
    pub retain: bool,
    pub at_least_once: bool,
}

/// Why a publication was not taken.
#[derive(Debug)]
pub enum PublishError {
    /// The connection went away; the broker may or may not have it.
    Lost,
    /// The broker has it, and does not want it.
    Refused(String),
}

/// The future of a publication: it ends when the broker has acknowledged it.
pub type Published = futures::future::BoxFuture<'static, Result<(), PublishError>>;

/// One connection.
pub trait Client: Clone + Send + Sync + 'static {
    type EventLoop: Send;

    /// Prepares a connection; the first poll makes it.
    fn new(options: &Options) -> (Self, Self::EventLoop);
    /// Drives the connection. Never dropped while it waits, except to end the connection.
    fn poll(event_loop: &mut Self::EventLoop) -> impl Future<Output = Result<Signal, LinkError>> + Send;
    fn subscribe(&self, filters: &[String], at_least_once: bool) -> Result<(), LinkError>;
    fn unsubscribe(&self, filter: &str) -> Result<(), LinkError>;
    fn acknowledger(&self) -> SendAck;
    fn publish(&self, message: Outgoing) -> Result<Published, LinkError>;
    /// Sends DISCONNECT as the last packet.
    fn disconnect(&self);
    /// Waits, once the event loop is dropped, until the broker has closed after the DISCONNECT.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

/// The words for a problem of TLS, when it is one.
pub fn tls_failed(options: &Options, error: &(dyn std::error::Error + 'static)) -> Option<LinkError> {
    let place = format!("{}:{}", options.address.host, options.address.port);
    let alerted = if options.has_identity() {
        "it does not accept the client certificate"
    } else {
        "it may ask for a client certificate: give one, tls.crt and tls.key"
    };
    let Some(problem) = tls::problem(error) else {
        // The MQTT 5 client keeps no more than the words.
        let said = error.to_string();
        let alert = said.split_once("received fatal alert")?.1.trim_matches([':', ' ']);
        return Some(LinkError::refused(format!("no TLS connection to {place}: {alerted} ({alert})")));
    };
    let advice = match problem {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnhandledCriticalExtension,
        ) => {
            "its certificate is signed by an authority that the bridge does not know; give that authority's certificate, ca.crt"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name; use that name in the URL",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        rustls::Error::AlertReceived(_) => alerted,
        rustls::Error::InvalidMessage(_) => "it does not speak TLS there; is this the port for mqtts?",
        _ => "the broker's log may say more",
    };
    Some(LinkError::refused(format!("no TLS connection to {place}: {advice} ({problem})")))
}

/// The words for a network error while connecting.
pub fn connect_failed(options: &Options, error: &std::io::Error) -> LinkError {
    if let Some(failed) = tls_failed(options, error) {
        return failed;
    }
    let address = &options.address;
    let place = format!("{}:{}", address.host, address.port);
    let message = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("{place} refuses the connection; is the broker running, and is this its port?")
        }
        std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::ConnectionAborted => {
            let certificate =
                if address.tls && !options.has_identity() { " Or does it ask for a client certificate?" } else { "" };
            format!(
                "{place} closed the connection; is an MQTT broker listening there, with or without TLS as configured?{certificate}"
            )
        }
        _ => format!("can not connect to {place}: {error}"),
    };
    LinkError::away(message)
}

pub fn timed_out(address: &BrokerAddress) -> LinkError {
    let seconds = CONNECT_TIMEOUT.as_secs();
    LinkError::away(format!(
        "{}:{} accepted no MQTT connection within {seconds} s; it hangs, or is no MQTT broker",
        address.host, address.port
    ))
}
