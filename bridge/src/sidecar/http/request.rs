//! `POST /request/{subject}`: a question to whoever answers on a subject.

use std::time::Duration;

use async_nats::Message;
use hyper::StatusCode;
use hyper::body::Incoming as Body;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::answer::{self, Answer};
use super::query;
use super::send::{Call, NoAnswer};
use crate::endpoint::http::outgoing::encoded;
use crate::endpoint::http::problem::Problem;

const SOON: Duration = Duration::from_secs(1);
/// Headers that are HTTP's own: an answer has no say in them.
const NOT_THE_ANSWERS: [&str; 8] =
    ["connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// # Errors
/// What to answer.
pub async fn answer(call: &Call<'_>, body: &mut Body) -> Result<Answer, Problem> {
    let patience = query::patience(call.head.uri.query())?;
    let mesh = call.mesh().await?;
    let message = call.read(mesh, body).await?;
    match call.ask(mesh, message, patience).await {
        Ok(message) => Ok(answered(message)),
        Err(NoAnswer::Problem(problem)) => Err(problem),
        Err(NoAnswer::InTime) => {
            let detail = format!("nobody answered on `{}` within {} ms", call.subject, patience.as_millis());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
        }
        Err(NoAnswer::Nobody) => Err(Problem::unavailable(format!("nobody listens on `{}`", call.subject), SOON)),
        Err(NoAnswer::Lost) => {
            Err(Problem::unavailable("the connection to the mesh was lost before there was an answer", SOON))
        }
    }
}

fn answered(message: Message) -> Answer {
    let mut response = answer::empty(StatusCode::OK);
    for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
        let name = <async_nats::HeaderName as AsRef<str>>::as_ref(name).to_ascii_lowercase();
        for value in values {
            put(response.headers_mut(), &name, value.as_str());
        }
    }
    *response.body_mut() = message.payload.into();
    response
}

/// Attributes of CloudEvents are percent-encoded in HTTP, other headers are not.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if NOT_THE_ANSWERS.contains(&name) {
        return;
    }
    let value = if name.starts_with("ce-") { encoded(value) } else { value.to_owned() };
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
    {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_brings_its_headers_but_not_those_of_the_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("content-length", "7"), ("ce-subject", "a b"), ("shop", "7"), ("shop", "8"), ("a b", "x")]
        {
            put(&mut headers, name, value);
        }
        let found: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(found, [("ce-subject", "a%20b"), ("shop", "7"), ("shop", "8")]);
    }
}
