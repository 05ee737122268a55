//! What a pass over the identities of a mesh has to write. Pure.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use eventmesh_crds::{EventMesh, mesh::Identities, quantity::ByteQuantity};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};

use super::{
    ROTATE,
    collect::Parties,
    credentials::{self, Address, Credentials},
    keys::MeshKeys,
    live::{self, Live},
    party::Party,
    record::Record,
    rights::{self, PartyLimits, Rights},
    sidecar,
};
use crate::{
    broker::{MeshKey, accounts::AccountToken},
    cache::Cache,
    engine::apply::owner_reference,
    link::{account::Carried, plan::Planned},
};

const DEFAULT_MAX_PAYLOAD: i64 = 1 << 20;
/// How long an account of which nothing is known stays closed: longer than any token lives by default.
const STRANGER_LIFETIME: i64 = 2 * 8760 * 3600;

/// What is known of a mesh since the operator's start.
#[derive(Default)]
pub struct Known {
    /// The last good record.
    pub record: Option<Record>,
    /// The Secret of the record has to be written again.
    pub restore: bool,
    /// The brokers were asked whether they know accounts that the record does not.
    pub record_checked: bool,
    /// Brokers by name, and since when they run.
    servers: BTreeMap<String, String>,
    /// Fingerprint and time of the claims that the brokers were told last, by account.
    pub pushed: BTreeMap<String, (u64, i64)>,
    /// The Secrets as they were left.
    pub applied: BTreeMap<Party, Applied>,
}

impl Known {
    /// A broker that was away may have an old volume: everything is told again.
    pub fn forget_what_restarted_brokers_missed(&mut self, running: BTreeMap<String, String>) {
        let news = running.iter().any(|(name, since)| self.servers.get(name) != Some(since));
        if news {
            for (fingerprint, _) in self.pushed.values_mut() {
                *fingerprint = 0;
            }
            self.servers.extend(running);
        }
    }
}

/// A Secret as it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub version: String,
    /// Fingerprint of what it should hold besides the user's own key and token.
    pub content: u64,
    /// Fingerprint of what it tells a sidecar; that changes more often than anything else.
    pub sidecar: u64,
    /// When the credentials in it are renewed.
    pub renewal: i64,
}

/// Claims to tell the brokers.
pub struct Push {
    pub token: AccountToken,
    pub fingerprint: u64,
    pub issued: i64,
}

/// A Secret to write.
pub struct WantedSecret {
    pub party: Party,
    pub secret: Secret,
    pub content: u64,
    pub sidecar: u64,
    pub renewal: i64,
}

/// The writes of a pass.
pub struct Plan {
    pub record: Record,
    pub mesh_account: Vec<Push>,
    pub accounts: Vec<Push>,
    pub live_account: Vec<Push>,
    pub secrets: Vec<WantedSecret>,
    /// Secrets that were read and found right.
    pub as_they_are: Vec<(Party, Applied)>,
}

/// A Secret of a party as it was read: its version and what it holds.
pub type Held = BTreeMap<Party, (String, BTreeMap<String, ByteString>)>;

/// What a plan is made from.
pub struct Input<'a> {
    pub mesh: &'a EventMesh,
    pub key: &'a MeshKey,
    pub keys: &'a MeshKeys,
    pub parties: &'a Parties,
    pub record: &'a Record,
    pub held: &'a Held,
    /// Accounts that brokers know and the record does not.
    pub strangers: &'a [String],
    pub known: &'a Known,
    pub cache: &'a Cache,
    pub address: &'a Address,
    /// Of the leaf node listener.
    pub leaf_address: &'a Address,
    /// Of the MQTT listener, where there is one.
    pub mqtt_address: Option<&'a Address>,
    pub now: i64,
}

impl Plan {
    pub fn new(input: &Input<'_>) -> Result<Self, String> {
        let rotation = input.mesh.annotations().get(ROTATE).map(String::as_str);
        let parties = input.parties.all();
        let record = input.record.clone().follow(&parties.iter().collect(), input.now).rotate(rotation, input.now);
        let mut plan = Self {
            record,
            mesh_account: Vec::new(),
            accounts: Vec::new(),
            live_account: Vec::new(),
            secrets: Vec::new(),
            as_they_are: Vec::new(),
        };
        for stranger in input.strangers {
            plan.record.revoked.insert(stranger.clone(), input.now + STRANGER_LIFETIME);
        }
        plan.mesh_account(input)?;
        plan.live_account(input)?;
        plan.accounts(input)?;
        plan.links(input)?;
        for party in input.parties.with_secret() {
            plan.credentials(input, &party)?;
        }
        Ok(plan)
    }

