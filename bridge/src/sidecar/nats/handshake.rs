//! The words at the beginning of a NATS connection, translated: what the broker says to the application, and what the
//! application says to the broker. Pure; after them bytes are only carried.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::binding::User;

/// The longest line of an application. The broker's own limit of a control line, which holds for `CONNECT` too.
pub const LONGEST_CONNECT: usize = 4096;
/// The longest greeting of a broker; it names all others of a cluster.
pub const LONGEST_INFO: usize = 64 * 1024;

/// What of a broker's greeting is between it and the sidecar: the application is asked for no credentials, and must not go to
/// other brokers, to which it could not sign in.
const NOT_FOR_APPLICATIONS: [&str; 8] = [
    "auth_required",
    "tls_required",
    "tls_available",
    "tls_verify",
    "nonce",
    "connect_urls",
    "ws_connect_urls",
    "client_ip",
];
/// What an application may say of itself and only the sidecar can know.
const NOT_FOR_BROKERS: [&str; 7] = ["user", "pass", "auth_token", "jwt", "nkey", "sig", "tls_required"];

/// What the sidecar itself reads of a broker's greeting.
#[derive(Deserialize, Debug, Default, PartialEq, Eq)]
pub struct Told {
    #[serde(default)]
    pub tls_required: bool,
    #[serde(default)]
    pub tls_available: bool,
    #[serde(default)]
    pub nonce: String,
}

/// A broker's greeting.
#[derive(Debug)]
pub struct Info {
    pub told: Told,
    members: Map<String, Value>,
}

impl Info {
    /// Reads the line `INFO {…}`, without its end.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let Value::Object(members) = serde_json::from_slice(argument(line, b"INFO")?).ok()? else { return None };
        let told = Told::deserialize(&Value::Object(members.clone())).ok()?;
        Some(Self { told, members })
    }

    /// The greeting as the application gets it.
    #[must_use]
    pub fn for_application(mut self) -> Vec<u8> {
        for name in NOT_FOR_APPLICATIONS {
            self.members.remove(name);
        }
        format!("INFO {}\r\n", Value::Object(self.members)).into_bytes()
    }
}

/// The application's `CONNECT` as the broker gets it, followed by a `PING`, whose answer tells that the broker has let it in.
///
/// # Errors
/// What to answer instead, in the broker's own words.
pub fn connect(line: &[u8], user: &User, nonce: &str) -> Result<Vec<u8>, &'static str> {
    let argument = argument(line, b"CONNECT").ok_or("Unknown Protocol Operation")?;
    let Ok(Value::Object(mut options)) = serde_json::from_slice(argument) else { return Err("Parser Error") };
    for name in NOT_FOR_BROKERS {
        options.remove(name);
    }
    options.insert("jwt".to_owned(), json!(user.jwt));
    let signature = user.key.sign(nonce.as_bytes()).map_err(|_| "Authorization Violation")?;
    options.insert("sig".to_owned(), json!(BASE64URL_NOPAD.encode(&signature)));
    // With 1 a broker may send INFO at any time, and in it what is not for applications.
    options.insert("protocol".to_owned(), json!(0));
    Ok(format!("CONNECT {}\r\nPING\r\n", Value::Object(options)).into_bytes())
}

/// What follows the operation at the beginning of a line; its case does not matter.
fn argument<'l>(line: &'l [u8], operation: &[u8]) -> Option<&'l [u8]> {
    let (start, rest) = line.split_at_checked(operation.len())?;
    let spaced = rest.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    (start.eq_ignore_ascii_case(operation) && spaced).then(|| rest.trim_ascii())
}

/// What a broker answers to `CONNECT` and `PING`.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has let the application in.
    Welcome,
    /// A line that the application shall have, such as the `+OK` of verbose clients.
    Pass,
    /// It is about what the application said, which shall have it.
    Wrong(String),
    /// The broker does not want whom the sidecar says the application is. Of no use to the application: it gave no
    /// credentials, and libraries give up for good when theirs are refused.
    Refused(String),
}

/// What brokers say that is about the account or the credentials, in small letters.
const REFUSALS: [&str; 7] = [
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "authentication timeout",
    "account authentication expired",
    "maximum account active connections exceeded",
    "maximum connections exceeded",
];

