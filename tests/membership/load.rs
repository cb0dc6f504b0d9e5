//! Writers that check every acknowledged write while lists change under them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::world::{Primary, World, until};
use overspill::service::Error;

const PAUSE: Duration = Duration::from_micros(200);
const WRITERS: usize = 4;
const KEYS_EACH: usize = 40;

/// What a writer knows of a key: the last acknowledged value, and values whose outcome nobody knows.
#[derive(Default)]
struct Expected {
    acknowledged: Option<String>,
    perhaps: Vec<String>,
}

/// The primary that clients use now.
type Current = Arc<RwLock<Arc<Primary>>>;

struct Writer {
    current: Current,
    first_key: usize,
    expected: HashMap<usize, Expected>,
    done: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, end: Arc<AtomicBool>) -> Self {
        let mut n = 0_usize;
        // Relaxed: nothing else hangs on it.
        while !end.load(Ordering::Relaxed) {
            n += 1;
            let key = self.first_key + n % KEYS_EACH;
            if n.is_multiple_of(3) {
                self.read(key).await
            } else {
                self.write(key, n).await
            }
            tokio::time::sleep(PAUSE).await; // a refusal needs no waiting: it would starve the others
        }
        self
    }

    async fn write(&mut self, key: usize, n: usize) {
        let primary = Arc::clone(&self.current.read());
        let value = n.to_string();
        let expected = self.expected.entry(key).or_default();
        let deletes = n.is_multiple_of(7);
        let outcome = if deletes {
            primary.delete(key).await.map(|_| None)
        } else {
            primary.put(key, &value).await.map(|_| Some(value.clone()))
        };
        match outcome {
            Ok(acknowledged) => {
                *expected = Expected { acknowledged, perhaps: Vec::new() };
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Unavailable(_) | Error::Busy(_)) => {}
            Err(Error::Unknown(_)) => expected.perhaps.push(if deletes { String::new() } else { value }),
            Err(error) => panic!("{error}"),
        }
    }

    async fn read(&mut self, key: usize) {
        let primary = Arc::clone(&self.current.read());
        match primary.get(key).await {
            Ok(found) => self.check(key, found.as_ref()),
            Err(Error::Unavailable(_) | Error::Busy(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&self, key: usize, found: Option<&String>) {
        let Some(expected) = self.expected.get(&key) else { return };
        let perhaps = expected.perhaps.iter().any(|value| found.map_or("", String::as_str) == value);
        assert!(
            found == expected.acknowledged.as_ref() || perhaps,
            "key {key}: {found:?} is not {:?}",
            expected.acknowledged
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_or_old_while_lists_change() {
    let world = World::new();
    world.start(&["a", "b", "c"]);
    let current: Current = Arc::new(RwLock::new(Arc::new(world.lead(&["a", "b", "c"]))));
    let first = Arc::clone(&current.read());
    first.until_served().await;
    drop(first);
    let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|i| {
            let (current, done) = (Arc::clone(&current), Arc::clone(&done));
            let writer = Writer { current, first_key: i * KEYS_EACH, expected: HashMap::new(), done };
            tokio::spawn(writer.run(Arc::clone(&end)))
        })
        .collect();
    let progress = async || {
        let before = done.load(Ordering::Relaxed);
        until("writes go on", async || (done.load(Ordering::Relaxed) > before + 300).then_some(())).await;
    };
    progress().await;
    let lists: [&[&str]; 7] =
        [&["a"], &["b", "a"], &["c", "b"], &["a", "b", "c"], &["b"], &["c", "a"], &["b", "c", "a"]];
    for list in lists {
        let next = Arc::new(world.lead(list));
        // The old one does not say farewell before the new one is there, and its clients go on for a while.
        let old = std::mem::replace(&mut *current.write(), Arc::clone(&next));
        until("its clients are gone", async || (Arc::strong_count(&old) == 1).then_some(())).await;
        Arc::into_inner(old).unwrap().stop().await;
        next.until_served().await;
        progress().await;
        // A member restarts under load, cleanly.
        world.stop(list[0]).await;
        world.start(&[list[0]]);
        next.until_served().await;
        progress().await;
    }
    end.store(true, Ordering::Relaxed);
    let primary = Arc::clone(&current.read());
    for writer in writers {
        let writer = writer.await.unwrap();
        for &key in writer.expected.keys() {
            let found = primary.get(key).await.unwrap();
            writer.check(key, found.as_ref());
        }
    }
}
