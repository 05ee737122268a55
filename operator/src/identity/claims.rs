//! Claims: what brokers are told of accounts and users, as JSON Web Tokens in the dialect of NATS, version 2.
//!
//! A broker trusts one operator key, written into its configuration. The operator signs accounts, an account's signing
//! key signs users; so a broker verifies everybody who connects by itself. Pure: keys and times come in, text goes out.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
pub use eventmesh_wire::token::{Claims, ClaimsError, read};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
/// Of the claims' format.
const VERSION: u8 = 2;

/// The operator of a mesh: the root that its brokers trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    pub signing_keys: Vec<String>,
    pub system_account: String,
    /// Accounts are signed by a signing key, never by the operator's own.
    pub strict_signing_key_usage: bool,
    #[serde(rename = "type")]
    pub kind: String,
    pub version: u8,
}

/// An account: a space of subjects of its own, and what it shares with others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Subjects that become others, before anything is delivered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mappings: BTreeMap<String, Vec<Mapping>>,
    pub limits: Limits,
    /// Keys that sign its users: plain ones, and ones whose users have exactly the rights of a template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<SigningKey>,
    #[serde(rename = "type")]
    pub kind: String,
    pub version: u8,
}

/// What a subject becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    pub subject: String,
    /// Percentage of the messages.
    pub weight: u8,
}

/// What an account takes from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Import {
    pub name: String,
    /// In the other account.
    pub subject: String,
    pub account: String,
    /// In this account, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subject: Option<String>,
    #[serde(rename = "type")]
    pub kind: ShareKind,
}

/// What an account gives to those that the operator lets import it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Export {
    pub name: String,
    pub subject: String,
    #[serde(rename = "type")]
    pub kind: ShareKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<ResponseType>,
}

/// Service: messages go to the exporting account, and answers come back. Stream: they come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareKind {
    Service,
    Stream,
}

/// How many answers a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResponseType {
    Singleton,
    Stream,
}

/// Limits of an account; -1 is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub imports: i64,
    pub exports: i64,
    pub wildcards: bool,
    pub conn: i64,
    pub leaf: i64,
    #[serde(default)]
    pub mem_storage: i64,
    #[serde(default)]
    pub disk_storage: i64,
    #[serde(default)]
    pub streams: i64,
    #[serde(default)]
    pub consumer: i64,
}

/// A key that signs users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SigningKey {
    /// Its users have the rights that their own token says.
    Plain(String),
    /// Its users have the rights of the template, whatever their token says.
    Scoped(Scope),
}

/// The rights of all users of one signing key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    pub kind: ScopeKind,
    pub key: String,
    pub role: String,
    pub template: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScopeKind {
    #[serde(rename = "user_scope")]
    User,
}

/// Rights and limits of a user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Template {
    #[serde(rename = "pub")]
    pub publish: Permission,
    #[serde(rename = "sub")]
    pub subscribe: Permission,
    /// Answers to what it was asked may go to where the request says.
    #[serde(rename = "resp", default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerPermission>,
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bearer_token: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_connection_types: Vec<String>,
}

/// How many answers a request may have, and until when, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPermission {
    pub max: i64,
    pub ttl: i64,
}

/// Subjects that are allowed; none: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// A user of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    #[serde(rename = "pub", default)]
    pub publish: Permission,
    #[serde(rename = "sub", default)]
    pub subscribe: Permission,
    /// -1: no limit. Absent where the signing key is a scoped one, whose template decides everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subs: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<i64>,
    pub issuer_account: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub version: u8,
}

impl Operator {
    #[must_use]
    pub fn new(signing_keys: Vec<String>, system_account: String) -> Self {
        let kind = "operator".to_owned();
        Self { signing_keys, system_account, strict_signing_key_usage: true, kind, version: VERSION }
    }
}

impl Account {
    #[must_use]
    pub fn new(limits: Limits, signing_keys: Vec<SigningKey>) -> Self {
        let kind = "account".to_owned();
        Self {
            imports: Vec::new(),
            exports: Vec::new(),
            mappings: BTreeMap::new(),
            limits,
            signing_keys,
            kind,
            version: VERSION,
        }
    }
}

