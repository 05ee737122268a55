//! TLS as a client sees it: whom it trusts, and what a server shows.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a server may be silent on a machine that stands still for a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a server begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With TLS.
    Tls,
    /// With a line of text, as in the NATS protocol.
    Nats,
}

/// A client that trusts these authorities and no others.
pub fn trusting(authorities: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.context("the authority cannot be read")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Serial number of the certificate that a server shows.
///
/// # Errors
/// When a client that trusts `authorities` does not believe it.
pub async fn served(address: SocketAddr, name: &str, begin: Begin, authorities: &str) -> Result<String> {
    let (name, authorities) = (name.to_owned(), authorities.to_owned());
    tokio::task::spawn_blocking(move || shake_hands(address, &name, begin, &authorities)).await?
}

fn shake_hands(address: SocketAddr, name: &str, begin: Begin, authorities: &str) -> Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if begin == Begin::Nats {
        // One byte at a time: what follows the line belongs to the handshake.
        let mut line = String::new();
        BufReader::with_capacity(1, socket.try_clone()?).read_line(&mut line)?;
        anyhow::ensure!(line.starts_with("INFO "), "no greeting but {line:?}");
    }
    let mut tls = ClientConnection::new(Arc::new(trusting(authorities)?), ServerName::try_from(name.to_owned())?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    socket.flush()?;
    serial(tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?)
}

/// Serial number of the first certificate of a PEM text.
pub fn serial_of(pem: &str) -> Result<String> {
    serial(&CertificateDer::from_pem_slice(pem.as_bytes()).context("no certificate")?)
}

fn serial(der: &CertificateDer<'_>) -> Result<String> {
    let (_, certificate) = X509Certificate::from_der(der).context("no X.509 certificate")?;
    Ok(certificate.raw_serial_as_string())
}
