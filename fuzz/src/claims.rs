//! Tokens: what the operator reads of credentials that others could have written, and its record of who has which key.

use arbitrary::{Result, Unstructured};
use data_encoding::BASE64URL_NOPAD;
use eventmesh_operator::identity::{
    claims::{Account, Operator, User, read},
    record::Record,
};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use crate::input::disturb;

const TEXTS: [&str; 8] = ["user", "account", "operator", "ed25519-nkey", "-1", "AAAA", "user_scope", ""];

pub fn run(data: &[u8]) {
    check(&String::from_utf8_lossy(data));
    check_record(data);
    let _ = structured(&mut Unstructured::new(data));
}

/// Claims of any shape under a true signature: whoever has a key may sign what he likes.
fn structured(input: &mut Unstructured<'_>) -> Result<()> {
    let key = KeyPair::new_from_raw(KeyPairType::Account, [7; 32]).expect("a key");
    let mut claims = example(&key.public_key());
    disturb(input, &mut claims, &TEXTS)?;
    let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = key.sign(signed.as_bytes()).expect("signed");
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature));
    check(&token);
    if claims["iss"] == key.public_key() && read::<User>(&token).is_ok() {
        // Another signature is never taken for the same.
        let other = if token[signed.len() + 1..].starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{other}{}", &token[signed.len() + 2..]);
        assert!(read::<User>(&forged).is_err(), "a forged signature is taken");
    }
    Ok(())
}

fn check_record(data: &[u8]) {
    let Ok(record) = Record::read(data) else { return };
    assert!(Record::read(&record.write()).is_ok_and(|again| again == record), "a record changes by being kept");
}

fn check(token: &str) {
    let user = read::<User>(token);
    assert_eq!(read::<User>(token), user, "the same token reads differently");
    let _ = (read::<Account>(token), read::<Operator>(token));
}

fn example(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": "U", "jti": "J", "iat": 1, "exp": 2, "name": "client/c",
        "nats": {
            "type": "user", "version": 2, "issuer_account": "A", "pub": {"allow": ["a.>"]}, "sub": {"deny": ["b"]},
            "subs": -1, "limits": {"conn": 1}, "signing_keys": ["K", {"kind": "user_scope", "key": "K", "role": "r"}],
            "imports": [{"name": "i", "subject": "s", "account": "A", "type": "service"}],
        },
    })
}
