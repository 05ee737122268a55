//! A certificate that somebody else has made, in the layout `kubernetes.io/tls`: whether brokers can use it.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, jiff::Timestamp};

use super::{
    Facts, Pair,
    reading::{self, Doubt},
};

/// A certificate from outside that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    pub pair: Pair,
    /// What clients trust.
    pub authority: String,
    pub facts: Facts,
}

/// Why it cannot be used, and when time alone may change that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    pub message: String,
    pub look_again: Option<Timestamp>,
}

/// `host` is the name by which bridges and the operator reach the brokers.
///
/// # Errors
/// What is wrong, and what to do.
pub fn check(data: &BTreeMap<String, ByteString>, host: &str, now: Timestamp) -> Result<Outside, Unusable> {
    let unusable = |message: String| Unusable { message, look_again: None };
    let text = |key: &str| {
        let bytes = data.get(key).filter(|bytes| !bytes.0.is_empty());
        let bytes = bytes.ok_or_else(|| unusable(format!("key `{key}` is missing")))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| unusable(format!("key `{key}` is not PEM but binary")))
    };
    let (certificate, key) = (text("tls.crt")?, text("tls.key")?);
    let authority = text("ca.crt").map_err(|problem| Unusable {
        message: format!(
            "{}; put the certificate of the authority there, by which clients know the brokers",
            problem.message
        ),
        ..problem
    })?;
    let facts = reading::facts(&certificate).map_err(|problem| unusable(format!("key `tls.crt` {problem}")))?;
    reading::certificates(&authority).map_err(|problem| unusable(format!("key `ca.crt` {problem}")))?;
    reading::belong_together(&certificate, &key)
        .map_err(|problem| unusable(format!("keys `tls.crt` and `tls.key`: {problem}")))?;
    match reading::verify(&certificate, &authority, now) {
        Ok(()) => {}
        Err(Doubt::Expired) => {
            return Err(unusable(format!("the certificate has expired on {}; renew it", facts.not_after)));
        }
        Err(Doubt::NotYetValid) => {
            let message = format!("the certificate is not valid before {}; it is taken up then", facts.not_before);
            return Err(Unusable { message, look_again: Some(facts.not_before) });
        }
        Err(Doubt::UnknownAuthority) => {
            let message = "no authority in `ca.crt` has signed the certificate in `tls.crt`; put the one there that has, \
                           and intermediate certificates behind the first in `tls.crt`";
            return Err(unusable(message.to_owned()));
        }
        Err(Doubt::Other(problem)) => return Err(unusable(format!("the certificate does not hold: {problem}"))),
    }
    if !reading::is_for(&certificate, host) {
        let message = format!(
            "the certificate is not for {host}, by which bridges and the operator connect; add that DNS name to it"
        );
        return Err(unusable(message));
    }
    Ok(Outside { pair: Pair { certificate, key }, authority, facts })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{
        super::{
            Authority,
            tests::{POLICY, at},
        },
        *,
    };

    const HOST: &str = "retail-nats.platform.svc";

    fn secret(names: &[&str]) -> BTreeMap<String, ByteString> {
        let authority = Authority::generate("company", POLICY.authority, at(0)).expect("an authority");
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = authority.issue(&names, POLICY.leaf, at(0)).expect("a leaf");
        [("tls.crt", leaf.certificate), ("tls.key", leaf.key), ("ca.crt", authority.certificate)]
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
            .into()
    }

    #[test]
    fn a_good_one_is_taken_within_its_time() {
        let data = secret(&[HOST]);
        assert_eq!(check(&data, HOST, at(0)).expect("good").facts.not_after, at(3600));
        let late = check(&data, HOST, at(3601)).expect_err("expired");
        assert!(late.message.contains("has expired") && late.look_again.is_none(), "{late:?}");
        let early = check(&data, HOST, at(-400)).expect_err("early");
        assert!(early.message.contains("not valid before"), "{early:?}");
        assert_eq!(early.look_again, Some(at(-360)));
    }

    #[rstest]
    #[case("tls.crt", None, "`tls.crt` is missing")]
    #[case("tls.key", None, "`tls.key` is missing")]
    #[case("ca.crt", None, "`ca.crt` is missing; put")]
    #[case("ca.crt", Some(""), "`ca.crt` is missing")]
    #[case("tls.crt", Some("MIIB"), "`tls.crt` holds no certificate")]
    #[case("tls.key", Some("hunter2"), "private key cannot be read")]
    fn what_is_wrong_is_told(#[case] key: &str, #[case] text: Option<&str>, #[case] words: &str) {
        let mut data = secret(&[HOST]);
        match text {
            Some(text) => data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())),
            None => data.remove(key),
        };
        let problem = check(&data, HOST, at(0)).expect_err("unusable").message;
        assert!(problem.contains(words) && !problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn what_belongs_to_another_is_told() {
        for (key, words) in [("tls.key", "another certificate"), ("ca.crt", "no authority in `ca.crt`")] {
            let mut data = secret(&[HOST]);
            data.insert(key.to_owned(), secret(&[HOST])[key].clone());
            let problem = check(&data, HOST, at(0)).expect_err("mismatch").message;
            assert!(problem.contains(words), "{problem}");
        }
        let problem = check(&secret(&["broker.example"]), HOST, at(0)).expect_err("another name").message;
        assert!(problem.contains(HOST), "{problem}");
    }
}
