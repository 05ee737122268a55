//! Another NATS system.

use eventmesh_crds::{
    bridge::{NatsCredentials, NatsEndpoint},
    conditions::{Reason, Verdict},
};
use eventmesh_wire::{config as wire, secret::Secret};

use super::{super::resolve::Resolved, has_key, text, tls, unresolved};

pub(super) fn run(nats: &NatsEndpoint, resolved: &Resolved) -> Result<wire::NatsEndpoint, Verdict> {
    Ok(wire::NatsEndpoint {
        urls: nats.urls.clone(),
        credentials: nats.credentials.as_ref().map(|named| credentials(named, resolved)).transpose()?,
        tls: tls(nats.tls.as_ref(), resolved)?,
        jetstream: nats
            .jetstream
            .clone()
            .map(|jetstream| wire::NatsJetStream { domain: jetstream.domain, stream: jetstream.stream }),
    })
}

/// Which kind they are is told by the keys of the Secret.
fn credentials(named: &NatsCredentials, resolved: &Resolved) -> Result<wire::NatsCredentials, Verdict> {
    let secret = named.secret.name.as_str();
    let kinds = ["user.creds", "username", "token", "seed"];
    let mut found = Vec::new();
    for key in kinds {
        if has_key(resolved, secret, key)? {
            found.push(key);
        }
    }
    let value = |key: &str| text(resolved, secret, key).map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])));
    match found.as_slice() {
        ["user.creds"] => Ok(wire::NatsCredentials::Creds(value("user.creds")?)),
        ["username"] => Ok(wire::NatsCredentials::Login {
            username: text(resolved, secret, "username")?,
            password: value("password")?,
        }),
        ["token"] => Ok(wire::NatsCredentials::Token(value("token")?)),
        ["seed"] => Ok(wire::NatsCredentials::Nkey(value("seed")?)),
        _ => Err(unresolved(
            Reason::SecretKeyMissing,
            format!(
                "Secret {secret} must hold exactly one of the keys user.creds, username (with password), token and seed; it holds {}",
                if found.is_empty() { "none".to_owned() } else { found.join(", ") }
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use eventmesh_crds::common::LocalRef;

    use super::*;
    use crate::{broker::MeshKey, refs::MeshProblem};

    fn resolved(keys: &[(&str, &str)]) -> Resolved {
        let data = keys.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        Resolved {
            mesh: Err(MeshProblem::NotFound(MeshKey { namespace: "n".to_owned(), name: "m".to_owned() })),
            credentials: None,
            trust: None,
            secrets: BTreeMap::from([("s".to_owned(), Some(data))]),
            topics: BTreeMap::new(),
            stores: BTreeMap::new(),
            copies: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    fn read(keys: &[(&str, &str)]) -> Result<wire::NatsCredentials, Verdict> {
        credentials(&NatsCredentials { secret: LocalRef { name: "s".to_owned() } }, &resolved(keys))
    }

    #[test]
    fn the_keys_of_the_secret_tell_the_kind() {
        assert_eq!(read(&[("token", "t\n")]).ok(), Some(wire::NatsCredentials::Token("t".into())));
        assert_eq!(read(&[("seed", "SU")]).ok(), Some(wire::NatsCredentials::Nkey("SU".into())));
        let login = wire::NatsCredentials::Login { username: "u".to_owned(), password: "p".into() };
        assert_eq!(read(&[("username", "u"), ("password", "p")]).ok(), Some(login));
        for wrong in [&[][..], &[("other", "x")], &[("token", "t"), ("seed", "s")], &[("username", "u")]] {
            assert!(read(wrong).is_err_and(|verdict| verdict.reason == Reason::SecretKeyMissing), "{wrong:?}");
        }
    }
}
