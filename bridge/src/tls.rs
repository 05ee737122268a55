//! TLS towards either side: PEM texts to one client configuration.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Trusts `ca_pem`, or else what the system trusts; shows a certificate when there is one (certificate, key).
pub fn client_config(ca_pem: Option<&str>, identity: Option<(&str, &str)>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.context("the CA certificate can not be read as PEM")?)?;
        }
        anyhow::ensure!(!roots.is_empty(), "the CA certificate holds no certificate");
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
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
    Ok(builder.with_client_auth_cert(chain.context("the client certificate can not be read as PEM")?, key)?)
}