    /// The account of live events, once somebody has a right in them. Others import from it and it from them; brokers take
    /// such imports up as soon as they know both.
    fn live_account(&mut self, input: &Input<'_>) -> Result<(), String> {
        let live = |rights: &Rights| rights.live != Live::default();
        let crosses = |link: &Planned| !(link.carried.from_live.is_empty() && link.carried.to_live.is_empty());
        let wanted = input.parties.rights.values().any(live) || input.parties.links.values().any(crosses);
        if self.record.live.is_none() && !wanted {
            return Ok(());
        }
        let id = self.record.live_account().account.clone();
        let parties = input.parties.rights.iter().filter_map(|(party, rights)| {
            Some((self.record.identities.get(&party.to_string())?.account.as_str(), &rights.live))
        });
        let mut account = live::account(parties);
        account
            .imports
            .extend(self.link_accounts(input).flat_map(|(account, link)| link.carried.live_imports(account)));
        self.live_account.extend(push(input, &id, "live", &account)?);
        Ok(())
    }

    /// The mesh's own account: what it exports to parties, and what it hands to links.
    fn mesh_account(&mut self, input: &Input<'_>) -> Result<(), String> {
        let mut account = input.keys.mesh_account();
        account.exports = rights::exports(input.parties.stored.iter());
        let to_links = self.link_accounts(input).flat_map(|(account, link)| link.carried.store_imports(account));
        account.imports = to_links.collect();
        self.mesh_account.extend(push(input, &input.keys.mesh.public_key(), "mesh", &account)?);
        Ok(())
    }

