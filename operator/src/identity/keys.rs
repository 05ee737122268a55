//! The keys of a mesh: made once, kept in the Secret `<mesh>-keys`, never mounted into a pod.
//!
//! Stored events belong to the mesh's account, that is to its key: a mesh with new keys does not find them again. So
//! these are never replaced by the operator, and the Secret outlives the EventMesh where the volumes do.

use std::{collections::BTreeMap, fmt};

use async_nats::{Auth, AuthError};
use k8s_openapi::ByteString;
use nkeys::{KeyPair, KeyPairType};
use rand::{Rng, distr::Alphanumeric};

use super::claims::{self, Account, ClaimsError, Limits, Operator, SigningKey, User};

/// The entries of the Secret that hold a key, and what it is for.
const SEEDS: [(&str, KeyPairType); 6] = [
    ("operator.seed", KeyPairType::Operator),
    ("operator-signing.seed", KeyPairType::Operator),
    ("system.seed", KeyPairType::Account),
    ("system-signing.seed", KeyPairType::Account),
    ("mesh.seed", KeyPairType::Account),
    ("mesh-signing.seed", KeyPairType::Account),
];
/// The password by which the brokers of a mesh know each other.
const CLUSTER_PASSWORD: &str = "cluster-password";
/// When the keys were made, in seconds since 1970: what is signed into configuration files must not change by itself.
const ISSUED: &str = "issued";
/// More than 180 bits.
const PASSWORD_LENGTH: usize = 32;
/// How long the operator's own token is valid; it makes a fresh one for each connection.
const OWN_LIFETIME: i64 = 24 * 3600;

/// The keys of a mesh.
pub struct MeshKeys {
    pub operator: KeyPair,
    /// Signs accounts.
    pub operator_signing: KeyPair,
    pub system: KeyPair,
    system_signing: KeyPair,
    /// The account that holds all streams.
    pub mesh: KeyPair,
    mesh_signing: KeyPair,
    pub cluster_password: String,
    /// Tokens of the operator, of the system account and of the mesh's account as they stand in the brokers'
    /// configuration. By the last one they start for the first time; what is pushed to them later is newer and wins.
    pub operator_token: String,
    pub system_token: String,
    pub mesh_token: String,
    entries: BTreeMap<String, ByteString>,
}

/// Two with the same keys are the same.
impl PartialEq for MeshKeys {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for MeshKeys {}

/// Without the keys.
impl fmt::Debug for MeshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshKeys").field("mesh", &self.mesh.public_key()).finish_non_exhaustive()
    }
}

impl MeshKeys {
    #[must_use]
    pub fn generate(now: i64) -> Self {
        let mut entries = BTreeMap::new();
        for (name, kind) in SEEDS {
            let seed = KeyPair::new(kind).seed().unwrap_or_default();
            entries.insert(name.to_owned(), ByteString(seed.into_bytes()));
        }
        let password: String = rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
        entries.insert(CLUSTER_PASSWORD.to_owned(), ByteString(password.into_bytes()));
        entries.insert(ISSUED.to_owned(), ByteString(now.to_string().into_bytes()));
        match Self::read(&entries) {
            Ok(keys) => keys,
            // Seeds that were just made are seeds.
            Err(problem) => unreachable!("{problem}"),
        }
    }

