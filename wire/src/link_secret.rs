//! The Secret by which a side of a link dials the other: what is in it, and what may be wrong with it. The operator that gives it to
//! brokers and the command line judge it by the same rules.

use serde::{Deserialize, Serialize};

use crate::{
    credentials::read_creds,
    pem,
    token::{self, Claims},
};

/// The credentials, as brokers read them.
pub const CREDS: &str = "nats.creds";
/// The token in them.
pub const JWT: &str = "jwt";
/// When it ends.
pub const EXPIRES: &str = "expires";
/// Authorities that the other side's certificates are verified with.
pub const AUTHORITY: &str = "ca.crt";

/// What the name of a user begins with who is the other side of a link; the name of the link follows.
pub const USER: &str = "link/";

/// Name of the Secret, which is made at the side that is dialled.
#[must_use]
pub fn name(mesh: &str, link: &str) -> String {
    format!("{mesh}-link-{link}")
}

/// What a token says of the user of a link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub issuer_account: String,
}

/// A Secret whose token was signed by its issuer.
pub struct LinkSecret<'a> {
    pub token: &'a str,
    pub claims: Claims<User>,
    pub creds: &'a str,
    authority: Option<&'a [u8]>,
}

impl<'a> LinkSecret<'a> {
    /// Reads it. `value`: what the Secret has under a key.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and shows nothing of it.
    pub fn read(value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, String> {
        let text = |key: &str| {
            let value = value(key).ok_or_else(|| format!("key `{key}` is missing"))?;
            std::str::from_utf8(value).map_err(|_| format!("key `{key}` is not text"))
        };
        let token = text(JWT)?.trim();
        let claims = token::read::<User>(token).map_err(|error| format!("key `{JWT}`: {error}"))?;
        Ok(Self { token, claims, creds: text(CREDS)?, authority: value(AUTHORITY) })
    }

    /// The authorities in PEM.
    #[must_use]
    pub fn authority(&self) -> Option<&'a str> {
        std::str::from_utf8(self.authority?).ok()
    }

    /// Name of the link at the side that has issued it; none where it is not of a link.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        self.claims.name.strip_prefix(USER)
    }

    /// What stands against dialling with it, the worst first. `tls`: whether the other side has to be verified.
    #[must_use]
    pub fn problems(&self, tls: bool, now: i64) -> Vec<String> {
        let mut problems = Vec::new();
        if self.link().is_none() {
            problems.push(format!("its credentials are those of {}, not of a link", self.claims.name));
        }
        if self.claims.exp.is_some_and(|expires| expires <= now) {
            problems.push("its credentials have expired".to_owned());
        }
        match read_creds(self.creds) {
            Some(creds) if creds.jwt.expose() == self.token => {
                problems.extend(creds.problems().iter().map(|(field, problem)| format!("its {field} {problem}")));
            }
            _ => problems.push(format!("keys `{CREDS}` and `{JWT}` hold different tokens")),
        }
        if tls {
            problems.extend(self.authority_problem().map(|problem| format!("key `{AUTHORITY}` {problem}")));
        }
        problems
    }

    fn authority_problem(&self) -> Option<String> {
        match (self.authority, self.authority()) {
            (None, _) => Some("is missing".to_owned()),
            (_, None) => Some("is not text".to_owned()),
            (_, Some(text)) => pem::certificates(text).err(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use data_encoding::BASE64URL_NOPAD;
    use nkeys::KeyPair;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    type Data = BTreeMap<&'static str, String>;

    fn issued(name: &str) -> Data {
        let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
        let encode = |part: &serde_json::Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let claims = json!({
            "iss": account.public_key(), "sub": user.public_key(), "iat": 1000, "exp": 1100, "name": name,
            "nats": {"issuer_account": account.public_key(), "type": "user", "version": 2},
        });
        let content = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
        let signature = account.sign(content.as_bytes()).expect("signed");
        let token = format!("{content}.{}", BASE64URL_NOPAD.encode(&signature));
        let seed = user.seed().expect("a seed");
        let creds = format!("-----BEGIN NATS USER JWT-----\n{token}\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n");
        let authority = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n".to_owned();
        Data::from([(JWT, token), (CREDS, creds), (AUTHORITY, authority)])
    }

    fn problems(data: &Data, tls: bool, now: i64) -> Vec<String> {
        match LinkSecret::read(|key| data.get(key).map(String::as_bytes)) {
            Ok(secret) => secret.problems(tls, now),
            Err(problem) => vec![problem],
        }
    }

    #[test]
    fn what_the_other_side_has_issued_is_good() {
        let data = issued("link/plant");
        let secret = LinkSecret::read(|key| data.get(key).map(String::as_bytes)).expect("read");
        assert_eq!((secret.link(), secret.claims.exp), (Some("plant"), Some(1100)));
        assert_eq!(secret.problems(true, 1050), Vec::<String>::new());
    }

    #[rstest]
    #[case(&[JWT], "key `jwt` is missing")]
    #[case(&[CREDS], "key `nats.creds` is missing")]
    #[case(&[AUTHORITY], "key `ca.crt` is missing")]
    fn what_is_missing_is_named(#[case] gone: &[&str], #[case] problem: &str) {
        let mut data = issued("link/plant");
        data.retain(|key, _| !gone.contains(key));
        assert_eq!(problems(&data, true, 1050), [problem]);
    }

    #[rstest]
    #[case("link/plant", 1100, "its credentials have expired")]
    #[case("client/c", 1050, "its credentials are those of client/c, not of a link")]
    fn what_cannot_be_used_says_why(#[case] name: &str, #[case] now: i64, #[case] problem: &str) {
        assert_eq!(problems(&issued(name), true, now), [problem]);
    }

    #[test]
    fn parts_of_different_secrets_are_seen_and_not_shown() {
        let (mut data, other) = (issued("link/plant"), issued("link/plant"));
        data.insert(CREDS, other[CREDS].clone());
        assert_eq!(problems(&data, false, 1050), ["keys `nats.creds` and `jwt` hold different tokens"]);
        let seed = other[CREDS].rsplit_once("SEED-----\n").expect("a seed").1;
        data = issued("link/plant");
        let own = data[CREDS].rsplit_once("SEED-----\n").expect("a seed").0.to_owned();
        data.insert(CREDS, format!("{own}SEED-----\n{seed}"));
        assert_eq!(problems(&data, false, 1050), ["its seed is that of another user than the token's"]);
        data.insert(AUTHORITY, "hunter2".to_owned());
        let found = problems(&data, true, 1050);
        assert!(found[1].starts_with("key `ca.crt` holds no certificate") && !found.concat().contains("hunter2"));
    }
}
