//! What PEM texts hold: certificates, keys, and whether they belong together.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use k8s_openapi::jiff::Timestamp;
use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// In hexadecimal, as other tools show it: `0a:1b:…`.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// DNS names and IP addresses.
    pub names: BTreeSet<String>,
}

/// All certificates of a text, at least one.
///
/// # Errors
/// A sentence that says what is wrong; it never quotes the text.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| "cannot be read as PEM".to_owned())?;
    if found.is_empty() {
        return Err("holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(found)
}

/// What the first certificate of a text says.
///
/// # Errors
/// As [`certificates`].
pub fn facts(pem: &str) -> Result<Facts, String> {
    let der = certificates(pem)?.swap_remove(0);
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|_| "is PEM, but its content is no X.509 certificate".to_owned())?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| "has a date out of range".to_owned());
    let names = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    Ok(Facts {
        serial: certificate.raw_serial_as_string(),
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
        names: names.flatten().filter_map(name).collect(),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a key is that of the first certificate.
///
/// # Errors
/// A sentence that says what is wrong; it never quotes the key.
pub fn belong_together(certificate: &str, key: &str) -> Result<(), String> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
        "the private key cannot be read: it must be PEM without a passphrase, and begin with -----BEGIN PRIVATE KEY-----"
            .to_owned()
    })?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the private key belongs to another certificate: their public keys differ".to_owned())
        }
        Err(_) => Err("the private key is of a kind that is not supported; use RSA, ECDSA or Ed25519".to_owned()),
    }
}

/// Why a certificate does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    Expired,
    NotYetValid,
    /// None of the authorities has signed it.
    UnknownAuthority,
    Other(String),
}

/// Whether a chain holds at a time against authorities, as a client would find.
///
/// # Errors
/// Why not.
pub fn verify(chain: &str, authorities: &str, now: Timestamp) -> Result<(), Doubt> {
    let chain = certificates(chain).map_err(Doubt::Other)?;
    let authorities = certificates(authorities).map_err(Doubt::Other)?;
    let other = |error: Error| Doubt::Other(error.to_string());
    let anchors = authorities.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>().map_err(other)?;
    let end = EndEntityCert::try_from(&chain[0]).map_err(other)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()));
    let usage = KeyUsage::server_auth();
    match end.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &chain[1..], now, usage, None, None) {
        Ok(_) => Ok(()),
        Err(Error::CertExpired { .. }) => Err(Doubt::Expired),
        Err(Error::CertNotValidYet { .. }) => Err(Doubt::NotYetValid),
        Err(Error::UnknownIssuer | Error::InvalidSignatureForPublicKey) => Err(Doubt::UnknownAuthority),
        Err(error) => Err(other(error)),
    }
}

/// Whether the first certificate is one for this host.
#[must_use]
pub fn is_for(certificate: &str, host: &str) -> bool {
    let Ok(chain) = certificates(certificate) else { return false };
    let (Ok(end), Ok(host)) = (EndEntityCert::try_from(&chain[0]), ServerName::try_from(host)) else { return false };
    end.verify_is_valid_for_subject_name(&host).is_ok()
}
