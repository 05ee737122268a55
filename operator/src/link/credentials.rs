//! The Secret by which a side dials: checked before brokers are given it. Pure.

use std::collections::BTreeMap;

use eventmesh_crds::conditions::Reason;
use k8s_openapi::ByteString;
use sha2::{Digest, Sha256};

use super::{
    plan::Refused,
    remote::{authority_file, credentials_file},
};
use crate::{
    identity::{
        claims::{self, User},
        credentials::{CREDS, JWT},
    },
    pki::reading::certificates,
};

/// Key of the authorities of the other side.
const AUTHORITY: &str = "ca.crt";

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
    let text = |key: &str| {
        let value = data.get(key).ok_or_else(|| invalid(format!("key `{key}` is missing")))?;
        std::str::from_utf8(&value.0).map_err(|_| invalid(format!("key `{key}` is not text")))
    };
    let token = text(JWT)?.trim();
    let claims = claims::read::<User>(token).map_err(|error| invalid(format!("key `{JWT}`: {error}")))?;
    if claims.exp.is_some_and(|expires| expires <= now) {
        return Err(invalid("its credentials have expired".to_owned()));
    }
    if !claims.name.starts_with("link/") {
        return Err(invalid(format!("its credentials are those of {}, not of a link", claims.name)));
    }
    let creds = text(CREDS)?;
    if !creds.contains(token) {
        return Err(invalid(format!("keys `{CREDS}` and `{JWT}` hold different tokens")));
    }
    let mut entries = BTreeMap::from([(credentials_file(link), ByteString(creds.as_bytes().to_vec()))]);
    let mut authority = String::new();
    if tls {
        let pem = text(AUTHORITY)?;
        certificates(pem).map_err(|error| invalid(format!("key `{AUTHORITY}`: {error}")))?;
        authority = data_encoding::HEXLOWER.encode(&Sha256::digest(pem)[..8]);
        entries.insert(authority_file(link), ByteString(pem.as_bytes().to_vec()));
    }
    Ok(Files { entries, authority })
}

#[cfg(test)]
mod tests {
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
