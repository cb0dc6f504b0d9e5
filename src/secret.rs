//! The password that nodes and clients share: compared in constant time, or proven without being told. Knows nothing of who asks
//! for it.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use ring::{hmac, pbkdf2};

/// Of the derivation of the key for proofs: what each guess costs somebody who has overheard one. About 10 ms, once a process.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(49_999);
/// All who know the password must come to the same key, so it is fixed.
const SALT: &[u8] = b"overspill rpc proof";

pub const NONCE_BYTES: usize = 32;
pub const PROOF_BYTES: usize = 32;

/// Proves that its sender knows the password.
pub type Proof = [u8; PROOF_BYTES];

/// A password. It does not keep the password itself, and never shows anything of it. Clones share it.
#[derive(Clone)]
pub struct Secret(Arc<Keys>);

struct Keys {
    /// Of this process only. Tags of different lengths and contents compare alike, so that nothing is told by the time it takes.
    blind: hmac::Key,
    tag: hmac::Tag,
    proof: hmac::Key,
}

impl Secret {
    pub fn new(password: &[u8]) -> Self {
        let blind = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let tag = hmac::sign(&blind, password);
        let mut derived = [0; PROOF_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, SALT, password, &mut derived);
        Self(Arc::new(Keys { blind, tag, proof: hmac::Key::new(hmac::HMAC_SHA256, &derived) }))
    }

    /// Whether this is the password. Tells nothing by the time it takes.
    pub fn is(&self, given: &[u8]) -> bool {
        hmac::verify(&self.0.blind, given, self.0.tag.as_ref()).is_ok()
    }

    /// Proves to know the password, for this exchange only. What it says must hold something random of the other side.
    pub fn prove(&self, exchange: &[u8]) -> Proof {
        let mut proof = [0; PROOF_BYTES];
        // Both have the length of a SHA-256.
        for (byte, of_tag) in proof.iter_mut().zip(hmac::sign(&self.0.proof, exchange).as_ref()) {
            *byte = *of_tag;
        }
        proof
    }

    /// Whether the one who sent this knows the password.
    pub fn is_proven(&self, exchange: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.0.proof, exchange, proof).is_ok()
    }
}

/// Says nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Something that was never said before.
pub fn nonce() -> [u8; NONCE_BYTES] {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_is_the_password() {
        let secret = Secret::new(b"secret");
        assert!(secret.is(b"secret"));
        for wrong in ["", "secre", "secrets", "secretsecret", "Secret", "secret\0"] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn a_proof_holds_for_its_password_and_exchange_only() {
        let (here, there) = (Secret::new(b"secret"), Secret::new(b"secret"));
        let proof = here.prove(b"exchange");
        assert!(there.is_proven(b"exchange", &proof));
        assert!(!there.is_proven(b"another", &proof));
        assert!(!there.is_proven(b"exchange", &proof[1..]) && !there.is_proven(b"exchange", b""));
        assert!(!Secret::new(b"other").is_proven(b"exchange", &proof));
        assert_ne!(nonce(), nonce());
    }
}
