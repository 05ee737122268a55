//! TLS: PEM texts to the configuration of a client, towards either side, or of a server.

use std::sync::Arc;

use anyhow::Context as _;
use eventmesh_wire::config::TlsConfig;
use eventmesh_wire::secret::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Trusts `ca_pem`, or else the authorities of the public web; shows a certificate when there is one (certificate, key).
pub fn client_config(ca_pem: Option<&str>, shown: Option<(&str, &str)>) -> anyhow::Result<ClientConfig> {
    let roots = match ca_pem {
        Some(pem) => authorities(pem)?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((certificates, key)) = shown else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = identity(certificates, key)?;
    builder.with_client_auth_cert(chain, key).context("the certificate and its key do not belong together")
}

fn authorities(pem: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.context("the CA certificate can not be read as PEM")?;
        roots.add(certificate).context("the CA certificate can not be used")?;
    }
    anyhow::ensure!(!roots.is_empty(), "the CA certificate holds no certificate");
    Ok(roots)
}

fn identity(certificates: &str, key: &str) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("the key can not be read as PEM")?;
    Ok((chain.context("the certificate can not be read as PEM")?, key))
}

/// As an endpoint's configuration has it.
pub fn of_endpoint(settings: Option<&TlsConfig>) -> anyhow::Result<ClientConfig> {
    let settings = settings.cloned().unwrap_or_default();
    let key = settings.client_key_pem.as_ref().map(Secret::expose);
    client_config(settings.ca_pem.as_deref(), settings.client_cert_pem.as_deref().zip(key))
}

/// A server that shows this certificate; with `client_ca_pem`, only to clients that show one of these authorities.
pub fn server_config(cert_pem: &str, key_pem: &str, client_ca_pem: Option<&str>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem)?), provider);
            builder.with_client_cert_verifier(verifier.build().context("the CA certificate can not be used")?)
        }
    };
    let (chain, key) = identity(cert_pem, key_pem)?;
    builder.with_single_cert(chain, key).context("the certificate and its key do not belong together")
}

/// What TLS itself found wrong, wherever in an error it is.
pub fn problem<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An I/O error names as its source what its content names, and so leaves the content itself out.
        let content = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match content {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_authority_those_of_the_public_web_are_trusted() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 50);
        client_config(None, None).unwrap();
    }

    #[test]
    fn the_problem_is_found_inside_other_errors() {
        let inner = std::io::Error::new(std::io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        let outer = std::io::Error::other(inner);
        assert_eq!(problem(&outer), Some(&rustls::Error::DecryptError));
        assert_eq!(problem(&std::io::Error::other("x")), None);
    }
}