    /// Reads the entries of a Secret; the error tells which one is no key, and nothing of what it holds.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, String> {
        let text = |name: &str| {
            let value = data.get(name).ok_or_else(|| format!("key `{name}` is missing"))?;
            let text = std::str::from_utf8(&value.0).map_err(|_| format!("key `{name}` is not text"))?;
            Ok::<_, String>(text.trim().to_owned())
        };
        let mut pairs = Vec::with_capacity(SEEDS.len());
        for (name, kind) in SEEDS {
            let pair = KeyPair::from_seed(&text(name)?).map_err(|_| format!("key `{name}` is not a seed"))?;
            if pair.key_pair_type() != kind {
                return Err(format!("key `{name}` is a seed of another kind"));
            }
            pairs.push(pair);
        }
        let password = text(CLUSTER_PASSWORD)?;
        // Anything else was not made here and could break out of the quotes of the broker's configuration file.
        if password.len() < PASSWORD_LENGTH || !password.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("key `{CLUSTER_PASSWORD}` is not a generated password"));
        }
        let issued: i64 = text(ISSUED)?.parse().map_err(|_| format!("key `{ISSUED}` is not a time"))?;
        let [operator, operator_signing, system, system_signing, mesh, mesh_signing] =
            pairs.try_into().map_err(|_| "the keys are not complete".to_owned())?;
        let names = SEEDS.iter().map(|(name, _)| *name).chain([CLUSTER_PASSWORD, ISSUED]);
        let entries = names.filter_map(|name| Some((name.to_owned(), data.get(name)?.clone()))).collect();
        let account = |of: &KeyPair, name, account: &Account| {
            claims::sign(&operator_signing, &of.public_key(), name, issued, None, account).map_err(|e| e.to_string())
        };
        let claims = Operator::new(vec![operator_signing.public_key()], system.public_key());
        let operator_token = claims::sign(&operator, &operator.public_key(), "eventmesh", issued, None, &claims)
            .map_err(|error| error.to_string())?;
        let system_keys = vec![SigningKey::Plain(system_signing.public_key())];
        let system_token = account(&system, "system", &Account::new(Limits::NONE, system_keys))?;
        let mesh_token = account(&mesh, "mesh", &mesh_account(&mesh_signing))?;
        Ok(Self {
            operator,
            operator_signing,
            system,
            system_signing,
            mesh,
            mesh_signing,
            cluster_password: password,
            operator_token,
            system_token,
            mesh_token,
            entries,
        })
    }

    /// The entries of the Secret.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, ByteString> {
        &self.entries
    }

    /// The mesh's own account, with nothing exported yet.
    #[must_use]
    pub fn mesh_account(&self) -> Account {
        mesh_account(&self.mesh_signing)
    }

    /// Where the brokers' monitoring is, below their port for it. It asks nobody who he is and tells of every connection,
    /// so it is where nobody finds it who cannot read the mesh's Secrets or pods.
    #[must_use]
    pub fn monitoring_path(&self) -> String {
        let secret = format!("monitoring {}", self.cluster_password);
        format!("/{}", &eventmesh_wire::config_hash(secret.as_bytes())[..32])
    }

    /// Signs an account.
    pub fn account_token(
        &self,
        subject: &str,
        name: &str,
        issued: i64,
        account: &Account,
    ) -> Result<String, ClaimsError> {
        claims::sign(&self.operator_signing, subject, name, issued, None, account)
    }

    /// Answers a broker's challenge as the operator in the mesh's account.
    pub fn sign_in(&self, nonce: &[u8], now: i64) -> Result<Auth, AuthError> {
        answer(&self.mesh, &self.mesh_signing, nonce, now)
    }

    /// Answers a broker's challenge as the operator in the system account.
    pub fn sign_in_to_system(&self, nonce: &[u8], now: i64) -> Result<Auth, AuthError> {
        answer(&self.system, &self.system_signing, nonce, now)
    }
}

fn mesh_account(signing: &KeyPair) -> Account {
    Account::new(Limits::NONE.with_storage(), vec![SigningKey::Plain(signing.public_key())])
}

fn answer(account: &KeyPair, signing: &KeyPair, nonce: &[u8], now: i64) -> Result<Auth, AuthError> {
    let user = KeyPair::new_user();
    let claims = User::unlimited(account.public_key());
    // A clock that is a little ahead of the brokers' must not make the token one of the future.
    let token =
        claims::sign(signing, &user.public_key(), "eventmesh-operator", now - 60, Some(now + OWN_LIFETIME), &claims)
            .map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.jwt = Some(token);
    auth.signature = Some(user.sign(nonce).map_err(AuthError::new)?);
    Ok(auth)
}

#[cfg(test)]
impl MeshKeys {
    /// Keys that are the same in each run.
    ///
    /// # Panics
    /// When these are no keys.
    pub fn fixed() -> Self {
        let mut entries = BTreeMap::new();
        for (number, (name, kind)) in (1..).zip(SEEDS) {
            let pair = KeyPair::new_from_raw(kind, [number; 32]).expect("a key");
            entries.insert(name.to_owned(), ByteString(pair.seed().expect("a seed").into_bytes()));
        }
        entries.insert(CLUSTER_PASSWORD.to_owned(), ByteString(vec![b'p'; PASSWORD_LENGTH]));
        entries.insert(ISSUED.to_owned(), ByteString(b"1700000000".to_vec()));
        Self::read(&entries).expect("keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_secret_holds_is_kept() {
        let first = MeshKeys::generate(7);
        let again = MeshKeys::read(first.entries()).expect("readable");
        assert_eq!(again, first);
        assert_eq!(again.system_token, first.system_token, "a configuration file must not change by itself");
    }

    #[test]
    fn rubbish_is_named_and_never_shown() {
        let mut entries = MeshKeys::generate(7).entries().clone();
        let seed = String::from_utf8(entries["mesh.seed"].0.clone()).expect("text");
        entries.insert("mesh.seed".into(), ByteString(b"rubbish".to_vec()));
        let problem = MeshKeys::read(&entries).expect_err("refused");
        assert_eq!(problem, "key `mesh.seed` is not a seed");
        entries.insert("mesh.seed".into(), ByteString(seed.clone().into_bytes()));
        entries.insert("operator.seed".into(), ByteString(seed.clone().into_bytes()));
        let problem = MeshKeys::read(&entries).expect_err("refused");
        assert!(problem.contains("another kind") && !problem.contains(&seed));
        entries.remove("operator.seed");
        assert_eq!(MeshKeys::read(&entries).expect_err("refused"), "key `operator.seed` is missing");
    }

    #[test]
    fn debug_shows_no_seed() {
        let keys = MeshKeys::generate(7);
        assert!(!format!("{keys:?}").contains(&keys.mesh.seed().expect("a seed")));
    }
}
