//! Everything that will be tried in a run, as data that one seed makes: so that it can be replayed, and made smaller.
//! What is not in here is decided by a generator that is seeded by the plan, call by call.

use std::time::Duration;

use overspill::journal::{self, Fsync};
use overspill::policy::PolicyKind;
use overspill::shard::WriteMode;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// So chosen that the plans of the corpus are what they were before there were updates.
const UPDATES: u64 = 2839;

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub setup: Setup,
    pub clients: Vec<Vec<Step>>,
    /// In order of time.
    pub faults: Vec<(u64, Fault)>,
    pub weather: Weather,
}

/// The cluster of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    pub mode: WriteMode,
    /// `None`: a crash loses what was not spilled, and a person must say so.
    pub journal: Option<journal::Options>,
    pub policy: PolicyKind,
    pub capacity: usize,
    pub memory_bytes_max: usize,
    /// Keys that clients write; the first are written and read only.
    pub keys: usize,
    pub plain_keys: usize,
    pub shards: usize,
    /// Serve all slots, or only those of the keys (then the sweep has less to walk over).
    pub all_slots: bool,
    pub sweep_interval: Duration,
    pub drain_timeout: Duration,
    pub value_padding: usize,
}

/// What a client does next.
#[derive(Debug, Clone)]
pub struct Step {
    pub pause_ms: u32,
    pub calls: Vec<Spec>,
    pub timeout_ms: u32,
    /// Tell the epoch of the map that it was routed by.
    pub tells_epoch: bool,
    pub fate: Fate,
}

/// One command.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub key: usize,
    pub verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Put {
        ttl_ms: Option<u32>,
    },
    PutAbsent {
        ttl_ms: Option<u32>,
    },
    /// With the version that the client saw last.
    Cas,
    Delete,
    Exists,
    Ttl,
    Expire {
        ttl_ms: u32,
    },
    Persist,
    /// SET … GET.
    Swap {
        ttl_ms: Option<u32>,
    },
    /// GETDEL.
    Take,
    /// INCRBY, on a key that is a counter.
    Add,
}

/// What the network does to a call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    pub request_ms: u32,
    pub reply_ms: u32,
    pub loses_request: bool,
    pub loses_reply: bool,
    /// Delivered once more, so much later.
    pub again_after_ms: Option<u32>,
    /// The connection breaks so long after delivery: its handler is dropped where it stands (R5).
    pub breaks_after_ms: Option<u32>,
}

/// Something that is done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// `kill -9`; another process of the name comes after a while, and the loss is accepted after another while.
    Crash {
        shard: usize,
        power: bool,
        disk: DiskFate,
        down_ms: u32,
        accept_after_ms: u32,
    },
    /// The process, or the machine, dies at its so manieth next call to its disk.
    CrashAtDisk {
        shard: usize,
        calls: u32,
        power: bool,
    },
    /// The next sync fails, of a file or of the directory.
    SyncFails {
        shard: usize,
        of_directory: bool,
    },
    /// The next write fails half way.
    WriteFails {
        shard: usize,
    },
    DiskFull {
        shard: usize,
        ms: u32,
    },
    DiskSlow {
        ms: u32,
        by_ms: u32,
    },
    /// The same, in the moment when the tier has carried out (or: is about to carry out) its next flush.
    CrashAtCommit {
        shard: usize,
        is_before: bool,
        down_ms: u32,
        accept_after_ms: u32,
    },
    /// SIGTERM.
    Stop {
        shard: usize,
        down_ms: u32,
        accept_after_ms: u32,
    },
    /// A new process takes the name while the old one, cut off from everybody but the tier, goes on.
    Usurp {
        shard: usize,
        accept_after_ms: u32,
    },
    /// No client reaches it.
    CutOff {
        shard: usize,
        ms: u32,
    },
    /// The tier answers nothing but errors, at once or after its time-out.
    TierAway {
        ms: u32,
        hangs: bool,
    },
    /// The tier's process dies: transactions under way are lost, or their answers are; then it is away.
    TierKilled {
        ms: u32,
    },
    TierSlow {
        ms: u32,
        factor: u32,
    },
    /// No connection is left for anybody.
    PoolExhausted {
        ms: u32,
    },
    /// The tier rejects writes of a key.
    Poison {
        key: usize,
        ms: u32,
    },
    ClockJump {
        ms: i64,
    },
    ClockRate {
        percent: u32,
    },
    /// The slots below this share of all keys belong to the first shard, the others to the second.
    Move {
        share_percent: u32,
    },
}

