//! What happened, in order: always as a hash, and as text while a run is replayed.

use std::fmt::{self, Write};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Clones of a run compare by [`Trace::hash`]; people read [`Trace::text`].
pub struct Trace {
    inner: Mutex<Inner>,
    start: Instant,
    is_recording: bool,
}

struct Inner {
    hash: Fnv,
    events: u64,
    lines: Vec<String>,
}

/// FNV-1a over everything that is written to it: no allocation for a line that nobody will read.
struct Fnv(u64);

impl Fnv {
    fn eat(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.eat(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    pub fn new(is_recording: bool) -> Self {
        let inner = Inner { hash: Fnv(0xcbf2_9ce4_8422_2325), events: 0, lines: Vec::new() };
        Self { inner: Mutex::new(inner), start: Instant::now(), is_recording }
    }

    /// Notes an event. The text of every event goes into the hash, so two runs with one hash had one trace.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let inner = &mut *self.inner.lock();
        inner.events += 1;
        inner.hash.eat(&now_ms.to_le_bytes());
        let _ = inner.hash.write_fmt(event); // into a hash: can't fail
        if self.is_recording {
            inner.lines.push(format!("{:>4}.{:03}  {event}", now_ms / 1000, now_ms % 1000));
        }
    }

    pub fn hash(&self) -> u64 {
        self.inner.lock().hash.0
    }

    pub fn events(&self) -> u64 {
        self.inner.lock().events
    }

    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().lines)
    }
}
