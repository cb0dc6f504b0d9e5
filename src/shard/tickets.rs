//! Who waits for what the store announces by ticket.

use std::collections::BTreeMap;

use crate::service::REPLIES_BYTES_MAX;
use crate::store::Ticket;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, oneshot};

/// The answers to some tickets, in their order. `None`: it was withdrawn, or not kept.
pub(super) type Answers<T> = Vec<Option<T>>;

/// Tickets and those who hold them, one or several in a row, who are told when the last of these is settled. A ticket whose holder
/// gave up is forgotten when it is answered.
#[derive(Debug)]
pub(super) struct Tickets<T> {
    last: AtomicU64,
    /// By the first ticket that each of them holds.
    holders: Mutex<BTreeMap<u64, Holder<T>>>,
}

#[derive(Debug)]
struct Holder<T> {
    answers: Answers<T>,
    /// How many tickets are neither answered nor withdrawn.
    open: usize,
    /// Of what is kept.
    bytes: usize,
    all: oneshot::Sender<Answers<T>>,
}

impl<T> Tickets<T> {
    pub fn new() -> Self {
        Self { last: AtomicU64::new(0), holders: Mutex::default() }
    }

    /// The first of `count` tickets in a row, and where their answers come once each of them was answered or withdrawn.
    pub fn issue(&self, count: usize) -> (Ticket, oneshot::Receiver<Answers<T>>) {
        // Relaxed: only uniqueness counts.
        let first = self.last.fetch_add(count as u64, Ordering::Relaxed) + 1;
        let (all, answers) = oneshot::channel();
        let holder = Holder { answers: (0..count).map(|_| None).collect(), open: count, bytes: 0, all };
        self.holders.lock().insert(first, holder);
        (Ticket(first), answers)
    }

    /// Takes back a ticket that nobody will answer.
    pub fn withdraw(&self, ticket: Ticket) {
        self.settle(ticket, None, 0);
    }

    /// `bytes`: what the answer takes until its holder is told. It is not kept if others take more than the replies to a batch may (R9).
    pub fn answer(&self, ticket: Ticket, answer: T, bytes: usize) {
        self.settle(ticket, Some(answer), bytes);
    }

    /// Takes all tickets back that are still open. Returns what the holder of `first` was told until now; nothing if all is on its
    /// way already.
    pub fn give_up(&self, first: Ticket) -> Option<Answers<T>> {
        self.holders.lock().remove(&first.0).map(|holder| holder.answers)
    }

    fn settle(&self, ticket: Ticket, answer: Option<T>, bytes: usize) {
        let mut holders = self.holders.lock();
        let Some((&first, holder)) = holders.range_mut(..=ticket.0).next_back() else { return };
        let Some(place) = holder.answers.get_mut((ticket.0 - first) as usize) else { return };
        *place = answer.filter(|_| holder.bytes <= REPLIES_BYTES_MAX);
        holder.bytes += bytes;
        holder.open -= 1;
        let done = if holder.open == 0 { holders.remove(&first) } else { None };
        drop(holders);
        if let Some(Holder { answers, all, .. }) = done {
            // An error means that the holder gave up.
            let _ = all.send(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R9.
    #[tokio::test]
    async fn what_is_kept_for_a_holder_is_bounded() {
        let tickets = Tickets::new();
        let (first, answers) = tickets.issue(4);
        for (i, bytes) in [1, REPLIES_BYTES_MAX, 1, 0].into_iter().enumerate() {
            tickets.answer(Ticket(first.0 + i as u64), i, bytes);
        }
        assert_eq!(answers.await.unwrap(), [Some(0), Some(1), None, None]);
    }
}
