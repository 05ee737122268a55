//! The Secret `<mesh>-broker-tls`: what brokers load, and what clients trust.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use super::super::build::hash;
use crate::pki::{Pair, rollover::split};

/// What brokers show to clients, and what clients trust.
pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";
pub const AUTHORITY: &str = "ca.crt";
/// By what brokers know each other.
pub const ROUTE_CERTIFICATE: &str = "route.crt";
pub const ROUTE_KEY: &str = "route.key";
pub const ROUTE_AUTHORITY: &str = "route-ca.crt";
/// Part of the brokers' configuration: makes each broker tell which certificates it has loaded.
pub const REVISION_FILE: &str = "revision.conf";
/// What this file defines; the configuration refers to it.
pub const REVISION_VARIABLE: &str = "certificates_revision";
/// Key of the brokers' metadata that tells the revision.
pub const REVISION: &str = "certificates";

/// Complete content of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Absent without TLS for clients.
    pub serving: Option<Pair>,
    /// Absent without TLS for clients.
    pub authority: Option<String>,
    pub route: Pair,
    pub route_authority: String,
}

impl Files {
    /// Fingerprint of what brokers load. What only clients read is not part of it.
    #[must_use]
    pub fn revision(&self) -> String {
        let serving = self.serving.as_ref().map_or(["", ""], |pair| [&pair.certificate, &pair.key]);
        hash(&[serving[0], serving[1], &self.route.certificate, &self.route.key, &self.route_authority])
    }

    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, ByteString> {
        let serving = self.serving.iter();
        let texts = [
            (ROUTE_CERTIFICATE, self.route.certificate.clone()),
            (ROUTE_KEY, self.route.key.clone()),
            (ROUTE_AUTHORITY, self.route_authority.clone()),
            (REVISION_FILE, format!("{REVISION_VARIABLE}: \"{}\"\n", self.revision())),
        ]
        .into_iter()
        .chain(self.authority.clone().map(|pem| (AUTHORITY, pem)))
        .chain(serving.flat_map(|pair| [(CERTIFICATE, pair.certificate.clone()), (KEY, pair.key.clone())]));
        texts.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
    }
}

/// What the Secret holds now; nothing is taken for granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    pub serving: Option<Pair>,
    pub authority: Option<String>,
    pub route: Option<Pair>,
    pub route_authority: Option<String>,
}

impl Stored {
    #[must_use]
    pub fn read(data: &BTreeMap<String, ByteString>) -> Self {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().filter(|text| !text.is_empty());
        let pair = |certificate, key| Some(Pair { certificate: text(certificate)?, key: text(key)? });
        Self {
            serving: pair(CERTIFICATE, KEY),
            authority: text(AUTHORITY),
            route: pair(ROUTE_CERTIFICATE, ROUTE_KEY),
            route_authority: text(ROUTE_AUTHORITY),
        }
    }

    /// The revision that brokers should run with, as far as this Secret goes.
    #[must_use]
    pub fn revision(&self) -> Option<String> {
        Some(self.whole()?.revision())
    }

    /// All of it, when brokers can be started with it.
    #[must_use]
    pub fn whole(&self) -> Option<Files> {
        Some(Files {
            serving: self.serving.clone(),
            authority: self.authority.clone(),
            route: self.route.clone()?,
            route_authority: self.route_authority.clone()?,
        })
    }
}

/// The authorities of `wanted`, and those of `before` that it lacks.
#[must_use]
pub fn union(wanted: &str, before: &str) -> String {
    let known = split(wanted);
    let more: Vec<String> = split(before).into_iter().filter(|pem| !known.contains(pem)).collect();
    if more.is_empty() { wanted.to_owned() } else { format!("{}{}", known.concat(), more.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let pair = |name: &str| Pair { certificate: format!("{name} crt"), key: format!("{name} key") };
        Files {
            serving: Some(pair("serving")),
            authority: Some("authority".to_owned()),
            route: pair("route"),
            route_authority: "route authority".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_only_what_brokers_load_is_in_the_revision() {
        let files = files();
        let stored = Stored::read(&files.entries());
        assert_eq!(stored.whole().as_ref(), Some(&files));
        assert_eq!(stored.revision(), Some(files.revision()));
        assert!(String::from_utf8_lossy(&files.entries()[REVISION_FILE].0).contains(&files.revision()));
        let trusting_more = Files { authority: Some("more".to_owned()), ..files.clone() };
        assert_eq!(trusting_more.revision(), files.revision());
        for other in [
            Files { serving: None, ..files.clone() },
            Files { route_authority: String::new(), ..files.clone() },
            Files { route: Pair { key: String::new(), ..files.route.clone() }, ..files.clone() },
        ] {
            assert_ne!(other.revision(), files.revision());
        }
    }

    #[test]
    fn a_union_holds_each_authority_once() {
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        let (a, b) = (pem("a"), pem("b"));
        assert_eq!(union(&a, &a), a);
        assert_eq!(union(&a, &format!("{b}{a}")), format!("{a}{b}"));
        assert_eq!(union(&a, ""), a);
    }
}