/// What becomes of the disk of a process that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFate {
    Kept,
    /// The next process finds an empty one.
    Lost,
    Rotten,
}

/// How often the tier does what to a single call, in 1/1000.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub latency_ms: u32,
    pub refuses: u32,
    pub conflicts: u32,
    pub loses_answer: u32,
    pub stalls: u32,
}

impl Plan {
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let setup = Setup::random(rng);
        let minutes = rng.random_range(2..=8);
        let horizon_ms = minutes * 60_000;
        let mut clients: Vec<_> = (0..rng.random_range(2..=6)).map(|_| client(rng, &setup, horizon_ms)).collect();
        let faults = faults(rng, &setup, horizon_ms);
        let rough = [0, 1, 4, 20][rng.random_range(0..4)];
        let weather = Weather {
            latency_ms: [1, 3, 10, 40][rng.random_range(0..4)],
            refuses: rng.random_range(0..=4) * rough,
            conflicts: rng.random_range(0..=4) * rough,
            loses_answer: rng.random_range(0..=4) * rough,
            stalls: rng.random_range(0..=2) * rough,
        };
        bring_updates(seed, &setup, &mut clients);
        Self { seed, setup, clients, faults, weather }
    }

    pub fn steps(&self) -> usize {
        self.clients.iter().map(Vec::len).sum()
    }
}

impl Setup {
    fn random(rng: &mut SmallRng) -> Self {
        let modes = [WriteMode::Spill, WriteMode::Spill, WriteMode::Behind, WriteMode::Through, WriteMode::Through];
        let keys = rng.random_range(2..=14);
        let all_slots = rng.random_bool(0.1);
        // A walk over all slots asks for each of them: seldom.
        let sweep_ms = if all_slots { 3_600_000 } else { [10_000, 60_000, 3_600_000][rng.random_range(0..3)] };
        Self {
            mode: modes[rng.random_range(0..modes.len())],
            journal: rng.random_bool(0.7).then(|| journal_options(rng)),
            policy: PolicyKind::ALL[rng.random_range(0..3)],
            capacity: rng.random_range(1..=6),
            // Far below what production allows: so that memory is full now and then (R15).
            memory_bytes_max: [64 << 20, 64 << 20, 1_800, 3_600][rng.random_range(0..4)],
            keys,
            plain_keys: rng.random_range(0..=keys),
            shards: [1, 1, 2][rng.random_range(0..3)],
            all_slots,
            sweep_interval: Duration::from_millis(sweep_ms),
            drain_timeout: Duration::from_secs([5, 20][rng.random_range(0..2)]),
            value_padding: [0, 20, 200][rng.random_range(0..3)],
        }
    }
}

fn journal_options(rng: &mut SmallRng) -> journal::Options {
    let lazy = Fsync::Interval(Duration::from_millis(50));
    let fsync = [Fsync::Always, Fsync::Always, Fsync::Always, lazy, Fsync::Never][rng.random_range(0..5)];
    // Far below what production allows: so that it is checkpointed, and full, now and then.
    let bytes_max = [1 << 15, 1 << 17, 1 << 24][rng.random_range(0..3)];
    journal::Options { segment_bytes: 4096, ..journal::Options::new(fsync, bytes_max) }
}

