use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::super::{NoMember, Options};
use super::*;

/// What is behind the door of a test: nothing.
struct Nobody;

impl Service for Nobody {
    async fn execute(&self, batch: Batch) -> Replies {
        vec![Err(Error::Unavailable("nobody is here".to_owned())); batch.commands.len()]
    }
}

/// A client that has always sent more by the time it is looked at.
struct Flood;

impl AsyncRead for Flood {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(b"PING\r\n");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_client_that_never_pauses_does_not_hold_up_a_stop() {
    let door = Arc::new(Door::new(Nobody, NoMember, NoMember, Options::default()));
    let (budget, stop) = (Budget::new(1 << 20), CancellationToken::new());
    let stream = tokio::io::join(Flood, tokio::io::sink());
    let served = tokio::spawn(serve(stream, SocketAddr::from(([127, 0, 0, 1], 1)), door, budget, stop.clone()));
    tokio::task::yield_now().await;
    assert!(!served.is_finished());
    stop.cancel();
    timeout(Duration::from_secs(5), served).await.expect("it ends").unwrap().unwrap();
}
