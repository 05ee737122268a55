//! What a request is answered that is not taken: a status, and a problem document (RFC 9457) for the reader.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::retry_after;

/// Methods that carry events.
pub const METHODS: &str = "POST, PUT";

/// An answer to a request that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    header: Option<(HeaderName, String)>,
    close: bool,
}

impl Problem {
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, close: false }
    }

    /// The answer has this header too.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    /// The connection ends with the answer: what is left of the request is not read.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same request may be taken later.
    pub fn unavailable(detail: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, retry_after::seconds(after).to_string())
    }

    pub fn too_many(after: Duration) -> Self {
        let detail = "more events than the rate limit of this listener allows";
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).with(RETRY_AFTER, retry_after::seconds(after).to_string())
    }

    /// `scheme` is what the listener asks for.
    pub fn unauthorized(detail: impl Into<String>, scheme: &'static str) -> Self {
        let challenge = format!("{scheme} realm=\"events\"");
        Self::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, challenge)
    }

    pub fn method_not_allowed() -> Self {
        let detail = "events come by POST or PUT";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(ALLOW, METHODS)
    }

    pub fn too_large(most: usize) -> Self {
        let detail = format!("the body is larger than the {most} bytes that are taken");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail).and_close()
    }

    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    #[must_use]
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Full::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(name, value);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
