//! The first frame in each direction: who speaks, and in which version. Its layout never changes, so that any two
//! versions can tell each other that they don't match.

use std::io;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::rpc::frames::{Frames, frame};

/// Of all that follows the hello. Both sides must have the same.
pub const VERSION: u16 = 3;
/// Longest hello. Until it came, nobody can make us keep more.
pub const HELLO_BYTES_MAX: usize = 1024;

const MAGIC: [u8; 4] = *b"OVSP";
const KIND_HELLO: u8 = 0;
const KIND_REFUSED: u8 = 1;

/// What the sender of a hello is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// A shell or a tool.
    Client = 0,
    Primary = 1,
    Secondary = 2,
}

impl Role {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Client, Self::Primary, Self::Secondary].into_iter().find(|&role| role as u8 == byte)
    }
}

/// Why two ends did not come together.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the other side does not speak the Overspill RPC")]
    NotOverspill,
    #[error("this node speaks version {VERSION} of the Overspill RPC and the other side version {0}")]
    Version(u16),
    #[error("refused by the other side: {0}")]
    Refused(String),
    #[error("the connection was closed before the hello")]
    Closed,
    #[error("no hello within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A hello as it travels: magic, kind, version (little-endian), role, and what the kind adds. Bytes at the end of a
/// plain hello are for later (authentication) and ignored today.
fn encode(kind: u8, role: Role, text: &str) -> Vec<u8> {
    let version = VERSION.to_le_bytes();
    let mut hello = MAGIC.to_vec();
    hello.push(kind);
    hello.extend_from_slice(&version);
    hello.push(role as u8);
    hello.extend_from_slice(text.as_bytes());
    hello
}

/// The role of the other side, if we can go on with it.
fn check(hello: &[u8]) -> Result<Role, HelloError> {
    let [b'O', b'V', b'S', b'P', kind, v0, v1, role, rest @ ..] = hello else {
        return Err(HelloError::NotOverspill);
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    match *kind {
        KIND_REFUSED => Err(HelloError::Refused(String::from_utf8_lossy(rest).into_owned())),
        _ if version != VERSION => Err(HelloError::Version(version)),
        KIND_HELLO => Role::from_wire(*role).ok_or(HelloError::NotOverspill),
        _ => Err(HelloError::NotOverspill),
    }
}

async fn receive<S: AsyncRead + Unpin>(frames: &mut Frames<S>) -> Result<Role, HelloError> {
    match frames.next().await {
        Some(Ok(hello)) => check(&hello),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(HelloError::NotOverspill),
        Some(Err(error)) => Err(error.into()),
        None => Err(HelloError::Closed),
    }
}

/// The connecting side: says hello and waits for the answer. Answers the other side's role.
///
/// # Errors
/// [`HelloError`]; the connection is of no use then.
pub async fn offer<S>(frames: &mut Frames<S>, role: Role, within: Duration) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        frames.send(frame(&encode(KIND_HELLO, role, ""))).await?;
        receive(frames).await
    };
    timeout(within, exchange).await.unwrap_or(Err(HelloError::Timeout(within)))
}

/// The accepting side: waits for the hello and answers it. One that does not fit is told why. Answers the other side's
/// role.
///
/// # Errors
/// [`HelloError`]; the connection is of no use then.
pub async fn accept<S>(frames: &mut Frames<S>, role: Role, within: Duration) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        let received = receive(frames).await;
        let answer = match &received {
            Ok(_) => encode(KIND_HELLO, role, ""),
            Err(HelloError::Version(theirs)) => {
                let text =
                    format!("this node speaks version {VERSION} of the Overspill RPC, you speak version {theirs}");
                encode(KIND_REFUSED, role, &text)
            }
            Err(HelloError::NotOverspill) => {
                let text = format!("this node speaks version {VERSION} of the Overspill RPC; that was no hello of it");
                encode(KIND_REFUSED, role, &text)
            }
            Err(_) => return received,
        };
        frames.send(frame(&answer)).await?;
        received
    };
    timeout(within, exchange).await.unwrap_or(Err(HelloError::Timeout(within)))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::rpc::frames::STALL_MAX;

    const WITHIN: Duration = Duration::from_secs(2);

    fn pair() -> (Frames<tokio::io::DuplexStream>, Frames<tokio::io::DuplexStream>) {
        let (near, far) = duplex(4096);
        (Frames::new(near, HELLO_BYTES_MAX, STALL_MAX), Frames::new(far, HELLO_BYTES_MAX, STALL_MAX))
    }

    #[tokio::test]
    async fn both_sides_learn_the_role_of_the_other() {
        let (mut near, mut far) = pair();
        let (offered, accepted) =
            tokio::join!(offer(&mut near, Role::Primary, WITHIN), accept(&mut far, Role::Secondary, WITHIN));
        assert_eq!((offered.unwrap(), accepted.unwrap()), (Role::Secondary, Role::Primary));
    }

    #[tokio::test]
    async fn a_wrong_version_is_told_to_both_with_both_versions() {
        let (mut near, mut far) = pair();
        let mut hello = encode(KIND_HELLO, Role::Client, "");
        hello[5..7].copy_from_slice(&7u16.to_le_bytes());
        near.send(frame(&hello)).await.unwrap();
        let accepted = accept(&mut far, Role::Secondary, WITHIN).await.unwrap_err().to_string();
        let answered = check(&near.next().await.unwrap().unwrap()).unwrap_err().to_string();
        for text in [accepted, answered] {
            assert!(text.contains("version 3") && text.contains("version 7"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_wrong_magic_is_refused_and_told_so() {
        let (mut near, mut far) = pair();
        near.send(frame(b"HELO\0\x01\0\0")).await.unwrap();
        assert!(matches!(accept(&mut far, Role::Primary, WITHIN).await, Err(HelloError::NotOverspill)));
        assert!(matches!(check(&near.next().await.unwrap().unwrap()), Err(HelloError::Refused(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_hello_in_time_is_given_up() {
        let (mut near, mut far) = pair();
        assert!(matches!(offer(&mut near, Role::Primary, WITHIN).await, Err(HelloError::Timeout(_))));
        drop(near);
        let (_near, mut alone) = pair();
        assert!(matches!(accept(&mut alone, Role::Primary, WITHIN).await, Err(HelloError::Timeout(_))));
        // The hello that was sent is there, but nobody waits for the answer.
        assert!(accept(&mut far, Role::Primary, WITHIN).await.is_err());
    }

    #[test]
    fn bytes_after_a_hello_are_left_for_later_versions() {
        assert_eq!(check(&encode(KIND_HELLO, Role::Primary, "token")).unwrap(), Role::Primary);
        assert!(matches!(check(b"OVSP"), Err(HelloError::NotOverspill)));
    }
}