/// Bursts, with long rests between them.
fn client(rng: &mut SmallRng, setup: &Setup, horizon_ms: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at_ms = 0;
    let bursts = rng.random_range(2..=12);
    let rest_ms = (horizon_ms / bursts) as u32;
    for _ in 0..bursts {
        let haste_ms = [1, 5, 40, 400][rng.random_range(0..4)];
        for i in 0..rng.random_range(5..60) {
            let rests = i == 0;
            let pause_ms = if rests { rng.random_range(0..rest_ms.max(1) * 2) } else { rng.random_range(0..=haste_ms) };
            at_ms += u64::from(pause_ms);
            if at_ms >= horizon_ms {
                return steps;
            }
            steps.push(step(rng, setup, pause_ms));
        }
    }
    steps
}

fn step(rng: &mut SmallRng, setup: &Setup, pause_ms: u32) -> Step {
    let calls = if rng.random_bool(0.8) { 1 } else { rng.random_range(2..8) };
    Step {
        pause_ms,
        calls: (0..calls).map(|_| spec(rng, setup)).collect(),
        timeout_ms: [30, 300, 2000, 10_000][rng.random_range(0..4)],
        tells_epoch: rng.random_bool(0.8),
        fate: Fate::random(rng),
    }
}

fn spec(rng: &mut SmallRng, setup: &Setup) -> Spec {
    // One key more is only read: it never exists (R17).
    let key = if rng.random_bool(0.03) { setup.keys } else { rng.random_range(0..setup.keys) };
    let ttl_ms = || [40, 1000, 20_000, 10_000_000];
    let ttl = |rng: &mut SmallRng| ttl_ms().choose(rng).copied().unwrap_or(1000);
    let verb = match rng.random_range(0..100) {
        _ if key == setup.keys => Verb::Get,
        0..40 => Verb::Get,
        40..60 => Verb::Put { ttl_ms: None },
        _ if key < setup.plain_keys => Verb::Put { ttl_ms: None },
        60..65 => Verb::Put { ttl_ms: Some(ttl(rng)) },
        65..70 => Verb::PutAbsent { ttl_ms: rng.random_bool(0.2).then(|| ttl(rng)) },
        70..77 => Verb::Cas,
        77..87 => Verb::Delete,
        87..90 => Verb::Exists,
        90..93 => Verb::Ttl,
        93..97 => Verb::Expire { ttl_ms: ttl(rng) },
        _ => Verb::Persist,
    };
    Spec { key, verb }
}

/// In some of the runs some commands turn into updates, which read and write in one step, and a few keys into counters. Decided by
/// a generator of its own, so that the other runs are what they were.
fn bring_updates(seed: u64, setup: &Setup, clients: &mut [Vec<Step>]) {
    let rng = &mut SmallRng::seed_from_u64(seed ^ UPDATES);
    if rng.random_bool(0.5) {
        return;
    }
    let counters = setup.plain_keys..(setup.plain_keys + rng.random_range(0..=3)).min(setup.keys);
    for spec in clients.iter_mut().flatten().flat_map(|step| &mut step.calls) {
        let is_counter = counters.contains(&spec.key);
        let is_plain = spec.key < setup.plain_keys;
        spec.verb = match spec.verb {
            Verb::Put { .. } | Verb::PutAbsent { .. } | Verb::Cas | Verb::Expire { .. } if is_counter => Verb::Add,
            Verb::Persist | Verb::Ttl if is_counter => Verb::Exists,
            Verb::Put { ttl_ms } if !is_plain && rng.random_bool(0.4) => Verb::Swap { ttl_ms },
            Verb::Delete if rng.random_bool(0.5) => Verb::Take,
            other => other,
        };
    }
}

