//! Signed requests: Standard Webhooks in both directions, and GitHub's form to be verified.
//!
//! The HMAC is that of `ring`, which TLS brings along anyway; its `verify` takes the same time whatever differs.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use eventmesh_wire::config::http::webhook_key;
use eventmesh_wire::secret::Secret;
use ring::hmac;

/// How far the clock of a sender may be off, in seconds: what Standard Webhooks recommends.
const TOLERANCE: u64 = 5 * 60;

/// Why a signature is not believed. The text goes to the sender, so it tells nothing that helps to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header is missing, or says nothing readable.
    Missing(&'static str),
    /// Signed too long ago, or in the future.
    Stale,
    Wrong,
}

impl Refusal {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing(text) => text,
            Self::Stale => "webhook-timestamp is more than five minutes away from the time of this server",
            Self::Wrong => "no signature of this request is that of a known secret",
        }
    }
}

/// The keys of Standard Webhooks secrets. What `validate` would have refused is no key.
#[must_use]
pub fn webhook_keys(secrets: &[Secret]) -> Vec<hmac::Key> {
    let keys = secrets.iter().filter_map(|secret| webhook_key(secret).ok());
    keys.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)).collect()
}

/// The keys of secrets that are used as they are.
#[must_use]
pub fn plain_keys(secrets: &[Secret]) -> Vec<hmac::Key> {
    secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())).collect()
}

/// The value of `webhook-signature`: one signature a key.
#[must_use]
pub fn sign(keys: &[hmac::Key], id: &str, timestamp: u64, body: &[u8]) -> String {
    let content = signed_content(id, &timestamp.to_string(), body);
    let each = keys.iter().map(|key| format!("v1,{}", BASE64.encode(hmac::sign(key, &content).as_ref())));
    each.collect::<Vec<_>>().join(" ")
}

/// Verifies the three headers of Standard Webhooks; `now` in seconds since 1970.
///
/// # Errors
/// Why the request is not to be believed.
pub fn verify_webhook(
    keys: &[hmac::Key],
    (id, timestamp, signatures): (Option<&str>, Option<&str>, Option<&str>),
    body: &[u8],
    now: u64,
) -> Result<(), Refusal> {
    let id = id.filter(|id| !id.is_empty()).ok_or(Refusal::Missing("the header webhook-id is missing"))?;
    let timestamp = timestamp.ok_or(Refusal::Missing("the header webhook-timestamp is missing"))?;
    let signatures = signatures.ok_or(Refusal::Missing("the header webhook-signature is missing"))?;
    let seconds: u64 = timestamp.parse().map_err(|_| Refusal::Missing("webhook-timestamp is no number of seconds"))?;
    if now.abs_diff(seconds) > TOLERANCE {
        return Err(Refusal::Stale);
    }
    let content = signed_content(id, timestamp, body);
    // Other versions (`v1a`, asymmetric) may stand beside; a sender that rotates its secret sends several.
    let candidates = signatures.split(' ').take(MOST_SIGNATURES).filter_map(|one| one.strip_prefix("v1,"));
    for tag in candidates.filter_map(|text| BASE64.decode(text.as_bytes()).ok()) {
        if is_of_any(keys, &content, &tag) {
            return Ok(());
        }
    }
    Err(Refusal::Wrong)
}

/// Each costs a pass over the body for each secret.
const MOST_SIGNATURES: usize = 8;

/// Verifies `X-Hub-Signature-256`.
///
/// # Errors
/// Why the request is not to be believed.
pub fn verify_github(keys: &[hmac::Key], signature: Option<&str>, body: &[u8]) -> Result<(), Refusal> {
    let hex = signature.and_then(|value| value.strip_prefix("sha256="));
    let hex = hex.ok_or(Refusal::Missing("the header X-Hub-Signature-256 with sha256=<hex> is missing"))?;
    let tag = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| Refusal::Wrong)?;
    if is_of_any(keys, body, &tag) { Ok(()) } else { Err(Refusal::Wrong) }
}

/// Tries every key, so that the time tells nothing of which one it was.
fn is_of_any(keys: &[hmac::Key], content: &[u8], tag: &[u8]) -> bool {
    keys.iter().fold(false, |found, key| hmac::verify(key, content, tag).is_ok() | found)
}

fn signed_content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

/// Values that are compared as a whole: tokens and passwords. Kept as HMACs under a key of this process, so that a
/// comparison takes the same time whatever differs, the length too.
pub struct Passwords {
    key: hmac::Key,
    known: Vec<hmac::Tag>,
}

