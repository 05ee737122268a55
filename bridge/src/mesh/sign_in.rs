//! As whom the bridge signs in at the brokers: the newest credentials, at each connection anew.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Auth, AuthError};
use eventmesh_wire::config::MeshCredentials;
use nkeys::KeyPair;

/// The credentials of the next connection.
#[derive(Clone, Default)]
pub(super) struct SignIn(Arc<Mutex<Option<User>>>);

struct User {
    jwt: String,
    key: KeyPair,
}

impl SignIn {
    /// Replaces them; none is for a mesh that asks nobody.
    ///
    /// # Errors
    /// What `validate` would have found.
    pub(super) fn set(&self, credentials: Option<&MeshCredentials>) -> anyhow::Result<()> {
        let user = match credentials {
            Some(credentials) => {
                let key = KeyPair::from_seed(credentials.seed.expose())
                    .map_err(|_| anyhow::anyhow!("mesh.credentials.seed is not the seed of a key"))?;
                Some(User { jwt: credentials.jwt.expose().to_owned(), key })
            }
            None => None,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = user;
        Ok(())
    }

    /// Answers a broker's challenge.
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<Auth, AuthError> {
        let user = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut auth = Auth::new();
        if let Some(user) = user.as_ref() {
            auth.signature = Some(user.key.sign(challenge).map_err(AuthError::new)?);
            auth.jwt = Some(user.jwt.clone());
        }
        Ok(auth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_with_the_newest_key() {
        let sign_in = SignIn::default();
        assert!(sign_in.answer(b"x").unwrap().signature.is_none(), "nobody in particular");
        for jwt in ["old", "new"] {
            let key = KeyPair::new_user();
            let credentials = MeshCredentials { jwt: jwt.into(), seed: key.seed().unwrap().into() };
            sign_in.set(Some(&credentials)).unwrap();
            let answer = sign_in.answer(b"challenge").unwrap();
            assert_eq!(answer.jwt.as_deref(), Some(jwt));
            assert!(key.verify(b"challenge", &answer.signature.unwrap()).is_ok());
        }
    }
}
