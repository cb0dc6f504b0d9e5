//! `/v1/kv/KEY`: raw values, with their versions as entity tags.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;

use super::answer::{Answer, Refused, empty, value, with_etag};
use super::request::{self, TTL_HEADER, ttl_left};
use super::{Peer, ask, hold, unexpected};
use crate::command::{Command, Found, Reply};
use crate::doors::Door;
use crate::record::{Key, VALUE_BYTES_MAX, Value};
use crate::rpc::answers::Held;
use crate::service::Service;

const PREFIX: &str = "/v1/kv/";

/// GET and HEAD.
pub(super) async fn read<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let key = request::key(&uri, PREFIX)?;
    let (if_match, if_none_match) = (request::if_match(&headers)?, request::if_none_match(&headers)?);
    let (found, held) = find(&door, &peer, key).await?;
    if if_match.is_some_and(|tags| !tags.matches(found.version)) {
        return Err(Refused::condition_failed(Some(found.version)));
    }
    let mut response = if if_none_match.is_some_and(|tags| tags.matches(found.version)) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        value(counted(found.value.into(), held))
    };
    let left = found.expires_at.and_then(|at| ttl_left(at.since(door.clock.now())));
    if let Some(left) = left {
        response.headers_mut().insert(TTL_HEADER, left);
    }
    Ok(with_etag(response, found.version))
}

/// What a key is, and the room that its value takes.
pub(super) async fn find<S: Service, M: Send + Sync + 'static>(
    door: &Arc<Door<S, M>>,
    peer: &Peer,
    key: Key,
) -> Result<(Found, Held), Refused> {
    let begun = peer.begin().await?;
    match ask(door, peer, Command::Get { key }).await? {
        Reply::Found(Some(found)) => {
            let held = hold(begun, found.value.as_bytes().len())?;
            Ok((found, held))
        }
        Reply::Found(None) => Err(Refused::missing()),
        _ => Err(unexpected()),
    }
}

/// Bytes that take their room until they are written.
pub(super) fn counted(bytes: Bytes, held: Held) -> Bytes {
    struct Counted {
        bytes: Bytes,
        _held: Held,
    }
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    if held.bytes() == 0 { bytes } else { Bytes::from_owner(Counted { bytes, _held: held }) }
}

/// PUT.
pub(super) async fn write<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let key = request::key(&uri, PREFIX)?;
    let (ttl, condition) = (request::ttl(&headers)?, request::condition(&headers)?);
    let body = read_body(&door, &peer, &headers, body, VALUE_BYTES_MAX).await?;
    let command = Command::Put { key, value: Value::new(body)?, ttl, condition };
    match ask(&door, &peer, command).await? {
        Reply::Stored(version) => Ok(with_etag(empty(StatusCode::NO_CONTENT), version)),
        Reply::Conflict(current) => Err(Refused::condition_failed(current)),
        _ => Err(unexpected()),
    }
}

pub(super) async fn read_body<S, M>(
    door: &Door<S, M>,
    peer: &Peer,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Refused> {
    let read = request::body(headers, body, bytes_max, door.options.stall_max).await;
    // Relaxed: one task serves the connection.
    read.inspect_err(|_| peer.is_cut_short.store(true, Ordering::Relaxed))
}

/// DELETE.
pub(super) async fn delete<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let key = request::key(&uri, PREFIX)?;
    if request::if_match(&headers)?.is_some() || request::if_none_match(&headers)?.is_some() {
        return Err(Refused::bad_request("a DELETE takes no condition: it would not be kept"));
    }
    match ask(&door, &peer, Command::Delete { key }).await? {
        Reply::Done(true) => Ok(empty(StatusCode::NO_CONTENT)),
        Reply::Done(false) => Err(Refused::missing()),
        _ => Err(unexpected()),
    }
}