impl Passwords {
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = String>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let known = values.into_iter().map(|value| hmac::sign(&key, value.as_bytes())).collect();
        Self { key, known }
    }

    #[must_use]
    pub fn know(&self, value: &str) -> bool {
        let known = |tag: &hmac::Tag| hmac::verify(&self.key, value.as_bytes(), tag.as_ref()).is_ok();
        self.known.iter().fold(false, |found, tag| known(tag) | found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// The example of the specification and of its reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const AT: u64 = 1_614_265_330;

    fn keys(secrets: &[&str]) -> Vec<hmac::Key> {
        webhook_keys(&secrets.iter().map(|secret| Secret::from(*secret)).collect::<Vec<_>>())
    }

    fn verify(signature: &str, now: u64) -> Result<(), Refusal> {
        verify_webhook(&keys(&[SECRET]), (Some(ID), Some("1614265330"), Some(signature)), BODY, now)
    }

    #[test]
    fn the_example_of_the_specification_is_signed_and_verified() {
        assert_eq!(sign(&keys(&[SECRET]), ID, AT, BODY), SIGNED);
        assert_eq!(verify(SIGNED, AT), Ok(()));
        assert_eq!(verify(&format!("v1a,AAAA v1,AAAA {SIGNED}"), AT), Ok(()), "one of several is enough");
    }

    #[rstest]
    #[case(SIGNED, AT + TOLERANCE, Ok(()))]
    #[case(SIGNED, AT + TOLERANCE + 1, Err(Refusal::Stale))]
    #[case(SIGNED, AT - TOLERANCE - 1, Err(Refusal::Stale))]
    #[case("v1,AAAA", AT, Err(Refusal::Wrong))]
    #[case("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", AT, Err(Refusal::Wrong))]
    #[case("", AT, Err(Refusal::Wrong))]
    fn times_and_versions(#[case] signature: &str, #[case] now: u64, #[case] expected: Result<(), Refusal>) {
        assert_eq!(verify(signature, now), expected);
    }

    #[test]
    fn while_a_secret_is_exchanged_both_are_good() {
        let next = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        for secret in [SECRET, next] {
            let signed = sign(&keys(&[secret]), ID, AT, BODY);
            let headers = (Some(ID), Some("1614265330"), Some(signed.as_str()));
            assert_eq!(verify_webhook(&keys(&[SECRET, next]), headers, BODY, AT), Ok(()));
        }
    }

    /// The example of GitHub's documentation.
    #[rstest]
    #[case("sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", Ok(()))]
    #[case("sha256=757107EA0EB2509FC211221CCE984B8A37570B6D7586C22C46F4379C8B043E17", Ok(()))]
    #[case("sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e18", Err(Refusal::Wrong))]
    #[case("sha256=7571", Err(Refusal::Wrong))]
    #[case("sha256=xx", Err(Refusal::Wrong))]
    fn github(#[case] signature: &str, #[case] expected: Result<(), Refusal>) {
        let keys = plain_keys(&["It's a Secret to Everybody".into()]);
        assert_eq!(verify_github(&keys, Some(signature), b"Hello, World!"), expected);
    }

    #[test]
    fn github_without_a_signature() {
        assert!(matches!(verify_github(&[], None, b""), Err(Refusal::Missing(_))));
        assert!(matches!(verify_github(&[], Some("sha1=00"), b""), Err(Refusal::Missing(_))));
    }

    #[test]
    fn passwords_are_known_as_a_whole() {
        let known = Passwords::new(["one".to_owned(), "another".to_owned()]);
        assert!(known.know("one") && known.know("another"));
        assert!(!known.know("on") && !known.know("one ") && !known.know(""));
    }

    proptest! {
        #[test]
        fn what_is_signed_is_verified_and_nothing_else(
            id in "[!-~]{1,40}", body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<u32>(), flip in any::<usize>(),
        ) {
            let (keys, at) = (keys(&[SECRET]), u64::from(at));
            let (signed, time) = (sign(&keys, &id, at, &body), at.to_string());
            let verify = |body: &[u8]| verify_webhook(&keys, (Some(&id), Some(&time), Some(&signed)), body, at);
            prop_assert_eq!(verify(&body), Ok(()));
            let mut other = body.clone();
            match other.len() {
                0 => other.push(0),
                length => other[flip % length] ^= 1,
            }
            prop_assert_eq!(verify(&other), Err(Refusal::Wrong));
        }

        #[test]
        fn any_headers_are_judged(id in ".*", time in ".*", signature in ".*", body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let keys = keys(&[SECRET]);
            prop_assert!(verify_webhook(&keys, (Some(&id), Some(&time), Some(&signature)), &body, 0).is_err());
            prop_assert!(verify_github(&keys, Some(&signature), &body).is_err());
        }
    }
}
