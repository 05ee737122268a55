//! Tokens by which brokers know accounts and users: JSON Web Tokens in the dialect of NATS, version 2. Here they are read and
//! verified; the operator writes them.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// No token that is read here is longer: the account of a mesh with thousands of Topics takes less.
const LONGEST: usize = 4 << 20;

/// Why a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    #[error("it is not a token: {0}")]
    Malformed(&'static str),
    #[error("its signature is not that of its issuer")]
    Signature,
    #[error("its claims cannot be read: {0}")]
    Claims(String),
    #[error("the key cannot sign: {0}")]
    Key(String),
}

/// What every token says, whatever it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims<T> {
    /// Seconds since 1970 after which it is void; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(default)]
    pub jti: String,
    pub iat: i64,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The public key that it is about.
    pub sub: String,
    pub nats: T,
}

/// Reads a token and checks that its issuer signed it; not whether the issuer may, nor whether it is in time.
pub fn read<T: DeserializeOwned>(token: &str) -> Result<Claims<T>, ClaimsError> {
    if token.len() > LONGEST {
        return Err(ClaimsError::Malformed("it is too long"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ClaimsError::Malformed("it has not three parts"));
    };
    let decode = |part: &str, what| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| ClaimsError::Malformed(what));
    let head: BTreeMap<String, String> = serde_json::from_slice(&decode(header, "its header is not base64")?)
        .map_err(|_| ClaimsError::Malformed("its header is not JSON"))?;
    if head.get("alg").map(String::as_str) != Some("ed25519-nkey") {
        return Err(ClaimsError::Malformed("it is signed in another way"));
    }
    let body = decode(payload, "its claims are not base64")?;
    let claims: Claims<T> = serde_json::from_slice(&body).map_err(|error| ClaimsError::Claims(error.to_string()))?;
    let issuer = KeyPair::from_public_key(&claims.iss).map_err(|error| ClaimsError::Key(error.to_string()))?;
    let signature = decode(signature, "its signature is not base64")?;
    issuer
        .verify(&token.as_bytes()[..header.len() + 1 + payload.len()], &signature)
        .map_err(|_| ClaimsError::Signature)?;
    Ok(claims)
}
