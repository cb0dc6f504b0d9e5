//! The first frames in each direction: who speaks, in which version, and whether both know the password. The layout of the first
//! never changes, so that any two versions can tell each other that they don't match.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::net;
use crate::rpc::frames::{Frames, frame};
use crate::secret::{NONCE_BYTES, Secret, nonce};

/// Of all that follows the hello. Both sides must have the same.
pub const VERSION: u16 = 3;
/// Longest hello. Until it came, nobody can make us keep more.
pub const HELLO_BYTES_MAX: usize = 1024;

const MAGIC: [u8; 4] = *b"OVSP";

/// What a frame of the hello is. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// From who connects: a nonce. From who accepts: nothing, or its proof.
    Hello = 0,
    /// Why not, as text.
    Refused = 1,
    /// A nonce: who accepts asks for a proof.
    Challenge = 2,
    /// The proof of who connects.
    Proof = 3,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Refused, Self::Challenge, Self::Proof].into_iter().find(|&kind| kind as u8 == byte)
    }
}

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

/// One side of a hello.
#[derive(Debug, Clone)]
pub struct Me {
    pub role: Role,
    /// What the other side must prove to know, and gets proven.
    pub secret: Option<Secret>,
}

/// Without a password.
impl From<Role> for Me {
    fn from(role: Role) -> Self {
        Self { role, secret: None }
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
    /// Told by the accepting side, or found by it.
    #[error("wrong password")]
    WrongPassword,
    #[error("it asks for a password: KV_PASSWORD or KV_PASSWORD_FILE gives it")]
    PasswordMissing,
    #[error("it does not ask for the password that KV_PASSWORD or KV_PASSWORD_FILE gives")]
    PasswordUnused,
    #[error("it does not know the password itself")]
    Impostor,
    #[error("the connection was closed before the hello")]
    Closed,
    #[error("no hello within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HelloError {
    /// Whether the other side was reached, and the next hello will end in the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotOverspill
            | Self::Version(_)
            | Self::Refused(_)
            | Self::WrongPassword
            | Self::PasswordMissing
            | Self::PasswordUnused
            | Self::Impostor => true,
            Self::Closed | Self::Timeout(_) | Self::Io(_) => false,
        }
    }

    /// Whether, on the accepting side, the other one does not know the password.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::WrongPassword)
    }
}

/// What is said by the accepting side about a wrong password: the connecting side tells its person in its own words.
const WRONG_PASSWORD: &str = "wrong password";

/// A frame of the hello as it travels: magic, kind, version (little-endian), role, and what the kind adds.
fn encode(kind: Kind, role: Role, rest: &[u8]) -> Vec<u8> {
    let version = VERSION.to_le_bytes();
    let mut hello = MAGIC.to_vec();
    hello.push(kind as u8);
    hello.extend_from_slice(&version);
    hello.push(role as u8);
    hello.extend_from_slice(rest);
    hello
}

/// A frame of the hello, of our version.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    kind: Kind,
    role: Role,
    rest: Vec<u8>,
}

fn check(hello: &[u8]) -> Result<Said, HelloError> {
    let [b'O', b'V', b'S', b'P', kind, v0, v1, role, rest @ ..] = hello else {
        return Err(HelloError::NotOverspill);
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    let kind = Kind::from_wire(*kind);
    if kind == Some(Kind::Refused) {
        let text = String::from_utf8_lossy(rest).into_owned();
        return Err(if text == WRONG_PASSWORD { HelloError::WrongPassword } else { HelloError::Refused(text) });
    }
    if version != VERSION {
        return Err(HelloError::Version(version));
    }
    match (kind, Role::from_wire(*role)) {
        (Some(kind), Some(role)) => Ok(Said { kind, role, rest: rest.to_vec() }),
        (None, _) | (_, None) => Err(HelloError::NotOverspill),
    }
}

async fn receive<S: AsyncRead + Unpin>(frames: &mut Frames<S>) -> Result<Said, HelloError> {
    match frames.next().await {
        Some(Ok(hello)) => check(&hello),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData && !net::is_refusal(&error) => {
            Err(HelloError::NotOverspill)
        }
        Some(Err(error)) => Err(error.into()),
        None => Err(HelloError::Closed),
    }
}

/// What a proof is about: whose it is, and what both sides have said. Each has something random of either side, so that a proof is
/// good for one exchange and one direction.
#[derive(Clone, Copy)]
struct Exchange {
    /// Who connects, and who accepts.
    roles: [Role; 2],
    nonces: [[u8; NONCE_BYTES]; 2],
}

impl Exchange {
    fn words(&self, whose: &[u8]) -> Vec<u8> {
        let mut words = whose.to_vec();
        words.extend_from_slice(&VERSION.to_le_bytes());
        words.extend(self.roles.map(|role| role as u8));
        self.nonces.iter().for_each(|nonce| words.extend_from_slice(nonce));
        words
    }

    fn of_client(&self) -> Vec<u8> {
        self.words(b"client")
    }

    fn of_server(&self) -> Vec<u8> {
        self.words(b"server")
    }
}

fn nonce_of(said: &Said) -> Result<[u8; NONCE_BYTES], HelloError> {
    said.rest.as_slice().try_into().map_err(|_| HelloError::NotOverspill)
}

/// The connecting side: says hello and waits for the answer; proves that it knows the password if it is asked, and sees that the
/// other side knows it. Answers the other side's role.
///
/// # Errors
/// [`HelloError`]; the connection is of no use then.
pub async fn offer<S>(frames: &mut Frames<S>, me: impl Into<Me>, within: Duration) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let me = me.into();
    timeout(within, try_offer(frames, &me)).await.unwrap_or(Err(HelloError::Timeout(within)))
}

