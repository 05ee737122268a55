//! Answers that are no problem.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

pub type Answer = Response<Full<Bytes>>;

#[must_use]
pub fn text(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.to_owned().into())
}

#[must_use]
pub fn json(status: StatusCode, text: impl Into<String>) -> Answer {
    answer(status, "application/json", text.into().into())
}

/// Two texts of metrics as one, which ends once.
#[must_use]
pub fn metrics(one: &str, other: &str) -> Answer {
    let text = format!("{}{other}", one.trim_end_matches("# EOF\n"));
    answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text.into())
}

#[must_use]
pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
