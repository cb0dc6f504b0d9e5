//! Who may come in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::seldom::Seldom;
use crate::secret::Secret;

/// Longest `Authorization` that is looked at.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// How often to tell that somebody was refused.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// With padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const USER: &[u8] = b"default";

/// What a client must know. Open to everybody without a password. Clones share what they have told.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Guard>>);

struct Guard {
    secret: Secret,
    refused: Seldom,
}

impl Access {
    pub fn new(secret: Option<Secret>) -> Self {
        Self(secret.map(|secret| Arc::new(Guard { secret, refused: Seldom::new(WARN_EVERY) })))
    }

    pub fn with_password(password: impl AsRef<[u8]>) -> Self {
        Self::new(Some(Secret::new(password.as_ref())))
    }

    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// For those who prove that they know it instead of telling it.
    pub fn secret(&self) -> Option<&Secret> {
        self.0.as_ref().map(|guard| &guard.secret)
    }

    /// There is one user, `default`. Takes as long for a wrong password as for the right one.
    pub fn admits(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let is_right = self.secret().is_none_or(|secret| secret.is(password));
        let is_user = user.is_none_or(|user| user == USER);
        is_user && is_right
    }

    /// By the value of an HTTP `Authorization`: `Basic` (RFC 7617; the user may be empty) or `Bearer` (RFC 6750) with the
    /// password as its token.
    pub fn admits_header(&self, authorization: &str) -> bool {
        if self.is_open() {
            return true;
        }
        if authorization.len() > HEADER_BYTES_MAX {
            return false;
        }
        let Some((scheme, given)) = authorization.trim().split_once(' ') else { return false };
        let given = given.trim_start();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.admits(None, given.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = BASE64.decode(given) else { return false };
        let Some(colon) = pair.iter().position(|&byte| byte == b':') else { return false };
        let (user, password) = pair.split_at(colon);
        let user = if user.is_empty() { USER } else { user };
        self.admits(Some(user), password.get(1..).unwrap_or_default())
    }

    /// Tells the operator, now and then, that `peer` did not know the password at a `door`.
    pub fn note_refused(&self, peer: SocketAddr, door: &'static str) {
        let Some(guard) = &self.0 else { return };
        let Some(attempts) = guard.refused.count() else { return };
        tracing::warn!(%peer, door, attempts, "wrong password");
    }
}

/// Never shows the password.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() { "Access(open)" } else { "Access(by password)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_the_right_user_is_admitted() {
        let access = Access::with_password("secret");
        assert!(access.admits(None, b"secret") && access.admits(Some(b"default"), b"secret"));
        for (user, password) in
            [(None, "secre"), (None, "secrets"), (None, ""), (Some("bob"), "secret"), (None, "secretsecret")]
        {
            assert!(!access.admits(user.map(str::as_bytes), password.as_bytes()), "{user:?} {password}");
        }
        assert!(Access::default().is_open() && Access::default().admits(None, b"anything"));
        assert!(!format!("{access:?}").contains("secret"));
    }

    #[test]
    fn a_header_is_admitted_if_it_has_the_password_in_either_scheme() {
        let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let access = Access::with_password("se:cret ä");
        let unpadded = basic("default:se:cret ä").trim_end_matches('=').to_owned();
        let right = [
            basic("default:se:cret ä"),
            basic(":se:cret ä"),
            unpadded,
            basic("default:se:cret ä").replace("Basic ", "bAsIC   "),
            "Bearer se:cret ä".to_owned(),
            "bearer  se:cret ä ".to_owned(),
        ];
        for header in right {
            assert!(access.admits_header(&header), "{header}");
        }
        let wrong = [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic !!!".to_owned(),
            basic("bob:se:cret ä"),
            basic("default:se:cret"),
            basic("se:cret ä"),
            basic("default"),
            "Bearer".to_owned(),
            "Bearer wrong".to_owned(),
            "Digest se:cret ä".to_owned(),
            "se:cret ä".to_owned(),
            format!("Bearer {}", "x".repeat(HEADER_BYTES_MAX)),
        ];
        for header in wrong {
            assert!(!access.admits_header(&header), "{header}");
            assert!(Access::default().admits_header(&header), "{header}");
        }
    }
}
