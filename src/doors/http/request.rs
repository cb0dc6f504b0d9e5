//! What requests say: keys in paths, conditions and times to live in headers, and bodies.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use bytes::BytesMut;
use futures::StreamExt;
use tokio::time::timeout;

use super::answer::Refused;
use crate::command::Condition;
use crate::record::{Key, Ttl, Version};

/// The time to live to give, or the one that is left.
pub(super) const TTL_HEADER: HeaderName = HeaderName::from_static("overspill-ttl");

/// The key behind a prefix of the path: any bytes, as `%xx` where they must be. Slashes belong to it.
pub(super) fn key(uri: &Uri, prefix: &str) -> Result<Key, Refused> {
    if uri.query().is_some() {
        return Err(Refused::bad_request("there is no query here: write a `?` of a key as %3F"));
    }
    let raw = uri.path().strip_prefix(prefix).unwrap_or_default();
    let Some(bytes) = decode(raw.as_bytes()) else {
        return Err(Refused::bad_request("the key is not well encoded: a `%` stands before two hexadecimal digits"));
    };
    Ok(Key::new(bytes)?)
}

fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

/// Passwords may have more letters than ASCII.
pub(super) fn authorization(headers: &HeaderMap) -> Option<&str> {
    std::str::from_utf8(headers.get(AUTHORIZATION)?.as_bytes()).ok()
}

/// Entity tags of a condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: any that there is.
    Any,
    /// Those that are versions of ours; others match nothing.
    These(Vec<Version>),
}

impl Tags {
    /// `None` without the header.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Refused> {
        let mut versions = Vec::new();
        let mut is_there = false;
        for value in headers.get_all(name) {
            is_there = true;
            let value = value.to_str().map_err(|_| Refused::bad_request(format!("{name} is not text")))?;
            for tag in value.split(',').map(str::trim) {
                if tag == "*" {
                    return Ok(Some(Self::Any));
                }
                versions.extend(version(tag));
            }
        }
        Ok(is_there.then_some(Self::These(versions)))
    }

    pub fn matches(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::These(versions) => versions.contains(&version),
        }
    }
}

/// Of `"1.42"`; what is weak may come back from a proxy that compressed.
fn version(tag: &str) -> Option<Version> {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Tags>, Refused> {
    Tags::of(headers, &IF_MATCH)
}

pub(super) fn if_none_match(headers: &HeaderMap) -> Result<Option<Tags>, Refused> {
    Tags::of(headers, &IF_NONE_MATCH)
}

/// What a write asks for, in the terms of [`Condition`].
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Refused> {
    match (if_match(headers)?, if_none_match(headers)?) {
        (None, None) => Ok(Condition::Always),
        (None, Some(Tags::Any)) => Ok(Condition::Absent),
        (Some(Tags::These(versions)), None) => match versions.as_slice() {
            [version] => Ok(Condition::Version(*version)),
            _ => Err(Refused::bad_request("If-Match takes one version on a write, as in \"1.42\"")),
        },
        (Some(Tags::Any), None) => {
            Err(Refused::bad_request("If-Match: * is not supported on a write: name the version"))
        }
        (None, Some(Tags::These(_))) => {
            Err(Refused::bad_request("If-None-Match takes * on a write: store only if there is no such key"))
        }
        (Some(_), Some(_)) => Err(Refused::bad_request("either If-Match or If-None-Match, not both")),
    }
}

/// Whole seconds, or a number with a unit as in `1500ms`, `30s`, `1h 30m`.
pub(super) fn ttl(headers: &HeaderMap) -> Result<Option<Ttl>, Refused> {
    let Some(value) = headers.get(TTL_HEADER) else { return Ok(None) };
    let malformed = || Refused::bad_request("Overspill-TTL takes seconds, or a time as in 1500ms, 30s or 1h 30m");
    let text = value.to_str().map_err(|_| malformed())?.trim();
    let seconds = text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let duration = match seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => humantime::parse_duration(text).map_err(|_| malformed())?,
    };
    // Beyond it is out of range as well.
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Some(Ttl::from_millis(ms)?))
}

/// The header that tells what is left to live; a write takes it as it is.
pub(super) fn ttl_left(left: Duration) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("{}ms", left.as_millis().max(1))).ok()
}