impl Fate {
    fn random(rng: &mut SmallRng) -> Self {
        let mut fate = Self { request_ms: rng.random_range(0..3), reply_ms: rng.random_range(0..3), ..Self::default() };
        match rng.random_range(0..100) {
            0..4 => fate.request_ms = [20, 200, 3000][rng.random_range(0..3)],
            4..6 => fate.reply_ms = [20, 200, 3000][rng.random_range(0..3)],
            6..8 => fate.loses_request = true,
            8..10 => fate.loses_reply = true,
            10 => fate.again_after_ms = Some([1, 50, 3000][rng.random_range(0..3)]),
            11..14 => fate.breaks_after_ms = Some(rng.random_range(0..20)),
            _ => {}
        }
        fate
    }

    pub fn faults(&self) -> u64 {
        let all = [
            self.request_ms > 3,
            self.reply_ms > 3,
            self.loses_request,
            self.loses_reply,
            self.again_after_ms.is_some(),
            self.breaks_after_ms.is_some(),
        ];
        all.iter().filter(|is| **is).count() as u64
    }
}

fn faults(rng: &mut SmallRng, setup: &Setup, horizon_ms: u64) -> Vec<(u64, Fault)> {
    let mean_s = [3, 10, 40][rng.random_range(0..3)];
    let count = horizon_ms / 1000 / mean_s;
    let deadly = [0, 1, 3][rng.random_range(0..3)];
    let mut faults: Vec<(u64, Fault)> =
        (0..count).map(|_| (rng.random_range(0..horizon_ms), fault(rng, setup, deadly))).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(rng: &mut SmallRng, setup: &Setup, deadly: u32) -> Fault {
    let shard = rng.random_range(0..setup.shards);
    let (down_ms, accept_after_ms) = ([50, 500, 5000][rng.random_range(0..3)], rng.random_range(500..4000));
    let ms = [100, 1000, 8000][rng.random_range(0..3)] + rng.random_range(0..500);
    let power = rng.random_bool(0.4);
    if setup.journal.is_some() && rng.random_bool(0.3) {
        return match rng.random_range(0..10 + 6 * deadly) {
            0..2 => Fault::SyncFails { shard, of_directory: rng.random_bool(0.3) },
            2 => Fault::WriteFails { shard },
            3..6 => Fault::DiskFull { shard, ms },
            6..10 => Fault::DiskSlow { ms, by_ms: [5, 100, 2000][rng.random_range(0..3)] },
            _ => Fault::CrashAtDisk { shard, calls: rng.random_range(1..12), power },
        };
    }
    match rng.random_range(0..40 + 10 * deadly) {
        0..6 => Fault::TierAway { ms, hangs: rng.random_bool(0.5) },
        6..9 => Fault::TierKilled { ms },
        9..13 => Fault::TierSlow { ms, factor: rng.random_range(5..100) },
        13..15 => Fault::PoolExhausted { ms },
        15..20 => Fault::Poison { key: rng.random_range(0..setup.keys), ms: ms * 10 },
        20..24 => Fault::ClockJump { ms: [-5000, -100, 100, 5000, 60_000][rng.random_range(0..5)] },
        24..28 => Fault::ClockRate { percent: [0, 50, 99, 101, 200, 100][rng.random_range(0..6)] },
        28..32 => Fault::CutOff { shard, ms },
        32..40 if setup.shards > 1 => Fault::Move { share_percent: rng.random_range(0..=100) },
        32..40 => Fault::TierAway { ms: ms / 10, hangs: false },
        n => match (n - 40) % 10 {
            0..4 => {
                let disk = match rng.random_range(0..20) {
                    0 => DiskFate::Lost,
                    2 => DiskFate::Rotten,
                    _ => DiskFate::Kept,
                };
                Fault::Crash { shard, power, disk, down_ms, accept_after_ms }
            }
            4..7 => Fault::CrashAtCommit { shard, is_before: rng.random_bool(0.4), down_ms, accept_after_ms },
            7..9 => Fault::Stop { shard, down_ms, accept_after_ms },
            _ => Fault::Usurp { shard, accept_after_ms },
        },
    }
}
