//! Who waits for what the store announces by ticket.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::store::Ticket;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, oneshot};

/// Tickets and those who hold them. A ticket whose holder gave up is forgotten when it is answered.
#[derive(Debug)]
pub(super) struct Tickets<T> {
    last: AtomicU64,
    holders: Mutex<HashMap<Ticket, oneshot::Sender<T>, RandomState>>,
}

impl<T> Tickets<T> {
    pub fn new() -> Self {
        Self { last: AtomicU64::new(0), holders: Mutex::default() }
    }

    pub fn issue(&self) -> (Ticket, oneshot::Receiver<T>) {
        // Relaxed: only uniqueness counts.
        let ticket = Ticket(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (tx, rx) = oneshot::channel();
        self.holders.lock().insert(ticket, tx);
        (ticket, rx)
    }

    /// Takes back a ticket whose answer nobody waits for.
    pub fn withdraw(&self, ticket: Ticket) {
        self.holders.lock().remove(&ticket);
    }

    pub fn answer(&self, ticket: Ticket, answer: T) {
        let holder = self.holders.lock().remove(&ticket);
        if let Some(holder) = holder {
            // An error means that the holder gave up.
            let _ = holder.send(answer);
        }
    }
}
