//! The keys of all meshes, as the operator knows them: read from their Secrets, made for a new mesh, and put back when
//! somebody spoils or deletes a Secret while the operator runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use eventmesh_crds::{
    EventMesh,
    conditions::{ConditionType, Reason, Verdict},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt};

use super::keys::MeshKeys;
use crate::{
    broker::MeshKey,
    cache::namespaced,
    engine::{Context, Error},
    mesh::build::names,
};

/// Keys by mesh and by the uid of the EventMesh: one that is made anew starts from its Secret.
#[derive(Default)]
pub struct Keyring {
    known: Mutex<BTreeMap<MeshKey, Known>>,
}

/// The uid of an EventMesh, and its keys.
type Known = (Option<String>, Arc<MeshKeys>);

impl Keyring {
    /// The keys of a mesh, once a pass over it has found them good.
    pub fn get(&self, mesh: &MeshKey) -> Option<Arc<MeshKeys>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(mesh).map(|(_, keys)| keys.clone())
    }

    fn of(&self, mesh: &MeshKey, uid: Option<&String>) -> Option<Arc<MeshKeys>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(mesh).filter(|(of, _)| of.as_ref() == uid).map(|(_, keys)| keys.clone())
    }

    fn put(&self, mesh: MeshKey, uid: Option<String>, keys: Arc<MeshKeys>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(mesh, (uid, keys));
    }
}

/// What a pass found.
pub struct Found {
    pub keys: Arc<MeshKeys>,
    /// What was wrong with the Secret, when the keys come from memory and have to be put back.
    pub spoiled: Option<String>,
}

/// The keys of a mesh, or why there are none that may be used: keys that brokers run with are never replaced.
pub async fn resolve(context: &Context, mesh: &EventMesh) -> Result<Result<Found, Verdict>, Error> {
    let (namespace, name) = namespaced(mesh);
    let key = MeshKey { namespace, name };
    let secret_name = names::keys(&key.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &key.namespace);
    let secret = api.get_opt(&secret_name).await.map_err(Error::kubernetes("read the keys of the mesh"))?;
    let known = context.keyring.of(&key, mesh.uid().as_ref());
    let account = mesh.status.as_ref().and_then(|status| status.account.as_deref());
    let decided =
        decide(secret.map(|secret| secret.data.unwrap_or_default()).as_ref(), known, account, &secret_name, || {
            MeshKeys::generate(context.now().as_second())
        });
    if let Ok(found) = &decided {
        context.keyring.put(key, mesh.uid(), found.keys.clone());
    }
    Ok(decided)
}

fn decide(
    secret: Option<&BTreeMap<String, ByteString>>,
    known: Option<Arc<MeshKeys>>,
    account: Option<&str>,
    name: &str,
    generate: impl FnOnce() -> MeshKeys,
) -> Result<Found, Verdict> {
    let refuse = |reason, message| Err(Verdict::bad(ConditionType::ResolvedRefs, reason, message));
    let problem = match secret {
        None => format!("Secret {name} is gone"),
        Some(data) => match MeshKeys::read(data) {
            Ok(keys) if account.is_none_or(|account| account == keys.mesh.public_key()) => {
                return Ok(Found { keys: Arc::new(keys), spoiled: None });
            }
            Ok(_) => format!("Secret {name} holds the keys of another mesh"),
            Err(problem) => format!("Secret {name}: {problem}"),
        },
    };
    match (known, account, secret.is_some()) {
        (Some(keys), ..) => Ok(Found { keys, spoiled: Some(problem) }),
        (None, None, false) => Ok(Found { keys: Arc::new(generate()), spoiled: None }),
        (None, _, true) => refuse(
            Reason::KeysUnreadable,
            format!("{problem}; put the Secret back from a backup: the brokers' events belong to its keys"),
        ),
        (None, Some(account), false) => refuse(
            Reason::KeysMissing,
            format!(
                "{problem}; put it back from a backup: the brokers' events belong to account {account}. To give them up, delete the EventMesh and its volumes"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<Found, Verdict>) -> Reason {
        match result {
            Ok(_) => panic!("accepted"),
            Err(verdict) => verdict.reason,
        }
    }

    fn never() -> MeshKeys {
        panic!("new keys would lose the events")
    }

    #[test]
    fn a_new_mesh_gets_keys() {
        let found = decide(None, None, None, "m-keys", || MeshKeys::generate(1));
        assert!(found.is_ok_and(|found| found.spoiled.is_none()));
    }

    #[test]
    fn keys_in_use_are_never_replaced() {
        let keys = Arc::new(MeshKeys::generate(1));
        let account = keys.mesh.public_key();
        let rubbish = || Some(BTreeMap::from([("mesh.seed".to_owned(), ByteString(b"x".to_vec()))]));
        assert_eq!(refused(decide(None, None, Some(&account), "m-keys", never)), Reason::KeysMissing);
        assert_eq!(refused(decide(rubbish().as_ref(), None, Some(&account), "m-keys", never)), Reason::KeysUnreadable);
        assert_eq!(refused(decide(rubbish().as_ref(), None, None, "m-keys", never)), Reason::KeysUnreadable);
        let others = Some(MeshKeys::generate(1).entries().clone());
        assert_eq!(refused(decide(others.as_ref(), None, Some(&account), "m-keys", never)), Reason::KeysUnreadable);
        for spoiled in [None, rubbish(), others] {
            let found = decide(spoiled.as_ref(), Some(keys.clone()), Some(&account), "m-keys", never);
            assert!(found.is_ok_and(|found| found.keys == keys && found.spoiled.is_some()));
        }
    }
}
