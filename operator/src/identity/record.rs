//! The operator's record of a mesh's parties: the account of each and the key that signs its users. Kept in the Secret
//! `<mesh>-identities`, which is never mounted into a pod.

use std::collections::{BTreeMap, BTreeSet};

use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use super::party::Party;

/// Key of the record in its Secret.
pub const FILE: &str = "identities.json";
/// How long users of a replaced signing key are still let in: time for their Secret to reach their pods.
pub const ROTATION_OVERLAP: i64 = 24 * 3600;

/// The record.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// By the name of the party.
    pub identities: BTreeMap<String, Identity>,
    /// The account that all clients share when they speak MQTT; its own signing key is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<Identity>,
    /// The account through which live events and requests go from party to party; nobody signs in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Identity>,
    /// Accounts of parties that are no more, and until when a token of theirs could be in time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked: BTreeMap<String, i64>,
    /// The request for new signing keys that was carried out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<String>,
}

/// One party's account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Public key of the account. Nobody holds its private key: what the operator signs is all there is.
    pub account: String,
    /// Seed of the key that signs its users.
    signing: String,
    /// Public key of the signing key before this one, and until when its users are let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(String, i64)>,
    /// When the last token of a user of it ends.
    #[serde(default)]
    pub expires: i64,
}

impl Identity {
    fn new() -> Self {
        Self { account: KeyPair::new_account().public_key(), signing: new_seed(), previous: None, expires: 0 }
    }

    /// The key that signs its users.
    pub fn signing(&self) -> Result<KeyPair, String> {
        KeyPair::from_seed(&self.signing).map_err(|_| "a signing key of the record is not a seed".to_owned())
    }

    /// Public keys of all signing keys whose users are let in.
    pub fn signing_keys(&self, now: i64) -> Result<Vec<String>, String> {
        let mut keys = vec![self.signing()?.public_key()];
        keys.extend(self.previous.iter().filter(|(_, until)| *until > now).map(|(key, _)| key.clone()));
        Ok(keys)
    }
}

fn new_seed() -> String {
    KeyPair::new_account().seed().unwrap_or_default()
}

impl Record {
    /// Reads the record; the error tells nothing of what it holds.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("`{FILE}` cannot be read (line {}, column {})", error.line(), error.column()))?;
        for (party, identity) in &record.identities {
            identity.signing().map_err(|problem| format!("`{FILE}`, {party}: {problem}"))?;
        }
        Ok(record)
    }

    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        // Plain data always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The record for these parties: newcomers get an account, those that are gone lose theirs for good, since one that
    /// comes back gets another.
    #[must_use]
    pub fn follow(mut self, parties: &BTreeSet<&Party>, now: i64) -> Self {
        let names: BTreeSet<String> = parties.iter().map(ToString::to_string).collect();
        let gone: Vec<String> = self.identities.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(identity) = self.identities.remove(&name)
                && identity.expires > now
            {
                self.revoked.insert(identity.account, identity.expires);
            }
        }
        for name in names {
            self.identities.entry(name).or_insert_with(Identity::new);
        }
        self.revoked.retain(|_, until| *until > now);
        self
    }

    /// The account of a party that has one.
    #[must_use]
    pub fn account_of(&self, party: &Party) -> Option<&str> {
        self.identities.get(&party.to_string()).map(|identity| identity.account.as_str())
    }

    /// The account of the clients that speak MQTT; made when it is first needed, and kept: their sessions live in it.
    pub fn mqtt_account(&mut self) -> &Identity {
        self.mqtt.get_or_insert_with(Identity::new)
    }

    /// The account through which live events and requests go; made when it is first needed.
    pub fn live_account(&mut self) -> &Identity {
        self.live.get_or_insert_with(Identity::new)
    }

    /// Gives every party a new signing key, once for each request. The old ones hold for a while.
    #[must_use]
    pub fn rotate(mut self, request: Option<&str>, now: i64) -> Self {
        if request.is_none() || self.rotated.as_deref() == request {
            return self;
        }
        for identity in self.identities.values_mut() {
            if let Ok(old) = identity.signing() {
                identity.previous = Some((old.public_key(), now + ROTATION_OVERLAP));
                identity.signing = new_seed();
            }
        }
        self.rotated = request.map(str::to_owned);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Party {
        Party::Client { name: name.into() }
    }

    #[test]
    fn who_comes_back_is_somebody_else() {
        let (a, b) = (client("a"), client("b"));
        let mut first = Record::default().follow(&[&a, &b].into(), 10);
        let account = first.identities["client/a"].account.clone();
        first.identities.get_mut("client/a").expect("an identity").expires = 100;
        let second = first.follow(&[&b].into(), 20);
        assert_eq!(second.revoked, BTreeMap::from([(account.clone(), 100)]));
        let third = second.follow(&[&a, &b].into(), 30);
        assert_ne!(third.identities["client/a"].account, account);
        assert_eq!(third.revoked.len(), 1, "the old account stays closed");
        assert!(third.follow(&[&a, &b].into(), 100).revoked.is_empty(), "no token of it is in time any more");
    }

    #[test]
    fn a_rotation_happens_once_and_overlaps() {
        let a = client("a");
        let record = Record::default().follow(&[&a].into(), 10);
        let old = record.identities["client/a"].signing().expect("a key").public_key();
        let rotated = record.rotate(Some("1"), 20);
        let keys = |record: &Record, now| record.identities["client/a"].signing_keys(now).expect("keys");
        assert_eq!(keys(&rotated, 21).len(), 2);
        assert!(keys(&rotated, 21).contains(&old));
        assert!(!keys(&rotated, 20 + ROTATION_OVERLAP).contains(&old));
        let again = rotated.clone().rotate(Some("1"), 30);
        assert!(again == rotated);
        assert!(Record::read(&again.write()).is_ok_and(|read| read == again));
    }

    #[test]
    fn rubbish_is_refused_without_showing_it() {
        let problem = Record::read(br#"{"identities":{"client/a":{"account":"A","signing":"SECRET"}}}"#).err();
        assert!(problem.is_some_and(|problem| problem.contains("client/a") && !problem.contains("SECRET")));
        assert!(Record::read(b"SECRET").is_err_and(|problem| !problem.contains("SECRET")));
    }
}