    /// The links, each with its account.
    fn link_accounts<'a>(&'a self, input: &'a Input<'_>) -> impl Iterator<Item = (&'a str, &'a Planned)> {
        input
            .parties
            .links
            .iter()
            .filter_map(|(name, link)| Some((self.record.account_of(&Party::Link { name: name.clone() })?, link)))
    }

    /// The accounts of links.
    fn links(&mut self, input: &Input<'_>) -> Result<(), String> {
        let mesh = input.keys.mesh.public_key();
        let live = self.record.live.as_ref().map(|live| live.account.as_str());
        let of = |link: &str| self.record.account_of(&Party::Link { name: link.to_owned() });
        let mut pushes = Vec::new();
        for (link, planned) in &input.parties.links {
            let name = Party::Link { name: link.clone() }.to_string();
            let Some(identity) = self.record.identities.get(&name) else { continue };
            // Where this side dials, nobody signs in.
            let keys = if planned.dials.is_none() { identity.signing_keys(input.now)? } else { Vec::new() };
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let account = planned.carried.account(&mesh, live, of, &keys, limits(input.mesh).max_payload);
            pushes.extend(push(input, &identity.account, &name, &account)?);
        }
        self.accounts.extend(pushes);
        Ok(())
    }

    fn accounts(&mut self, input: &Input<'_>) -> Result<(), String> {
        let mesh = input.keys.mesh.public_key();
        let live = self.record.live.as_ref().map(|live| live.account.as_str());
        for (party, rights) in input.parties.rights.iter().filter(|(party, _)| !is_mqtt(party)) {
            let name = party.to_string();
            let Some(identity) = self.record.identities.get(&name) else { continue };
            let keys = identity.signing_keys(input.now)?;
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let mut account = rights.account(&mesh, live, &keys, &name, limits(input.mesh));
            for (link, stream) in &rights.copies {
                let link = self.record.account_of(&Party::Link { name: link.clone() });
                account.imports.extend(link.into_iter().flat_map(|link| Carried::copy_imports(link, stream)));
            }
            self.accounts.extend(push(input, &identity.account, &name, &account)?);
        }
        self.mqtt_account(input, &mesh)?;
        for account in self.record.revoked.keys() {
            self.accounts.extend(push(input, account, "revoked", &rights::revoked())?);
        }
        Ok(())
    }

    /// The account that clients share where they speak MQTT.
    fn mqtt_account(&mut self, input: &Input<'_>, mesh: &str) -> Result<(), String> {
        let clients: Vec<_> = input.parties.rights.iter().filter(|(party, _)| is_mqtt(party)).collect();
        if clients.is_empty() && self.record.mqtt.is_none() {
            return Ok(());
        }
        let mut scopes = Vec::new();
        for (party, rights) in &clients {
            let name = party.to_string();
            let Some(identity) = self.record.identities.get(&name) else { continue };
            for key in identity.signing_keys(input.now)? {
                scopes.push(rights::mqtt_scope(rights, &key, &name, limits(input.mesh)));
            }
        }
        let all: Vec<_> = clients.iter().map(|(_, rights)| *rights).collect();
        let limits = limits(input.mesh);
        let account = rights::mqtt_account(mesh, &all, scopes, limits);
        let id = self.record.mqtt_account().account.clone();
        self.accounts.extend(push(input, &id, "mqtt", &account)?);
        Ok(())
    }

    /// The client id of a client for MQTT: the same for as long as it is a client, and nobody else's guess. The public key
    /// of its identity there is told to nobody.
    fn mqtt_session(&self, party: &Party) -> String {
        let Party::Client { name } = party else { return String::new() };
        let identity = self.record.identities.get(&Party::Mqtt { name: name.clone() }.to_string());
        let mark =
            identity.map(|identity| eventmesh_wire::config_hash(identity.account.as_bytes())).unwrap_or_default();
        format!("{name}-{}", mark.get(..20).unwrap_or_default())
    }

    /// The token of a client for MQTT: kept, renewed or issued.
    fn mqtt_token(&mut self, input: &Input<'_>, client: &str, lifetime: i64) -> Result<Option<Credentials>, String> {
        let party = Party::Mqtt { name: client.to_owned() };
        if !input.parties.rights.contains_key(&party) {
            return Ok(None);
        }
        let account = self.record.mqtt_account().account.clone();
        let Some(identity) = self.record.identities.get(&party.to_string()) else { return Ok(None) };
        let signing = identity.signing()?;
        let held = input.held.get(&Party::Client { name: client.to_owned() });
        let kept = held
            .and_then(|(_, data)| Credentials::read_mqtt(data, &signing, &account))
            .filter(|kept| kept.renewal(lifetime) > input.now && kept.expires <= input.now + lifetime);
        if kept.is_some() {
            return Ok(kept);
        }
        let issued = Credentials::issue(&signing, &account, &party, input.now, lifetime);
        issued.map(Some).map_err(|error| error.to_string())
    }

    /// Keeps, renews or issues the credentials of a party.
    fn credentials(&mut self, input: &Input<'_>, party: &Party) -> Result<(), String> {
        let name = party.to_string();
        let Some(identity) = self.record.identities.get(&name).cloned() else { return Ok(()) };
        let Some(owner) = owner(input, party) else { return Ok(()) };
        let signing = identity.signing()?;
        let lifetime = lifetime(input.mesh, party);
        let mut hasher = DefaultHasher::new();
        let address = match party {
            Party::Link { .. } => input.leaf_address,
            _ => input.address,
        };
        (address, &owner.uid, signing.public_key(), &identity.account, lifetime).hash(&mut hasher);
        let file = sidecar::file(input.key, party, input.parties);
        let sidecar = sidecar::fingerprint(file.as_deref());
        sidecar.hash(&mut hasher);
        if let Party::Client { name } = party {
            let mqtt = self.record.identities.get(&Party::Mqtt { name: name.clone() }.to_string());
            (mqtt.map(super::record::Identity::signing).transpose()?.map(|key| key.public_key()), input.mqtt_address)
                .hash(&mut hasher);
        }
        let content = hasher.finish();
        let held = input.held.get(party);
        if held.is_none()
            && let Some(applied) = input.known.applied.get(party)
            && applied.content == content
            && applied.renewal > input.now
            && input.known_version(party).as_ref() == Some(&applied.version)
        {
            return Ok(());
        }
        let kept = held
            .and_then(|(_, data)| Credentials::read(data, &signing, &identity.account))
            .filter(|kept| kept.renewal(lifetime) > input.now && kept.expires <= input.now + lifetime);
        let credentials = match kept {
            Some(kept) => kept,
            None => Credentials::issue(&signing, &identity.account, party, input.now, lifetime)
                .map_err(|error| error.to_string())?,
        };
        // Known before it is out: a revocation must last as long as the last token.
        if let Some(identity) = self.record.identities.get_mut(&name) {
            identity.expires = identity.expires.max(credentials.expires);
        }
        let renewal = credentials.renewal(lifetime);
        let mqtt = match (party, input.mqtt_address) {
            (Party::Client { name }, Some(address)) => {
                self.mqtt_token(input, name, lifetime)?.map(|token| (address, token))
            }
            _ => None,
        };
        let session = self.mqtt_session(party);
        let mqtt = mqtt.as_ref().map(|(address, token)| (*address, token, session.as_str()));
        let secret = credentials::secret(input.key, party, owner, address, &credentials, file.as_deref(), mqtt);
        match held {
            Some((version, data)) if secret.data.as_ref() == Some(data) => {
                self.as_they_are.push((party.clone(), Applied { version: version.clone(), content, sidecar, renewal }));
            }
            _ => self.secrets.push(WantedSecret { party: party.clone(), secret, content, sidecar, renewal }),
        }
        Ok(())
    }
}

