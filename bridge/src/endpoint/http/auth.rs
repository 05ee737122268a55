//! Who may send: what a listener asks of each request.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use eventmesh_wire::config::http::HttpAuthentication;
use eventmesh_wire::secret::Secret;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};
use ring::hmac;

use super::problem::Problem;
use super::signature::{self, Passwords};

/// What is asked for, ready to be compared with.
pub enum Guard {
    Open,
    Bearer(Passwords),
    /// User name and password as one text, `user:password`.
    Basic(Passwords),
    StandardWebhooks(Vec<hmac::Key>),
    Github(Vec<hmac::Key>),
}

impl Guard {
    #[must_use]
    pub fn new(authentication: &HttpAuthentication) -> Self {
        let exposed = |secret: &Secret| secret.expose().to_owned();
        match authentication {
            HttpAuthentication::None {} => Self::Open,
            HttpAuthentication::Bearer { tokens } => Self::Bearer(Passwords::new(tokens.iter().map(exposed))),
            HttpAuthentication::Basic { username, passwords } => {
                Self::Basic(Passwords::new(passwords.iter().map(|one| format!("{username}:{}", one.expose()))))
            }
            HttpAuthentication::StandardWebhooks { secrets } => {
                Self::StandardWebhooks(signature::webhook_keys(secrets))
            }
            HttpAuthentication::Github { secrets } => Self::Github(signature::plain_keys(secrets)),
        }
    }

    /// Judges what the head of a request tells, before a byte of its body is read.
    ///
    /// # Errors
    /// What to answer.
    pub fn check_head(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Self::Open | Self::StandardWebhooks(_) | Self::Github(_) => Ok(()),
            Self::Bearer(tokens) => {
                let refuse = |text: &str| Problem::unauthorized(text, "Bearer");
                let token =
                    credentials(headers, "bearer").ok_or_else(|| refuse("send Authorization: Bearer <token>"))?;
                if tokens.know(token) { Ok(()) } else { Err(refuse("the token is not known")) }
            }
            Self::Basic(users) => {
                let refuse = |text: &str| Problem::unauthorized(text, "Basic");
                let given = credentials(headers, "basic").ok_or_else(|| refuse("send Authorization: Basic …"))?;
                let user = BASE64.decode(given.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let known = user.is_some_and(|user| users.know(&user));
                if known { Ok(()) } else { Err(refuse("user name or password are not known")) }
            }
        }
    }

    /// Judges the signature of a request.
    ///
    /// # Errors
    /// What to answer.
    pub fn check_body(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let judged = match self {
            Self::Open | Self::Bearer(_) | Self::Basic(_) => return Ok(()),
            Self::StandardWebhooks(keys) => {
                let signed = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                signature::verify_webhook(keys, signed, body, now)
            }
            Self::Github(keys) => signature::verify_github(keys, header("x-hub-signature-256"), body),
        };
        judged.map_err(|refusal| Problem::new(StatusCode::FORBIDDEN, refusal.text()))
    }
}

/// What follows the scheme in the one `Authorization` header.
fn credentials<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (given, rest) = value.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn status(authentication: Value, authorization: &[&'static str]) -> u16 {
        let guard = Guard::new(&serde_json::from_value(authentication).unwrap());
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        guard.check_head(&headers).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[rstest]
    #[case(&["Bearer one"], 200)]
    #[case(&["bearer  two"], 200)]
    #[case(&["Bearer three"], 401)]
    #[case(&["Basic one"], 401)]
    #[case(&["Bearer"], 401)]
    #[case(&["Bearer one", "Bearer two"], 401)]
    #[case(&[], 401)]
    fn bearer(#[case] authorization: &[&'static str], #[case] expected: u16) {
        assert_eq!(status(json!({"bearer": {"tokens": ["one", "two"]}}), authorization), expected);
    }

    #[rstest]
    #[case(&["Basic dTpwMQ=="], 200)]
    #[case(&["Basic dTpwMg=="], 200)]
    #[case(&["Basic dTpwMw=="], 401)]
    #[case(&["Basic djpwMQ=="], 401)]
    #[case(&["Basic !"], 401)]
    #[case(&[], 401)]
    fn basic(#[case] authorization: &[&'static str], #[case] expected: u16) {
        assert_eq!(status(json!({"basic": {"username": "u", "passwords": ["p1", "p2"]}}), authorization), expected);
    }

    #[test]
    fn nothing_is_asked_of_anyone_only_when_it_is_said() {
        assert_eq!(status(json!({"none": {}}), &[]), 200);
    }
}