/// Judges one line, without its end.
#[must_use]
pub fn judge(line: &[u8]) -> Verdict {
    if line.eq_ignore_ascii_case(b"PONG") {
        return Verdict::Welcome;
    }
    let Some(said) = argument(line, b"-ERR") else { return Verdict::Pass };
    let said = String::from_utf8_lossy(said).trim_matches('\'').to_owned();
    let lower = said.to_lowercase();
    if REFUSALS.iter().any(|words| lower.contains(words)) { Verdict::Refused(said) } else { Verdict::Wrong(said) }
}

#[cfg(test)]
mod tests {
    use nkeys::KeyPair;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn user() -> User {
        User { jwt: "token".to_owned(), key: KeyPair::new_user() }
    }

    fn sent(text: &[u8]) -> Value {
        let text = std::str::from_utf8(text).unwrap();
        let line = text.strip_suffix("\r\nPING\r\n").unwrap();
        serde_json::from_str(line.strip_prefix("CONNECT ").unwrap()).unwrap()
    }

    #[test]
    fn the_application_sees_a_broker_that_asks_for_nothing() {
        let line = br#"INFO {"server_id":"S","max_payload":7,"headers":true,"auth_required":true,"tls_required":true,"nonce":"n","connect_urls":["a:1"],"client_ip":"1.2.3.4","jetstream":true} "#;
        let info = Info::read(line).unwrap();
        assert_eq!(info.told, Told { tls_required: true, tls_available: false, nonce: "n".to_owned() });
        let text = String::from_utf8(info.for_application()).unwrap();
        let told: Value = serde_json::from_str(text.strip_prefix("INFO ").unwrap()).unwrap();
        assert_eq!(told, json!({"server_id": "S", "max_payload": 7, "headers": true, "jetstream": true}));
        assert!(text.ends_with("}\r\n"));
    }

    #[test]
    fn the_broker_sees_the_applications_options_and_the_sidecars_credentials() {
        let user = user();
        let line = br#"connect {"verbose":true,"pedantic":true,"echo":false,"headers":true,"no_responders":true,"name":"app","lang":"go","version":"1","protocol":1,"user":"u","pass":"p","auth_token":"t","jwt":"j","nkey":"k","sig":"s","tls_required":true}"#;
        let sent = sent(&connect(line, &user, "nonce").unwrap());
        let signature = BASE64URL_NOPAD.decode(sent["sig"].as_str().unwrap().as_bytes()).unwrap();
        user.key.verify(b"nonce", &signature).unwrap();
        let mut kept = sent.clone();
        kept.as_object_mut().unwrap().remove("sig");
        assert_eq!(
            kept,
            json!({"verbose": true, "pedantic": true, "echo": false, "headers": true, "no_responders": true, "name": "app",
                "lang": "go", "version": "1", "protocol": 0, "jwt": "token"})
        );
    }

    #[rstest]
    #[case("GET / HTTP/1.1", "Unknown Protocol Operation")]
    #[case("PING", "Unknown Protocol Operation")]
    #[case("CONNECT", "Unknown Protocol Operation")]
    #[case("CONNECT {", "Parser Error")]
    #[case("CONNECT []", "Parser Error")]
    fn what_is_no_connect_is_answered_as_a_broker_does(#[case] line: &str, #[case] answer: &str) {
        assert_eq!(connect(line.as_bytes(), &user(), "n"), Err(answer));
    }

    #[rstest]
    #[case("PONG", Verdict::Welcome)]
    #[case("+OK", Verdict::Pass)]
    #[case("PING", Verdict::Pass)]
    #[case("-ERR 'No Responders Requires Headers Support'", Verdict::Wrong("No Responders Requires Headers Support".to_owned()))]
    #[case("-ERR 'Authorization Violation'", Verdict::Refused("Authorization Violation".to_owned()))]
    #[case("-ERR 'maximum account active connections exceeded'", Verdict::Refused("maximum account active connections exceeded".to_owned()))]
    fn answers_are_told_apart(#[case] line: &str, #[case] verdict: Verdict) {
        assert_eq!(judge(line.as_bytes()), verdict);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200), json in ".{0,60}") {
            for line in [line, format!("CONNECT {json}").into_bytes(), format!("INFO {json}").into_bytes()] {
                let _ = (connect(&line, &user(), "n"), Info::read(&line), judge(&line));
            }
        }
    }
}
