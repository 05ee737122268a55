//! A certificate authority of a mesh, and the certificates that it signs.

use std::{collections::BTreeSet, fmt, time::Duration};

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::{
    minus, plus,
    reading::{self, Facts},
    skew,
};

/// A certificate and its private key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// An authority. Without a key it is still trusted, and signs nothing any more.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    pub certificate: String,
    pub key: Option<String>,
    pub facts: Facts,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// None that is known: the system has random numbers, and the dates are in range.
    pub fn generate(mesh: &str, lifetime: Duration, now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Event Mesh Operator");
        // The time tells two authorities of a mesh apart for people and for libraries that look issuers up by name.
        params.distinguished_name.push(DnType::CommonName, format!("{mesh} {}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(minus(now, skew(lifetime)));
        params.not_after = date(plus(now, lifetime));
        let certificate = params.self_signed(&key)?.pem();
        let facts = reading::facts(&certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self { certificate, key: Some(key.serialize_pem()), facts })
    }

    /// Reads what a Secret holds.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn read(certificate: &str, key: Option<&str>) -> Result<Self, String> {
        let facts = reading::facts(certificate)?;
        if let Some(key) = key {
            reading::belong_together(certificate, key)?;
        }
        Ok(Self { certificate: certificate.to_owned(), key: key.map(str::to_owned), facts })
    }

    /// Signs a certificate that is good for both sides of a connection. It ends with the authority at the latest.
    ///
    /// # Errors
    /// When there is no key, or a name is none.
    pub fn issue(&self, names: &BTreeSet<String>, lifetime: Duration, now: Timestamp) -> Result<Pair, rcgen::Error> {
        let signer = self.key.as_deref().ok_or(rcgen::Error::RemoteKeyError)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(signer)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "Event Mesh");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(minus(now, skew(lifetime)).max(self.facts.not_before));
        params.not_after = date(plus(now, lifetime).min(self.facts.not_after));
        Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            reading::{Doubt, belong_together, facts, is_for, verify},
            tests::{POLICY, at},
        },
        *,
    };

    fn names() -> BTreeSet<String> {
        ["retail-nats.platform.svc", "*.retail-brokers.platform.svc", "127.0.0.1", "fd00::1"].map(str::to_owned).into()
    }

    #[test]
    fn a_leaf_holds_within_its_time_under_its_authority_and_its_names_only() {
        let authority = Authority::generate("platform/retail", POLICY.authority, at(0)).expect("an authority");
        let other = Authority::generate("platform/retail", POLICY.authority, at(0)).expect("an authority");
        let leaf = authority.issue(&names(), POLICY.leaf, at(0)).expect("a leaf");
        assert_eq!(verify(&leaf.certificate, &authority.certificate, at(0)), Ok(()));
        assert_eq!(verify(&leaf.certificate, &authority.certificate, at(-359)), Ok(()), "a slow clock");
        assert_eq!(verify(&leaf.certificate, &authority.certificate, at(-361)), Err(Doubt::NotYetValid));
        assert_eq!(verify(&leaf.certificate, &authority.certificate, at(3601)), Err(Doubt::Expired));
        assert_eq!(verify(&leaf.certificate, &other.certificate, at(0)), Err(Doubt::UnknownAuthority));
        let both = format!("{}{}", other.certificate, authority.certificate);
        assert_eq!(verify(&leaf.certificate, &both, at(0)), Ok(()));
        for (host, good) in [
            ("retail-nats.platform.svc", true),
            ("retail-broker-0.retail-brokers.platform.svc", true),
            ("127.0.0.1", true),
            ("fd00::1", true),
            ("other.platform.svc", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_for(&leaf.certificate, host), good, "{host}");
        }
        assert_eq!(facts(&leaf.certificate).expect("readable").names, names());
        assert_eq!(belong_together(&leaf.certificate, &leaf.key), Ok(()));
        let wrong = belong_together(&leaf.certificate, authority.key.as_deref().expect("a key"));
        assert!(wrong.expect_err("another key").contains("another certificate"));
    }

    #[test]
    fn a_leaf_ends_with_its_authority_and_two_have_different_serials() {
        let authority = Authority::generate("m", Duration::from_mins(10), at(0)).expect("an authority");
        let leaf = authority.issue(&names(), POLICY.leaf, at(300)).expect("a leaf");
        let first = facts(&leaf.certificate).expect("readable");
        assert_eq!(first.not_after, at(600));
        let second = facts(&authority.issue(&names(), POLICY.leaf, at(300)).expect("a leaf").certificate);
        assert_ne!(first.serial, second.expect("readable").serial);
    }

    #[test]
    fn a_leaf_signs_nothing() {
        let authority = Authority::generate("m", POLICY.authority, at(0)).expect("an authority");
        let leaf = authority.issue(&names(), POLICY.leaf, at(0)).expect("a leaf");
        let false_authority = Authority::read(&leaf.certificate, Some(&leaf.key)).expect("readable");
        let forged = false_authority.issue(&names(), POLICY.leaf, at(0));
        if let Ok(forged) = forged {
            let chain = format!("{}{}", forged.certificate, leaf.certificate);
            assert!(verify(&chain, &authority.certificate, at(0)).is_err());
        }
    }

    #[test]
    fn what_is_printed_holds_no_key() {
        let authority = Authority::generate("m", POLICY.authority, at(0)).expect("an authority");
        let leaf = authority.issue(&names(), POLICY.leaf, at(0)).expect("a leaf");
        assert!(!format!("{authority:?}{leaf:?}").contains("PRIVATE"));
    }
}