async fn try_offer<S>(frames: &mut Frames<S>, me: &Me) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mine = nonce();
    frames.send(frame(&encode(Kind::Hello, me.role, &mine))).await?;
    let said = receive(frames).await?;
    match (said.kind, &me.secret) {
        (Kind::Hello, None) => Ok(said.role),
        // It may be anybody.
        (Kind::Hello, Some(_)) => Err(HelloError::PasswordUnused),
        (Kind::Challenge, None) => Err(HelloError::PasswordMissing),
        (Kind::Challenge, Some(secret)) => {
            let exchange = Exchange { roles: [me.role, said.role], nonces: [mine, nonce_of(&said)?] };
            frames.send(frame(&encode(Kind::Proof, me.role, &secret.prove(&exchange.of_client())))).await?;
            let answer = receive(frames).await?;
            let is_proven = answer.role == said.role && secret.is_proven(&exchange.of_server(), &answer.rest);
            match answer.kind {
                Kind::Hello if is_proven => Ok(answer.role),
                Kind::Hello => Err(HelloError::Impostor),
                Kind::Refused | Kind::Challenge | Kind::Proof => Err(HelloError::NotOverspill),
            }
        }
        (Kind::Refused | Kind::Proof, _) => Err(HelloError::NotOverspill),
    }
}

/// The accepting side: waits for the hello and answers it. One that does not fit, or does not know the password, is told so.
/// Answers the other side's role.
///
/// # Errors
/// [`HelloError`]; the connection is of no use then.
pub async fn accept<S>(frames: &mut Frames<S>, me: impl Into<Me>, within: Duration) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let me = me.into();
    let exchange = async {
        let accepted = try_accept(frames, &me).await;
        if let Err(error) = &accepted
            && let Some(text) = farewell(error)
        {
            // It may be gone.
            let _ = frames.send(frame(&encode(Kind::Refused, me.role, text.as_bytes()))).await;
        }
        accepted
    };
    timeout(within, exchange).await.unwrap_or(Err(HelloError::Timeout(within)))
}

async fn try_accept<S>(frames: &mut Frames<S>, me: &Me) -> Result<Role, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let said = receive(frames).await?;
    if said.kind != Kind::Hello {
        return Err(HelloError::NotOverspill);
    }
    let Some(secret) = &me.secret else {
        frames.send(frame(&encode(Kind::Hello, me.role, &[]))).await?;
        return Ok(said.role);
    };
    let exchange = Exchange { roles: [said.role, me.role], nonces: [nonce_of(&said)?, nonce()] };
    let [_, mine] = exchange.nonces;
    frames.send(frame(&encode(Kind::Challenge, me.role, &mine))).await?;
    let answer = match receive(frames).await {
        // It has none.
        Err(HelloError::Closed) => return Err(HelloError::WrongPassword),
        answer => answer?,
    };
    if answer.kind != Kind::Proof || answer.role != said.role {
        return Err(HelloError::NotOverspill);
    }
    if !secret.is_proven(&exchange.of_client(), &answer.rest) {
        return Err(HelloError::WrongPassword);
    }
    frames.send(frame(&encode(Kind::Hello, me.role, &secret.prove(&exchange.of_server())))).await?;
    Ok(said.role)
}

/// What a node says that can't even listen to a hello, as a frame.
pub fn refusal(role: Role, reason: &str) -> Bytes {
    frame(&encode(Kind::Refused, role, reason.as_bytes()))
}

/// What a peer that is refused is told; nothing if it is not there any more.
fn farewell(error: &HelloError) -> Option<String> {
    match error {
        HelloError::Version(theirs) => {
            Some(format!("this node speaks version {VERSION} of the Overspill RPC, you speak version {theirs}"))
        }
        HelloError::NotOverspill => {
            Some(format!("this node speaks version {VERSION} of the Overspill RPC; that was no hello of it"))
        }
        HelloError::WrongPassword => Some(WRONG_PASSWORD.to_owned()),
        HelloError::Refused(_)
        | HelloError::PasswordMissing
        | HelloError::PasswordUnused
        | HelloError::Impostor
        | HelloError::Closed
        | HelloError::Timeout(_)
        | HelloError::Io(_) => None,
    }
}

#[cfg(test)]
mod tests;
