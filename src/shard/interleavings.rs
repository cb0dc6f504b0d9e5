//! Latches, and tickets as the loader uses them, under a scheduler that tries their interleavings.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::latches::{Latch, Latches};
use super::tickets::Tickets;
use crate::policy::PolicyKind;
use crate::record::{Key, Timestamp};
use crate::store::{Fill, MEMORY_BYTES_MIN, Spill, Store, StoreOptions, Ticket};
use crate::sync::{check, future, thread};

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

/// What a latch guards. Plain: to watch is no step.
#[derive(Default)]
struct Room {
    is_taken: AtomicBool,
    visits: AtomicUsize,
}

impl Room {
    fn visit(&self, latch: Latch) {
        assert!(!self.is_taken.swap(true, Ordering::SeqCst), "two hold the latch");
        thread::yield_now();
        self.visits.fetch_add(1, Ordering::SeqCst);
        self.is_taken.store(false, Ordering::SeqCst);
        drop(latch);
    }
}

/// However the others give up, whoever wants the latch gets it, alone.
#[test]
fn a_latch_has_one_holder_and_is_handed_on() {
    check(2_000, || {
        let (latches, room) = (Latches::new(), Arc::new(Room::default()));
        let enter = |times: usize| {
            let (latches, room) = (latches.clone(), room.clone());
            future::spawn(async move {
                for _ in 0..times {
                    room.visit(latches.acquire(&key("k")).await);
                }
            })
        };
        let patient = [enter(2), enter(1)];
        // Its future may be dropped before it waits, while it waits, or after the latch was handed to it.
        let impatient = enter(1);
        let trier = {
            let (latches, room) = (latches.clone(), room.clone());
            thread::spawn(move || {
                if let Some(latch) = latches.try_acquire(&key("k")) {
                    room.visit(latch);
                }
            })
        };
        impatient.abort();
        trier.join().unwrap();
        for task in patient {
            future::block_on(task).unwrap();
        }
        let _ = future::block_on(impatient);
        assert!(room.visits.load(Ordering::SeqCst) >= 3);
        assert!(latches.try_acquire(&key("k")).is_some(), "the latch was lost");
        assert!(latches.is_idle(), "a latch that nobody holds takes no memory");
    });
}

/// The same without an executor: polled once, then dropped, while the holder lets go.
#[test]
fn a_waiter_that_gives_up_while_the_latch_is_handed_to_it_hands_it_on() {
    check(1_500, || {
        let latches = Latches::new();
        let held = latches.try_acquire(&key("k")).unwrap();
        let waiter = {
            let latches = latches.clone();
            thread::spawn(move || {
                future::block_on(async {
                    let key = key("k");
                    let mut turn = pin!(latches.acquire(&key));
                    drop(futures::poll!(&mut turn));
                });
            })
        };
        let next = {
            let latches = latches.clone();
            thread::spawn(move || drop(future::block_on(latches.acquire(&key("k")))))
        };
        drop(held);
        waiter.join().unwrap();
        next.join().unwrap();
        assert!(latches.try_acquire(&key("k")).is_some(), "the latch was lost");
    });
}

#[test]
fn a_ticket_is_answered_to_whoever_holds_it() {
    check(1_500, || {
        let tickets = Arc::new(Tickets::new());
        let asker = |withdraws: bool| {
            let tickets = tickets.clone();
            thread::spawn(move || {
                let (ticket, answer) = tickets.issue(1);
                let answerer = {
                    let tickets = tickets.clone();
                    thread::spawn(move || tickets.answer(ticket, ticket, 0))
                };
                if withdraws {
                    tickets.withdraw(ticket);
                }
                match future::block_on(answer).unwrap()[..] {
                    [Some(answer)] => assert_eq!(answer, ticket, "the answer of another"),
                    _ => assert!(withdraws, "nobody will answer"),
                }
                answerer.join().unwrap();
            })
        };
        for asker in [asker(false), asker(true), asker(false)] {
            asker.join().unwrap();
        }
    });
}

/// Whoever gives up while the last answer is on its way is told one way or the other, with all that was answered before.
#[test]
fn a_holder_of_several_tickets_is_told_of_all_at_once() {
    check(1_500, || {
        let tickets = Arc::new(Tickets::new());
        let (first, answers) = tickets.issue(3);
        let [second, third] = [1, 2].map(|i| Ticket(first.0 + i));
        tickets.answer(second, "second", 0);
        let others = [
            thread::spawn({
                let tickets = tickets.clone();
                move || tickets.answer(third, "third", 0)
            }),
            thread::spawn({
                let tickets = tickets.clone();
                move || tickets.withdraw(first)
            }),
        ];
        match tickets.give_up(first) {
            Some(answers) => assert_eq!(answers[..2], [None, Some("second")]),
            None => assert_eq!(future::block_on(answers).unwrap(), [None, Some("second"), Some("third")]),
        }
        for other in others {
            other.join().unwrap();
        }
    });
}

/// As [`super::loader`] does it: the answer may be on its way before the load is begun.
#[test]
fn everybody_who_joins_a_load_is_told_its_end() {
    check(1_500, || {
        let store = Arc::new(Store::new(&StoreOptions {
            capacity: 1,
            memory_bytes_max: MEMORY_BYTES_MIN,
            policy: PolicyKind::Lru,
            spill: Spill::Evicted,
            seed: 7,
        }));
        let tickets = Arc::new(Tickets::<bool>::new());
        let readers = [true, false, true].map(|is_found| {
            let (store, tickets) = (store.clone(), tickets.clone());
            thread::spawn(move || {
                let (ticket, answer) = tickets.issue(1);
                let answer_all =
                    |told: Vec<Ticket>, answer| told.into_iter().for_each(|to| tickets.answer(to, answer, 0));
                match store.begin_fill(&key("k"), ticket, Timestamp(1)) {
                    Fill::Known(_) => return tickets.withdraw(ticket),
                    Fill::Joined => {}
                    Fill::Started(id) if is_found => {
                        answer_all(store.complete_fill(&key("k"), id, None, Timestamp(1)), true);
                    }
                    Fill::Started(id) => answer_all(store.fail_fill(&key("k"), id), false),
                }
                assert!(future::block_on(answer).is_ok(), "nobody will answer");
            })
        });
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
