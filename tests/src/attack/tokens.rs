//! Tokens that are wrong in one way each, at every door.

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{
    Attempt,
    wire::{Door, Heard, Proof, Publish, Speech, changed, unsigned},
    world::{World, proof},
};
use crate::identity::{self, Login};

/// Claims of an account that nobody but its maker has signed.
pub fn forged_account(account: &str) -> Result<String> {
    let own = KeyPair::new_account();
    let claims = json!({"iat": 1_700_000_000, "iss": own.public_key(), "jti": own.public_key(), "name": "forged", "sub": account,
        "nats": {"type": "account", "version": 2, "limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1}, "signing_keys": [own.public_key()]}});
    identity::sign(&own, &claims)
}

struct Wrong {
    what: String,
    proof: Proof,
}

/// The party whose token is forged.
fn party(world: &World) -> String {
    format!("serviceaccount/{}/publisher", world.places.attacker.name)
}

/// What no door may let in.
async fn wrong(world: &World) -> Result<Vec<Wrong>> {
    let (signing, account) = world.signing_key(&party(world)).await?;
    let mesh = world.operator.claims()?["nats"]["issuer_account"].as_str().context("an account")?.to_owned();
    let system = world.system.claims()?["nats"]["issuer_account"].as_str().context("an account")?.to_owned();
    let publisher = world.attackers.iter().find(|one| one.name == "publisher").context("a publisher")?.login.clone();
    let now = jiff::Timestamp::now().as_second();
    let own = KeyPair::new_account();
    let all = json!({"pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1, "data": -1, "payload": -1});
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1});
    let mut list = Vec::new();
    let mut add = |what: &str, proof: Proof| list.push(Wrong { what: what.to_owned(), proof });
    let signed = |key: &KeyPair, account: &str, claims: &Value, nats: &Value| -> Result<Proof> {
        Ok(proof(&identity::user(key, account, claims, nats)?))
    };
    add("anonymous", Proof::Nothing);
    for (user, password) in [("admin", "admin"), ("cluster", "cluster"), ("sys", "pass"), ("press-42", "press-42")] {
        add(&format!("user {user} with a password"), Proof::Password { user: user.into(), password: password.into() });
    }
    add("a shared secret", Proof::Secret("s3cr3t".into()));
    add("a token that is none", Proof::Token { jwt: "not.a.token".into(), seed: Some(publisher.seed.clone()) });
    add("token of the other mesh", proof(&world.stranger));
    add(
        "token that has expired, by the right key",
        signed(&signing, &account, &json!({"iat": now - 600, "exp": now - 60}), &json!({}))?,
    );
    add(
        "token that is not yet valid",
        signed(&signing, &account, &json!({"nbf": now + 600, "exp": now + 900}), &json!({}))?,
    );
    add("right key, account of the mesh", signed(&signing, &mesh, &json!({}), &json!({}))?);
    add("right key, system account", signed(&signing, &system, &json!({}), &unlimited)?);
    add("right key, unknown account", signed(&signing, &own.public_key(), &json!({}), &json!({}))?);
    add("right key, no account", signed(&signing, "", &json!({}), &json!({}))?);
    add("right key, wider permissions of its own", signed(&signing, &account, &json!({}), &all)?);
    add("right key, no limits of its own", signed(&signing, &account, &json!({}), &unlimited)?);
    add("right key, another kind of token", signed(&signing, &account, &json!({}), &json!({"type": "account"}))?);
    add("self-made account", signed(&own, &own.public_key(), &json!({}), &unlimited)?);
    add("self-made key for the mesh's account", signed(&own, &mesh, &json!({}), &unlimited)?);
    add("self-made key for the publisher's account", signed(&own, &account, &json!({}), &json!({}))?);
    add("self-made key for the system account", signed(&own, &system, &json!({}), &unlimited)?);
    let (jwt, seed) = (&publisher.jwt, Some(publisher.seed.clone()));
    let forged = |change: &dyn Fn(&mut Value)| -> Result<Proof> {
        Ok(Proof::Token { jwt: changed(jwt, change)?, seed: seed.clone() })
    };
    add("old signature, later end", forged(&|claims| claims["exp"] = json!(4_000_000_000_u64))?);
    add("old signature, account of the mesh", forged(&|claims| claims["nats"]["issuer_account"] = json!(mesh))?);
    add("old signature, wider permissions", forged(&|claims| claims["nats"]["pub"] = json!({"allow": [">"]}))?);
    add("old signature, needs no key", forged(&|claims| claims["nats"]["bearer_token"] = json!(true))?);
    add("algorithm none", Proof::Token { jwt: unsigned(jwt), seed: seed.clone() });
    add(
        "no signature",
        Proof::Token { jwt: jwt.rsplit_once('.').context("a token")?.0.to_owned() + ".", seed: seed.clone() },
    );
    add("another's token, own key", Proof::Token { jwt: world.auditor.jwt.clone(), seed: seed.clone() });
    add(
        "a key that was just made",
        Proof::Token { jwt: jwt.clone(), seed: Some(KeyPair::new_user().seed().map_err(|e| anyhow!("{e}"))?) },
    );
    add("token without the key", Proof::Token { jwt: jwt.clone(), seed: None });
    add("token of a party whose grant was taken away", proof(&world.former));
    if let Some(device) = &world.device {
        add("token for MQTT", Proof::Token { jwt: device.clone(), seed: None });
        add("token for MQTT as a shared secret", Proof::Secret(device.clone()));
        add("token for MQTT as a password", Proof::Password { user: "press-42".into(), password: device.clone() });
    }
    Ok(list)
}

/// All of them at all doors.
pub async fn run(world: &World) -> Result<Vec<Attempt>> {
    let doors: Vec<(&str, Door)> = [
        ("tokens", Speech::Nats),
        ("tokens over WebSocket", Speech::WebSocket),
        ("tokens as a leaf node", Speech::Leaf),
    ]
    .into_iter()
    .filter_map(|(name, speech)| Some((name, world.door(speech)?)))
    .collect();
    let mut attempts = Vec::new();
    let of_each = doors.iter().map(|(group, door)| at_door(world, group, door));
    for of_one in futures::future::try_join_all(of_each).await? {
        attempts.extend(of_one);
    }
    attempts.extend(at_the_other_mesh(world).await?);
    Ok(attempts)
}

/// All of them at one door.
async fn at_door(world: &World, group: &str, door: &Door) -> Result<Vec<Attempt>> {
    let tries = wrong(world).await?.into_iter().map(|one| async move {
        let (answer, succeeded) = outcome(door, &one.proof).await?;
        anyhow::Ok(Attempt { group: group.to_owned(), what: one.what, answer, succeeded })
    });
    let mut attempts: Vec<Attempt> = futures::stream::iter(tries).buffered(6).try_collect().await?;
    // Nobody may be a leaf node: brokers do not check what its acknowledgements are answered to.
    if door.speech == Speech::Leaf {
        for attacker in &world.attackers {
            let (answer, succeeded) = outcome(door, &attacker.proof()).await?;
            let what = format!("token of the {}", attacker.name);
            attempts.push(Attempt { group: group.to_owned(), what, answer, succeeded });
        }
    }
    Ok(attempts)
}

/// What lets one into this mesh, at another one.
async fn at_the_other_mesh(world: &World) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    if let Some(door) = world.other_door() {
        let everybody = world.attackers.iter().map(|one| (one.name, &one.login));
        for (name, login) in everybody
            .chain([("operator of this mesh", &world.operator), ("system account of this mesh", &world.system)])
        {
            let (answer, succeeded) = outcome(&door, &proof(login)).await?;
            attempts.push(Attempt {
                group: "tokens at the other mesh".into(),
                what: format!("token of the {name}"),
                answer,
                succeeded,
            });
        }
    }
    Ok(attempts)
}

/// Whether it is let in, and can do something then.
async fn outcome(door: &Door, proof: &Proof) -> Result<(String, bool)> {
    Ok(match door.enter(proof).await {
        Err(error) => (format!("{error:#}"), false),
        Ok(mut session) => {
            let publish = Publish { subject: "payments.token".into(), body: b"forged".to_vec(), ..Publish::default() };
            session.publish(&publish).await?;
            let heard = session.settle().await?;
            let refused =
                heard.iter().find_map(|one| if let Heard::Error(text) = one { Some(text.clone()) } else { None });
            (format!("let in, and payments: {}", refused.unwrap_or_else(|| "not refused".into())), true)
        }
    })
}

/// The right ones are let in.
pub async fn controls(world: &World) -> Result<usize> {
    let mut worked = 0;
    let door = world.door(Speech::Nats).context("a door")?;
    let (signing, account) = world.signing_key(&party(world)).await?;
    let made: Login = identity::user(&signing, &account, &json!({}), &json!({}))?;
    door.enter_surely(&proof(&made)).await.context("a token by the right key")?;
    worked += 1;
    for attacker in &world.attackers {
        for speech in [Speech::Nats, Speech::WebSocket] {
            if let Some(door) = world.door(speech) {
                door.enter_surely(&attacker.proof())
                    .await
                    .with_context(|| format!("{} at {speech:?}", attacker.name))?;
                worked += 1;
            }
        }
    }
    if let Some(door) = world.other_door() {
        door.enter_surely(&proof(&world.stranger)).await.context("the other mesh")?;
        worked += 1;
    }
    Ok(worked)
}