impl User {
    /// A user with the rights of the scoped key that signs it.
    #[must_use]
    pub fn scoped(account: String) -> Self {
        Self {
            publish: Permission::default(),
            subscribe: Permission::default(),
            subs: None,
            data: None,
            payload: None,
            issuer_account: account,
            kind: "user".to_owned(),
            version: VERSION,
        }
    }

    /// A user who may do everything in its account.
    #[must_use]
    pub fn unlimited(account: String) -> Self {
        Self { subs: Some(-1), data: Some(-1), payload: Some(-1), ..Self::scoped(account) }
    }
}

impl Limits {
    pub const NONE: Self = Self {
        subs: -1,
        data: -1,
        payload: -1,
        imports: -1,
        exports: -1,
        wildcards: true,
        conn: -1,
        leaf: -1,
        mem_storage: 0,
        disk_storage: 0,
        streams: 0,
        consumer: 0,
    };

    /// With streams and consumers of its own.
    #[must_use]
    pub fn with_storage(self) -> Self {
        Self { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1, ..self }
    }
}

/// Writes and signs a token about `subject`.
pub fn sign<T: Serialize + Clone>(
    signer: &KeyPair,
    subject: &str,
    name: &str,
    issued: i64,
    expires: Option<i64>,
    nats: &T,
) -> Result<String, ClaimsError> {
    let mut claims = Claims {
        exp: expires,
        jti: String::new(),
        iat: issued,
        iss: signer.public_key(),
        name: name.to_owned(),
        sub: subject.to_owned(),
        nats: nats.clone(),
    };
    // Brokers take two tokens with the same id for the same.
    claims.jti = BASE32_NOPAD.encode(&Sha256::digest(json(&claims)?));
    let content = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&json(&claims)?));
    let signature = signer.sign(content.as_bytes()).map_err(|error| ClaimsError::Key(error.to_string()))?;
    Ok(format!("{content}.{}", BASE64URL_NOPAD.encode(&signature)))
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, ClaimsError> {
    serde_json::to_vec(value).map_err(|error| ClaimsError::Claims(error.to_string()))
}

/// A user's token and key in the file format that NATS clients read.
#[must_use]
pub fn creds_file(token: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\
         NKEYs are sensitive and should be treated as secrets.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> String {
        let account = KeyPair::new_account();
        let user = KeyPair::new_user();
        let claims = User::scoped(account.public_key());
        sign(&account, &user.public_key(), "a", 7, Some(9), &claims).expect("signed")
    }

    #[test]
    fn what_was_signed_is_read() {
        let claims = read::<User>(&token()).expect("read");
        assert_eq!((claims.iat, claims.exp, claims.name.as_str()), (7, Some(9), "a"));
        assert_eq!(claims.iss, claims.nats.issuer_account);
        assert!(!claims.jti.is_empty());
    }

    #[test]
    fn a_changed_claim_breaks_the_signature() {
        let token = token();
        let parts: Vec<&str> = token.split('.').collect();
        let mut claims: serde_json::Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).expect("base64")).expect("JSON");
        claims["exp"] = 99.into();
        let forged = BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims).expect("JSON"));
        let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
        assert_eq!(read::<User>(&forged).err(), Some(ClaimsError::Signature));
    }

    #[test]
    fn another_algorithm_is_refused() {
        let token = token();
        let rest = token.split_once('.').expect("parts").1;
        let forged = format!("{}.{rest}", BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#));
        assert!(matches!(read::<User>(&forged), Err(ClaimsError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn rubbish_is_refused_without_a_panic(text in ".{0,400}") {
            prop_assert!(read::<User>(&text).is_err());
        }

        #[test]
        fn a_flipped_byte_is_refused(at in 0usize..200, with in "[A-Za-z0-9_-]") {
            let token = token();
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &with);
            prop_assume!(changed != token);
            // The last character of a part holds bits that stand for nothing; decoding is strict about them.
            prop_assert!(read::<User>(&changed).is_err());
        }
    }
}
