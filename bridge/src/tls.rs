//! TLS towards either side: PEM texts to one client configuration.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Trusts `ca_pem`, or else the authorities of the public web; shows a certificate when there is one (certificate, key).
pub fn client_config(ca_pem: Option<&str>, identity: Option<(&str, &str)>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.context("the CA certificate can not be read as PEM")?;
            roots.add(certificate).context("the CA certificate can not be used")?;
        }
        anyhow::ensure!(!roots.is_empty(), "the CA certificate holds no certificate");
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((certificates, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("the client key can not be read as PEM")?;
    let chain = chain.context("the client certificate can not be read as PEM")?;
    builder.with_client_auth_cert(chain, key).context("the client certificate and its key do not belong together")
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
