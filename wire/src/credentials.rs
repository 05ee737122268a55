//! Whether credentials can be those of a user of a mesh. Only brokers know whether they let that user in.

use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, de::DeserializeOwned};

use crate::config::MeshCredentials;
use crate::secret::Secret;

/// No token of a user is longer.
const LONGEST: usize = 64 * 1024;

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    nats: Nats,
}

#[derive(Deserialize)]
struct Nats {
    #[serde(rename = "type")]
    kind: String,
}

impl MeshCredentials {
    /// What is wrong with them, each with its field. No text shows any part of a value.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let user = user_of(self.jwt.expose());
        if let Err(problem) = user {
            problems.push(("jwt", problem));
        }
        match KeyPair::from_seed(self.seed.expose()) {
            Ok(key) if key.key_pair_type() == KeyPairType::User => {
                if user.is_ok_and(|user| user != key.public_key()) {
                    problems.push(("seed", "is that of another user than the token's"));
                }
            }
            _ => problems.push(("seed", "is not the seed of a user, which begins with SU")),
        }
        problems
    }
}

/// Token and seed of a credentials file; `None` for a text that is none.
#[must_use]
pub fn read_creds(text: &str) -> Option<MeshCredentials> {
    // Each is the line after the one that begins it, `-----BEGIN NATS USER JWT-----` for one.
    let after = |mark: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| line.starts_with("-----BEGIN") && line.contains(mark))?;
        lines.find(|line| !line.is_empty()).map(Secret::from)
    };
    Some(MeshCredentials { jwt: after("USER JWT")?, seed: after("USER NKEY SEED")? })
}

/// Whether a text is the seed of a user's key.
#[must_use]
pub fn is_user_seed(seed: &str) -> bool {
    KeyPair::from_seed(seed).is_ok_and(|key| key.key_pair_type() == KeyPairType::User)
}

/// The public key of the user that a token is about.
fn user_of(token: &str) -> Result<String, &'static str> {
    if token.len() > LONGEST {
        return Err("is longer than any token of a user");
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err("is not a token, which has three parts") };
    if BASE64URL_NOPAD.decode(signature.as_bytes()).is_err() {
        return Err("is a token with an unreadable signature");
    }
    let header: Header = read(header).ok_or("is a token with an unreadable header")?;
    if header.alg != "ed25519-nkey" {
        return Err("is a token that is signed in another way than NATS does");
    }
    let claims: Claims = read(claims).ok_or("is a token with unreadable claims")?;
    if claims.nats.kind != "user" {
        return Err("is a token about something else than a user");
    }
    Ok(claims.sub)
}

fn read<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        format!("{}.{}.{}", encode(header), encode(claims), BASE64URL_NOPAD.encode(&[7; 64]))
    }

    fn of(kind: &str, user: &KeyPair) -> String {
        token(&json!({"typ": "JWT", "alg": "ed25519-nkey"}), &json!({"sub": user.public_key(), "nats": {"type": kind}}))
    }

    fn problems(jwt: &str, seed: &str) -> Vec<String> {
        let found = MeshCredentials { jwt: jwt.into(), seed: seed.into() }.problems();
        found.iter().map(|(field, problem)| format!("{field} {problem}")).collect()
    }

    #[test]
    fn a_user_and_its_key_are_fine_and_no_others_are() {
        let (user, other, account) = (KeyPair::new_user(), KeyPair::new_user(), KeyPair::new_account());
        let seed = |key: &KeyPair| key.seed().expect("a seed");
        assert_eq!(problems(&of("user", &user), &seed(&user)), Vec::<String>::new());
        assert!(problems(&of("user", &user), &seed(&other))[0].starts_with("seed is that of another user"));
        assert!(problems(&of("user", &user), &seed(&account))[0].starts_with("seed is not the seed of a user"));
        assert!(problems(&of("account", &user), &seed(&user))[0].contains("something else than a user"));
    }

    #[rstest]
    #[case("", "three parts")]
    #[case("a.b", "three parts")]
    #[case("a.b.c.d", "three parts")]
    #[case("e30.e30.!", "unreadable signature")]
    #[case("e30.e30.AA", "unreadable header")]
    #[case("eyJhbGciOiJub25lIn0.e30.AA", "signed in another way")]
    #[case("eyJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.AA", "unreadable claims")]
    fn a_token_that_is_none_is_told_and_not_shown(#[case] token: &str, #[case] problem: &str) {
        let found = problems(token, "hunter2");
        assert!(found[0].starts_with("jwt ") && found[0].contains(problem), "{found:?}");
        assert!(found[1].starts_with("seed is not the seed"), "{found:?}");
        assert!(token.is_empty() || !found.iter().any(|text| text.contains(token) || text.contains("hunter2")));
    }

    #[test]
    fn a_seed_with_a_wrong_character_is_refused() {
        let user = KeyPair::new_user();
        let mut seed = user.seed().expect("a seed");
        let last = if seed.ends_with('A') { 'B' } else { 'A' };
        seed.pop();
        seed.push(last);
        assert_eq!(problems(&of("user", &user), &seed).len(), 1);
    }
}
