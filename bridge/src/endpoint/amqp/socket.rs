//! The socket under a connection, with TLS where the URL says so, and the words for what can go wrong with it.

use std::io;
use std::sync::Arc;

use eventmesh_wire::config::AmqpEndpoint;
use eventmesh_wire::validate::BrokerAddress;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::LinkError;
use crate::tls;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for T {}

pub type Socket = Box<dyn Stream>;

/// Where a connection goes, and whom it trusts.
pub struct Place {
    pub address: BrokerAddress,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    has_identity: bool,
}

impl Place {
    /// # Errors
    /// What `validate` would have found, and certificates that can not be read.
    pub fn new(endpoint: &AmqpEndpoint) -> anyhow::Result<Self> {
        let address = endpoint.broker().map_err(anyhow::Error::msg)?.0;
        let settings = endpoint.tls.as_ref();
        let tls = if address.tls {
            let name = settings.and_then(|tls| tls.server_name.clone()).unwrap_or_else(|| address.host.clone());
            Some((Arc::new(tls::of_endpoint(settings)?), ServerName::try_from(name)?))
        } else {
            None
        };
        Ok(Self { address, tls, has_identity: settings.is_some_and(|tls| tls.client_cert_pem.is_some()) })
    }

    /// Whether a client certificate can say who the bridge is.
    pub fn has_identity(&self) -> bool {
        self.has_identity
    }

    pub async fn connect(&self) -> Result<Socket, LinkError> {
        let address = &self.address;
        let socket = TcpStream::connect((address.host.as_str(), address.port)).await;
        let socket = socket.map_err(|error| self.failed(&error))?;
        // Frames are gathered before they are written.
        socket.set_nodelay(true).map_err(|error| self.failed(&error))?;
        let Some((config, name)) = &self.tls else { return Ok(Box::new(socket)) };
        let socket = TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket).await;
        Ok(Box::new(socket.map_err(|error| self.failed(&error))?))
    }

    /// The words for an error of the network or of TLS.
    pub fn failed(&self, error: &io::Error) -> LinkError {
        let place = format!("{}:{}", self.address.host, self.address.port);
        if let Some(problem) = tls::problem(error) {
            let advice = self.advice(problem);
            return LinkError::refused(format!("no TLS connection to {place}: {advice} ({problem})"));
        }
        LinkError::away(match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("{place} refuses the connection; is the broker running, and is this its port?")
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                let certificate = if self.tls.is_some() && !self.has_identity {
                    " Or does it ask for a client certificate?"
                } else {
                    ""
                };
                format!(
                    "{place} closed the connection; is an AMQP broker listening there, with or without TLS as configured?{certificate}"
                )
            }
            _ => format!("can not connect to {place}: {error}"),
        })
    }

    pub fn timed_out(&self) -> LinkError {
        LinkError::away(format!(
            "{}:{} accepted no AMQP connection within {} s; it hangs, or is no AMQP broker",
            self.address.host,
            self.address.port,
            super::CONNECT_TIMEOUT.as_secs()
        ))
    }

    fn advice(&self, problem: &rustls::Error) -> &'static str {
        match problem {
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
            rustls::Error::AlertReceived(_) if self.has_identity => "it does not accept the client certificate",
            rustls::Error::AlertReceived(_) => "it may ask for a client certificate: give one, tls.crt and tls.key",
            rustls::Error::InvalidMessage(_) => "it does not speak TLS there; is this the port for amqps?",
            _ => "the broker's log may say more",
        }
    }
}
