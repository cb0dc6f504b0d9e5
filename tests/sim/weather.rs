//! What the tier and the way to it do to each call, now: planted spells, and chance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overspill::tier::TierError;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::plan;
use crate::tier::STATEMENT_TIMEOUT;
use crate::world::Process;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Prepare,
    Fences,
    Swap,
    Flush,
    Load,
    Scan,
    Letter,
}

/// What a call meets with.
#[derive(Debug, Default)]
pub struct Course {
    pub there_ms: u64,
    pub back_ms: u64,
    /// Answered with this, and nothing is done.
    pub refused: Option<TierError>,
    /// It never arrives.
    pub is_lost: bool,
    /// It arrives so much later.
    pub late_ms: u64,
    /// It is carried out, and nobody hears of it.
    pub loses_answer: bool,
    /// Its sender hears of a broken connection at once, whatever becomes of it.
    pub breaks: bool,
    /// It is carried out although its sender has died meanwhile.
    pub outlives_sender: bool,
}

/// Counts what was planted, for the figures.
#[derive(Default)]
pub struct Faults(AtomicU64);

impl Faults {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Weather {
    now: Mutex<Now>,
}

struct Now {
    rng: SmallRng,
    usual: plan::Weather,
    is_healed: bool,
    away_until: Instant,
    hangs: bool,
    slow_until: Instant,
    slow_factor: u64,
    exhausted_until: Instant,
    /// Rises when the tier's process dies: what came before has no connection any more.
    generation: u64,
    /// The process that dies at its next commit, and whether before it.
    crash_at_commit: Option<(u64, bool)>,
    /// The process that dies at its disk, after so many calls, and whether power is lost.
    crash_at_disk: Option<(u64, u32, bool)>,
    disk_slow_until: Instant,
    disk_slow_ms: u64,
}

impl Weather {
    pub fn new(seed: u64, usual: plan::Weather) -> Self {
        let now = Instant::now();
        Self {
            now: Mutex::new(Now {
                rng: SmallRng::seed_from_u64(seed ^ 0x7ea7_4e12),
                usual,
                is_healed: false,
                away_until: now,
                hangs: false,
                slow_until: now,
                slow_factor: 1,
                exhausted_until: now,
                generation: 0,
                crash_at_commit: None,
                crash_at_disk: None,
                disk_slow_until: now,
                disk_slow_ms: 0,
            }),
        }
    }

    pub fn generation(&self) -> u64 {
        self.now.lock().generation
    }

    pub fn away(&self, time: Duration, hangs: bool) {
        let now = &mut *self.now.lock();
        now.away_until = Instant::now() + time;
        now.hangs = hangs;
    }

    pub fn killed(&self, time: Duration) {
        self.now.lock().generation += 1;
        self.away(time, false);
    }

    pub fn slow(&self, time: Duration, factor: u32) {
        let now = &mut *self.now.lock();
        now.slow_until = Instant::now() + time;
        now.slow_factor = u64::from(factor);
    }

    pub fn exhausted(&self, time: Duration) {
        self.now.lock().exhausted_until = Instant::now() + time;
    }

    /// `None`: nobody dies at a commit any more.
    pub fn crash_at_commit(&self, process: Option<(u64, bool)>) {
        self.now.lock().crash_at_commit = process;
    }

    pub fn crashes_at_commit(&self, process: &Process, is_before: bool) -> bool {
        let now = &mut *self.now.lock();
        let is_it = now.crash_at_commit == Some((process.life, is_before));
        if is_it {
            now.crash_at_commit = None;
        }
        is_it
    }

    pub fn crash_at_disk(&self, process: &Process, calls: u32, power: bool) {
        self.now.lock().crash_at_disk = Some((process.life, calls, power));
    }

    /// Whether a process dies at this call to its disk, and whether with the power.
    pub fn crashes_at_disk(&self, process: &Process) -> Option<bool> {
        let now = &mut *self.now.lock();
        let (life, calls, power) = now.crash_at_disk.as_mut()?;
        if *life != process.life {
            return None;
        }
        *calls = calls.saturating_sub(1);
        let power = (*calls == 0).then_some(*power);
        if power.is_some() {
            now.crash_at_disk = None;
        }
        power
    }

