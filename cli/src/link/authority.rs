//! What the authorities of a Secret say of themselves. Pure.

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// One authority.
pub struct Authority {
    pub name: String,
    /// Seconds since 1970.
    pub until: i64,
}

/// All authorities of a text.
///
/// # Errors
/// What is wrong with it.
pub fn read(pem: &str) -> Result<Vec<Authority>, String> {
    let unreadable = || "key `ca.crt` holds what is no certificate".to_owned();
    let read = |der: CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        let name = certificate.subject().to_string();
        Ok(Authority { name, until: certificate.validity().not_after.timestamp() })
    };
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| read(der.map_err(|_| unreadable())?)).collect()
}
