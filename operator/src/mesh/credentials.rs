//! The users of a mesh's brokers: made once, kept in a Secret, never changed by the operator afterwards.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rand::{Rng, distr::Alphanumeric};

/// Characters of a generated password: more than 180 bits.
const LENGTH: usize = 32;

/// A user and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub user: String,
    pub password: String,
}

/// All users of a mesh.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The operator in the mesh's account.
    pub operator: User,
    /// The operator in the system account.
    pub system: User,
    /// Bridge pods.
    pub bridge: User,
    /// Applications.
    pub client: User,
    /// The brokers among themselves.
    pub cluster: User,
}

/// Names of the users; keys of the Secret are `<name>-user` and `<name>-password`.
const ROLES: [&str; 5] = ["operator", "system", "bridge", "client", "cluster"];

impl Credentials {
    /// Reads what a Secret holds, and makes what it lacks.
    #[must_use]
    pub fn complete(data: &BTreeMap<String, ByteString>) -> Self {
        let user = |role: &str| User {
            user: role.to_owned(),
            password: text(data, &format!("{role}-password")).unwrap_or_else(generate),
        };
        let [operator, system, bridge, client, cluster] = ROLES.map(user);
        Self { operator, system, bridge, client, cluster }
    }

    /// The entries of the Secret.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, ByteString> {
        let users = [&self.operator, &self.system, &self.bridge, &self.client, &self.cluster];
        ROLES
            .iter()
            .zip(users)
            .flat_map(|(role, user)| {
                [
                    (format!("{role}-user"), ByteString(user.user.clone().into_bytes())),
                    (format!("{role}-password"), ByteString(user.password.clone().into_bytes())),
                ]
            })
            .collect()
    }
}

fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Option<String> {
    let value = String::from_utf8(data.get(key)?.0.clone()).ok()?;
    // Anything else was not made here and could break out of the quotes of the broker's configuration file.
    (!value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric())).then_some(value)
}

fn generate() -> String {
    rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_secret_holds_is_kept() {
        let first = Credentials::complete(&BTreeMap::new());
        assert!(Credentials::complete(&first.entries()) == first);
        assert!(first.operator.password != first.system.password && first.operator.password.len() == LENGTH);
    }

    #[test]
    fn a_password_that_could_break_the_file_is_replaced() {
        let data = BTreeMap::from([("bridge-password".to_owned(), ByteString(b"a\" }".to_vec()))]);
        assert_eq!(Credentials::complete(&data).bridge.password.len(), LENGTH);
    }
}
