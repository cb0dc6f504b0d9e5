//! Answers, and what becomes of errors.

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::record::{LimitError, Version};
use crate::service::Error;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// In seconds. What makes a node busy or unavailable takes about so long to pass.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An answer that is not what was asked for: a status, and a sentence that says why.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: StatusCode,
    pub sentence: String,
    pub header: Option<(HeaderName, HeaderValue)>,
}

pub(super) type Answer = Result<Response, Refused>;

impl Refused {
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into(), header: None }
    }

    pub fn bad_request(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub fn missing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such key")
    }

    pub fn unauthorized() -> Self {
        let challenge = HeaderValue::from_static("Basic realm=\"overspill\"");
        let refused = Self::new(StatusCode::UNAUTHORIZED, "a password is needed, by Basic (user `default`) or Bearer");
        Self { header: Some((WWW_AUTHENTICATE, challenge)), ..refused }
    }

    /// A condition of a write did not hold; `current` is what the key has.
    pub fn condition_failed(current: Option<Version>) -> Self {
        let sentence = match current {
            Some(version) => format!("not stored: the key has the version {version}"),
            None => "not stored: there is no such key".to_owned(),
        };
        let header = current.and_then(etag).map(|etag| (ETAG, etag));
        Self { header, ..Self::new(StatusCode::PRECONDITION_FAILED, sentence) }
    }

    /// Nothing more is read from this connection: what was sent is too much, or too slow.
    pub fn and_close(self) -> Self {
        Self { header: Some((CONNECTION, HeaderValue::from_static("close"))), ..self }
    }
}

impl From<LimitError> for Refused {
    fn from(error: LimitError) -> Self {
        let status = match error {
            LimitError::ValueTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            LimitError::KeyEmpty | LimitError::KeyTooLong(_) | LimitError::TtlOutOfRange => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid(_) => StatusCode::BAD_REQUEST,
            Error::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::Unavailable(_) | Error::WrongShard { .. } | Error::ReplyTooLarge => StatusCode::SERVICE_UNAVAILABLE,
            Error::Unknown(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let header = error.is_retryable().then_some((RETRY_AFTER, RETRY_AFTER_SECONDS));
        Self { header, ..Self::new(status, error.to_string()) }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // Whatever an error quotes, it is one line.
        let line = self.sentence.replace(char::is_control, " ");
        let mut response = text(self.status, &line);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// For a person; a line break is put behind it.
pub(super) fn text(status: StatusCode, text: &str) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], format!("{text}\n")).into_response()
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body)
        .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("not to be told as JSON: {error}")))?;
    Ok(([(CONTENT_TYPE, JSON)], body).into_response())
}

/// Raw bytes of a value; caches on the way ask again whether it is still this version.
pub(super) fn value(bytes: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from(bytes)).into_response()
}

pub(super) fn empty(status: StatusCode) -> Response {
    status.into_response()
}

/// A version as an entity tag, as in `"1.42"`.
pub(super) fn etag(version: Version) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{version}\"")).ok()
}

pub(super) fn with_etag(mut response: Response, version: Version) -> Response {
    if let Some(etag) = etag(version) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}
