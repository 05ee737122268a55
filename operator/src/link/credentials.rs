//! The Secret by which a side dials: checked before brokers are given it. Pure.

use std::collections::BTreeMap;

use eventmesh_crds::conditions::Reason;
use eventmesh_wire::link_secret::LinkSecret;
use k8s_openapi::ByteString;
use sha2::{Digest, Sha256};

use super::{
    plan::Refused,
    remote::{authority_file, credentials_file},
};

/// Files for the brokers, by name, and the fingerprint of the authorities in them.
#[derive(Debug, PartialEq, Eq)]
pub struct Files {
    pub entries: BTreeMap<String, ByteString>,
    pub authority: String,
}

/// What a Secret gives the brokers to dial with, or what is wrong with it. `tls`: whether they need to verify the other side.
pub fn files(
    link: &str,
    place: &str,
    data: &BTreeMap<String, ByteString>,
    tls: bool,
    now: i64,
) -> Result<Files, Refused> {
    let invalid = |problem: String| Refused {
        reason: Reason::LinkSecretInvalid,
        message: format!("link {link}: Secret {place}: {problem}; take a new copy of the Secret of the other side"),
    };
    let secret = LinkSecret::read(|key| data.get(key).map(|value| value.0.as_slice())).map_err(invalid)?;
    if let Some(problem) = secret.problems(tls, now).into_iter().next() {
        return Err(invalid(problem));
    }
    Ok(given(link, secret.creds.as_bytes(), secret.authority().filter(|_| tls).map(str::as_bytes)))
}

/// What brokers were given before, where nothing better is there: a copy that is spoilt must not cut a link that works.
#[must_use]
pub fn kept(link: &str, given_before: &BTreeMap<String, ByteString>) -> Option<Files> {
    let file = |name: String| given_before.get(&name).map(|file| file.0.as_slice());
    Some(given(link, file(credentials_file(link))?, file(authority_file(link))))
}

fn given(link: &str, creds: &[u8], authority: Option<&[u8]>) -> Files {
    let file = |bytes: &[u8]| ByteString(bytes.to_vec());
    let fingerprint = |pem: &[u8]| data_encoding::HEXLOWER.encode(&Sha256::digest(pem)[..8]);
    let mut entries = BTreeMap::from([(credentials_file(link), file(creds))]);
    entries.extend(authority.map(|pem| (authority_file(link), file(pem))));
    Files { entries, authority: authority.map(fingerprint).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use eventmesh_wire::link_secret::{AUTHORITY, CREDS, JWT};
    use nkeys::KeyPair;
    use rstest::rstest;

    use super::*;
    use crate::identity::{claims::creds_file, credentials::Credentials, party::Party};

    fn secret(party: &Party) -> BTreeMap<String, ByteString> {
        let account = KeyPair::new_account();
        let user = Credentials::issue(&account, &account.public_key(), party, 1000, 100).expect("a user");
        let bytes = |text: String| ByteString(text.into_bytes());
        BTreeMap::from([
            (CREDS.to_owned(), bytes(creds_file(&user.token, &user.seed))),
            (JWT.to_owned(), bytes(user.token)),
        ])
    }

    fn link() -> Party {
        Party::Link { name: "far".to_owned() }
    }

    #[test]
    fn credentials_of_a_link_are_taken() {
        let found = files("l", "n/s", &secret(&link()), false, 1050).expect("good");
        assert_eq!(found.entries.keys().collect::<Vec<_>>(), ["l.creds"]);
        assert!(found.authority.is_empty());
    }

    #[test]
    fn what_brokers_have_is_kept() {
        let mut data = secret(&link());
        data.insert(
            AUTHORITY.to_owned(),
            ByteString(b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n".to_vec()),
        );
        let found = files("l", "n/s", &data, true, 1050).expect("good");
        assert!(!found.authority.is_empty());
        assert_eq!(kept("l", &found.entries), Some(found));
        assert_eq!(kept("m", &BTreeMap::new()), None);
    }

    #[rstest]
    #[case(link(), false, 1100, "have expired")]
    #[case(Party::Client { name: "c".to_owned() }, false, 1050, "those of client/c, not of a link")]
    #[case(link(), true, 1050, "`ca.crt` is missing")]
    fn others_are_not(#[case] party: Party, #[case] tls: bool, #[case] now: i64, #[case] problem: &str) {
        let refused = files("l", "n/s", &secret(&party), tls, now).expect_err("refused");
        assert!(
            refused.reason == Reason::LinkSecretInvalid && refused.message.contains(problem),
            "{}",
            refused.message
        );
    }

    #[test]
    fn a_spoilt_secret_is_named_and_never_shown() {
        let good = secret(&link());
        let refused = files("l", "n/s", &BTreeMap::new(), false, 1050).expect_err("refused");
        assert!(refused.message.contains("key `jwt` is missing"));
        let mixed =
            BTreeMap::from([(JWT.to_owned(), good[JWT].clone()), (CREDS.to_owned(), secret(&link())[CREDS].clone())]);
        let refused = files("l", "n/s", &mixed, false, 1050).expect_err("refused");
        assert!(refused.message.contains("different tokens") && !refused.message.contains("SEED"));
        let mut rubbish = good;
        rubbish.insert(AUTHORITY.to_owned(), ByteString(b"rubbish".to_vec()));
        assert!(files("l", "n/s", &rubbish, true, 1050).is_err());
    }
}