impl Input<'_> {
    fn known_version(&self, party: &Party) -> Option<String> {
        let (namespace, name) = credentials::place(self.key, party);
        self.cache.credentials_version(&namespace, &name)
    }
}

fn push(input: &Input<'_>, account: &str, name: &str, claims: &super::claims::Account) -> Result<Option<Push>, String> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(claims).map_err(|error| error.to_string())?.hash(&mut hasher);
    // Zero stands for what is to be told again.
    let fingerprint = hasher.finish().max(1);
    let before = input.known.pushed.get(account);
    if before.is_some_and(|(told, _)| *told == fingerprint) {
        return Ok(None);
    }
    // Of two claims brokers keep the younger one, and they count in seconds.
    let issued = before.map_or(input.now, |(_, last)| input.now.max(last + 1));
    let token = input.keys.account_token(account, name, issued, claims).map_err(|error| error.to_string())?;
    Ok(Some(Push { token: AccountToken { account: account.to_owned(), token }, fingerprint, issued }))
}

fn is_mqtt(party: &Party) -> bool {
    matches!(party, Party::Mqtt { .. })
}

fn limits(mesh: &EventMesh) -> PartyLimits {
    let settings = mesh.spec.brokers.settings.as_ref();
    let max_payload = settings.and_then(|settings| settings.max_payload.as_ref());
    PartyLimits {
        max_payload: max_payload.map_or(DEFAULT_MAX_PAYLOAD, ByteQuantity::bytes),
        max_connections: Identities::max_connections(mesh.spec.identities.as_ref()).into(),
    }
}

fn lifetime(mesh: &EventMesh, party: &Party) -> i64 {
    let client = |name: &str| mesh.spec.clients.iter().flatten().find(|client| client.name == name);
    let lifetime = match party {
        Party::Client { name } | Party::Mqtt { name } => client(name).map(eventmesh_crds::mesh::MeshClient::lifetime),
        Party::ServiceAccount { .. } | Party::Bridge { .. } | Party::Link { .. } => None,
    };
    let lifetime = lifetime.unwrap_or_else(|| Identities::lifetime(mesh.spec.identities.as_ref()));
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 4)
}

/// With whom the Secret goes.
fn owner(input: &Input<'_>, party: &Party) -> Option<OwnerReference> {
    match party {
        Party::ServiceAccount { namespace, name } => {
            let uid = input.cache.service_account(namespace, name)?;
            Some(OwnerReference {
                api_version: ServiceAccount::api_version(&()).into_owned(),
                kind: ServiceAccount::kind(&()).into_owned(),
                name: name.clone(),
                uid,
                ..OwnerReference::default()
            })
        }
        Party::Bridge { namespace, name } => Some(owner_reference(&*input.cache.bridge(namespace, name)?)),
        Party::Client { .. } | Party::Mqtt { .. } | Party::Link { .. } => Some(owner_reference(input.mesh)),
    }
}
