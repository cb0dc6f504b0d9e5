//! `/store/set` and `/store/get/KEY`: two routes that others had before, kept as they were. Keys and values are text here.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Refused, json};
use super::kv::{counted, find, read_body};
use super::{Peer, ask, request, unexpected};
use crate::command::{Command, Condition, Reply};
use crate::doors::Door;
use crate::record::{Key, VALUE_BYTES_MAX, Value};
use crate::service::Service;

/// A value of which every second byte is escaped; one that is longer as JSON goes to `/v1/kv`.
const BODY_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;

#[derive(Debug, Serialize, Deserialize)]
struct Pair {
    key: String,
    value: String,
}

/// POST. Whatever content type it has: `curl -d` says that it is a form.
pub(super) async fn set<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let body = read_body(&door, &peer, &headers, body, BODY_BYTES_MAX).await?;
    let pair: Pair = serde_json::from_slice(&body)
        .map_err(|error| Refused::bad_request(format!("expected {{\"key\":…,\"value\":…}}: {error}")))?;
    let (key, value) = (Key::new(pair.key.clone())?, Value::new(pair.value.clone())?);
    match ask(&door, &peer, Command::Put { key, value, ttl: None, condition: Condition::Always }).await? {
        Reply::Stored(_) => json(&pair),
        _ => Err(unexpected()),
    }
}

pub(super) async fn get<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
    uri: Uri,
) -> Answer {
    let key = request::key(&uri, "/store/get/")?;
    let not_text = |what: &str| {
        let sentence = format!("the {what} is not text, as JSON must be: use /v1/kv");
        Refused::new(StatusCode::NOT_ACCEPTABLE, sentence)
    };
    let name = String::from_utf8(key.as_bytes().to_vec()).map_err(|_| not_text("key"))?;
    let (found, held) = find(&door, &peer, key).await?;
    let bytes = counted(found.value.into(), held);
    let value = String::from_utf8(bytes.to_vec()).map_err(|_| not_text("value"))?;
    json(&Pair { key: name, value })
}
