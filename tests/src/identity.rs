//! Logging in at the brokers of a mesh: with the credentials that the operator has issued, as the operator, or with a
//! token that a test signs by itself, right or wrong.
//!
//! Tokens are written here in their own JSON, not through types that the operator uses too.

use anyhow::{Context as _, Result, anyhow};
use async_nats::{AuthError, ConnectOptions};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::objects::Namespace;

/// A user of a mesh, as its Secret holds it.
#[derive(Debug, Clone)]
pub struct Login {
    pub jwt: String,
    pub seed: String,
    /// Certificate authorities to trust; none where the brokers speak without TLS.
    pub ca: Option<String>,
}

impl Login {
    /// The credentials in a Secret.
    pub async fn from_secret(namespace: &Namespace, secret: &str) -> Result<Self> {
        let jwt = namespace.secret(secret, "jwt").await?;
        let data = namespace.get::<Secret>(secret).await?.data.unwrap_or_default();
        let text = |key: &str| data.get(key).map(|value| String::from_utf8_lossy(&value.0).into_owned());
        Ok(Self { jwt: text("jwt").unwrap_or(jwt), seed: text("nkey").context("a seed")?, ca: text("ca.crt") })
    }

    /// All rights in the mesh's own account: what only the operator can make of its keys.
    pub async fn operator(namespace: &Namespace, mesh: &str) -> Result<Self> {
        Self::privileged(namespace, mesh, "mesh").await
    }

    /// All rights in the system account.
    pub async fn system(namespace: &Namespace, mesh: &str) -> Result<Self> {
        Self::privileged(namespace, mesh, "system").await
    }

    async fn privileged(namespace: &Namespace, mesh: &str, account: &str) -> Result<Self> {
        let secret = format!("{mesh}-keys");
        let account_key = key(&namespace.secret(&secret, &format!("{account}.seed")).await?)?;
        let signing = key(&namespace.secret(&secret, &format!("{account}-signing.seed")).await?)?;
        let unlimited = json!({"subs": -1, "data": -1, "payload": -1});
        let mut login = user(&signing, &account_key.public_key(), &json!({}), &unlimited)?;
        login.ca = namespace.authority(mesh).await?;
        Ok(login)
    }

    /// Options of a connection as this user.
    pub fn options(&self) -> Result<ConnectOptions> {
        let key = std::sync::Arc::new(key(&self.seed)?);
        Ok(ConnectOptions::with_jwt(self.jwt.clone(), move |nonce| {
            let key = key.clone();
            async move { key.sign(&nonce).map_err(AuthError::new) }
        }))
    }

    /// The claims of the token.
    pub fn claims(&self) -> Result<Value> {
        let payload = self.jwt.split('.').nth(1).context("a token has three parts")?;
        Ok(serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes())?)?)
    }
}

/// The key of a seed.
pub fn key(seed: &str) -> Result<KeyPair> {
    KeyPair::from_seed(seed.trim()).map_err(|error| anyhow!("not a seed: {error}"))
}

/// A new user of an account, whatever the signing key may sign. `claims` overrides times and the like, `nats` rights.
pub fn user(signing: &KeyPair, account: &str, claims: &Value, nats: &Value) -> Result<Login> {
    let user = KeyPair::new_user();
    let mut rights = json!({"pub": {}, "sub": {}, "issuer_account": account, "type": "user", "version": 2});
    merge(&mut rights, nats);
    let now = Timestamp::now().as_second();
    let mut body = json!({"iat": now - 60, "exp": now + 3600, "iss": signing.public_key(), "jti": user.public_key(),
        "name": "test", "sub": user.public_key(), "nats": rights});
    merge(&mut body, claims);
    let seed = user.seed().map_err(|error| anyhow!("{error}"))?;
    Ok(Login { jwt: sign(signing, &body)?, seed, ca: None })
}

/// Signs claims.
pub fn sign(key: &KeyPair, claims: &Value) -> Result<String> {
    let encode = |part: &Value| Ok::<_, anyhow::Error>(BASE64URL_NOPAD.encode(&serde_json::to_vec(part)?));
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"}))?, encode(claims)?);
    let signature = key.sign(signed.as_bytes()).map_err(|error| anyhow!("{error}"))?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

pub(crate) fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}