    pub fn disk_slow(&self, time: Duration, by_ms: u32) {
        let now = &mut *self.now.lock();
        now.disk_slow_until = Instant::now() + time;
        now.disk_slow_ms = u64::from(by_ms);
    }

    /// How long a piece of work at a disk waits before it is done, and after.
    pub fn disk_ms(&self) -> (u64, u64) {
        let now = &mut *self.now.lock();
        let is_slow = Instant::now() < now.disk_slow_until && !now.is_healed;
        let most = if is_slow { now.disk_slow_ms } else { 1 };
        (now.rng.random_range(0..=most), now.rng.random_range(0..=most))
    }

    /// From now on all goes well.
    pub fn heal(&self) {
        let now = &mut *self.now.lock();
        now.crash_at_disk = None;
        now.is_healed = true;
        now.crash_at_commit = None;
    }

    pub fn course(&self, call: Call, faults: &Faults) -> Course {
        let now = &mut *self.now.lock();
        let latency_ms = u64::from(now.usual.latency_ms);
        let mut course = Course {
            there_ms: now.rng.random_range(0..=latency_ms),
            back_ms: now.rng.random_range(0..=latency_ms),
            outlives_sender: now.rng.random_bool(0.5),
            ..Course::default()
        };
        if call == Call::Scan {
            course.there_ms = 0; // the sweep asks many of them
            course.back_ms = course.back_ms.min(1);
        }
        if now.is_healed {
            return course;
        }
        // A spell counts as one fault, by whoever planted it.
        now.spell(&mut course);
        if course.refused.is_none() {
            faults.add(u64::from(now.chance(call, &mut course)));
        }
        course
    }
}

impl Now {
    fn spell(&mut self, course: &mut Course) {
        let time = Instant::now();
        let unavailable = |reason: &str| Some(TierError::Unavailable(reason.to_owned()));
        if time < self.away_until {
            course.refused = unavailable("connection refused");
            if self.hangs {
                course.there_ms = STATEMENT_TIMEOUT.as_millis() as u64;
            }
        } else if time < self.exhausted_until {
            course.refused = unavailable("no connection is free");
            course.there_ms = 1000;
        } else if time < self.slow_until {
            course.there_ms *= self.slow_factor;
            course.back_ms *= self.slow_factor;
        }
    }

    /// Answers whether something happens to the call.
    fn chance(&mut self, call: Call, course: &mut Course) -> bool {
        let usual = self.usual;
        let dice = self.rng.random_range(0..1000);
        let is_transaction = matches!(call, Call::Flush | Call::Swap);
        let mut bound = usual.refuses;
        if dice < bound {
            course.refused = Some(TierError::Unavailable("a planted failure".to_owned()));
            return true;
        }
        bound += usual.conflicts;
        if dice < bound {
            if is_transaction {
                course.refused = Some(TierError::Conflict("a planted deadlock".to_owned()));
            }
            return is_transaction;
        }
        bound += usual.loses_answer;
        if dice < bound {
            if is_transaction {
                self.lose(course);
            }
            return is_transaction;
        }
        bound += usual.stalls;
        if dice < bound {
            let stall_ms = [50, 500, 4000][self.rng.random_range(0..3)];
            if self.rng.random_bool(0.5) {
                course.there_ms += stall_ms
            } else {
                course.back_ms += stall_ms
            }
            return true;
        }
        false
    }

    /// The outcome is unknown: it was done, it was not, or it will be.
    fn lose(&mut self, course: &mut Course) {
        match self.rng.random_range(0..5) {
            0 => course.is_lost = true,
            1 => course.loses_answer = true,
            2 => {
                course.breaks = true;
                course.outlives_sender = true;
                course.late_ms = [0, 1, 10, 200, 2000][self.rng.random_range(0..5)];
            }
            _ => {
                course.outlives_sender = true;
                let timeout_ms = STATEMENT_TIMEOUT.as_millis() as u64;
                course.late_ms = timeout_ms + [1, 100, 3000, 20_000][self.rng.random_range(0..4)];
            }
        }
    }
}