/// Reads a body of at most `bytes_max`; no memory is taken by what a header says. `stall_max` without a byte is too long.
pub(super) async fn body(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    stall_max: Duration,
) -> Result<Bytes, Refused> {
    let too_large = || {
        let sentence = format!("the body is too long: at most {bytes_max} bytes are allowed");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, sentence).and_close()
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > bytes_max as u64) {
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    loop {
        let next = timeout(stall_max, chunks.next()).await.map_err(|_| {
            Refused::new(StatusCode::REQUEST_TIMEOUT, "the rest of the body did not come in time").and_close()
        })?;
        let Some(chunk) = next else { break };
        let chunk =
            chunk.map_err(|error| Refused::bad_request(format!("the body can't be read: {error}")).and_close())?;
        if first.len() + more.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        if first.is_empty() {
            first = chunk; // most often the only one: not copied
        } else {
            more.extend_from_slice(&chunk);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::LimitError;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn keys_are_any_bytes() {
        let read = |path: &str| key(&path.parse().unwrap(), "/v1/kv/").map(|key| key.as_bytes().to_vec());
        for (path, expected) in [
            ("/v1/kv/a", &b"a"[..]),
            ("/v1/kv/a/b//c/", b"a/b//c/"),
            ("/v1/kv/%00%fF%20", b"\x00\xff "),
            ("/v1/kv/a+b", b"a+b"),
            ("/v1/kv/%25", b"%"),
            ("/v1/kv/../x", b"../x"),
        ] {
            assert_eq!(read(path).unwrap(), expected, "{path}");
        }
        for path in ["/v1/kv/%", "/v1/kv/%f", "/v1/kv/%fg", "/v1/kv/%+1", "/v1/kv/", "/v1/kv/a?b", "/v1/kv/a?"] {
            assert_eq!(read(path).unwrap_err().status, StatusCode::BAD_REQUEST, "{path}");
        }
        assert_eq!(read(&format!("/v1/kv/{}", "%61".repeat(1024))).unwrap().len(), 1024);
        assert!(read(&format!("/v1/kv/{}", "a".repeat(1025))).is_err());
    }

    #[test]
    fn conditions_of_writes_are_those_that_can_be_kept() {
        let of = |pairs: &[(&'static str, &str)]| condition(&headers(pairs));
        let version = Version::new(1, 42);
        assert_eq!(of(&[]).unwrap(), Condition::Always);
        assert_eq!(of(&[("if-none-match", " * ")]).unwrap(), Condition::Absent);
        assert_eq!(of(&[("if-match", "\"1.42\"")]).unwrap(), Condition::Version(version));
        for refused in [
            &[("if-match", "*")][..],
            &[("if-match", "1.42")],
            &[("if-match", "\"x\"")],
            &[("if-match", "\"1.42\", \"1.43\"")],
            &[("if-none-match", "\"1.42\"")],
            &[("if-match", "\"1.42\""), ("if-none-match", "*")],
        ] {
            assert_eq!(of(refused).unwrap_err().status, StatusCode::BAD_REQUEST, "{refused:?}");
        }
        let tags = if_none_match(&headers(&[("if-none-match", "\"a\", W/\"1.42\"")])).unwrap().unwrap();
        assert!(tags.matches(version) && !tags.matches(Version::new(1, 43)));
    }

    #[test]
    fn times_to_live_are_seconds_or_have_a_unit() {
        let of = |text: &str| ttl(&headers(&[("overspill-ttl", text)]));
        for (text, ms) in [("30", 30_000), ("30s", 30_000), ("1500ms", 1_500), ("1h 30m", 5_400_000), (" 1 ", 1_000)] {
            assert_eq!(of(text).unwrap(), Some(Ttl::from_millis(ms).unwrap()), "{text}");
        }
        assert_eq!(ttl(&HeaderMap::new()).unwrap(), None);
        let out_of_range = LimitError::TtlOutOfRange.to_string();
        for text in ["0", "0s", "99999999999", "18446744073709551615", "1us"] {
            assert_eq!(of(text).unwrap_err().sentence, out_of_range, "{text}");
        }
        for text in ["", "x", "-1", "+5", "1.5", "18446744073709551616", "30 parsecs"] {
            assert!(of(text).unwrap_err().sentence.starts_with("Overspill-TTL takes"), "{text}");
        }
        let left = ttl_left(Duration::from_millis(29_500)).unwrap();
        assert_eq!(of(left.to_str().unwrap()).unwrap(), Some(Ttl::from_millis(29_500).unwrap()));
    }
}
