//! A certificate authority of a test, and what it signs.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use time::OffsetDateTime;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For a server with these names; a text that is an address is one.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`Authority::server`], good from the beginning of one year to the beginning of another.
    pub fn server_between(&self, names: &[&str], from: i32, to: i32) -> Result<Identity> {
        let years = Some((rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1)));
        self.sign_with(names, ExtendedKeyUsagePurpose::ServerAuth, years)
    }

    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(&[name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        self.sign_with(names, usage, None)
    }

    fn sign_with(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        years: Option<(OffsetDateTime, OffsetDateTime)>,
    ) -> Result<Identity> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.extended_key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        if let Some((from, to)) = years {
            (params.not_before, params.not_after) = (from, to);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}
