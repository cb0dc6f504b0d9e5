//! Random lives of a journal: appends, confirms, notes, checkpoints and faults, and then a stop, a kill or a loss of power.
//! What was promised must hold at the next start, whatever the disk made of it.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::journal::{JournalError, check};

/// What the test knows.
#[derive(Default)]
struct Model {
    lsn: u64,
    /// What may be recovered: whatever was there at the last start, and what was appended since, by its version.
    possible: BTreeMap<Version, Effect>,
    /// What must be recovered, or something newer of its key.
    promised: BTreeMap<Key, Version>,
    /// What an append or a confirm of this life said: promised only if power stays.
    hoped: BTreeMap<Key, Version>,
    confirmed: BTreeMap<Key, Version>,
    /// In order, since the last start.
    appended: Vec<Effect>,
    refused: BTreeSet<Version>,
    last: Option<Version>,
    notes: Vec<Vec<u8>>,
    note_promised: usize,
    note_hoped: usize,
}

impl Model {
    fn effects(&mut self, rng: &mut StdRng) -> Vec<Effect> {
        let count = rng.random_range(1..5);
        let effects = (0..count).map(|_| {
            self.lsn += 1;
            let name = format!("key {}", rng.random_range(0..12));
            let len = if rng.random_bool(0.05) { rng.random_range(0..6000) } else { rng.random_range(0..200) };
            let value = format!("{} ", self.lsn).repeat(len / 4);
            if rng.random_bool(0.2) { delete(&name, self.lsn) } else { set(&name, self.lsn, &value) }
        });
        effects.collect()
    }

    fn append(&mut self, effects: &[Effect]) {
        self.possible.extend(effects.iter().map(|effect| (effect.version(), effect.clone())));
        self.appended.extend_from_slice(effects);
    }

    fn promise(&mut self, effects: &[Effect], even_without_power: bool) {
        let places = if even_without_power { &mut self.promised } else { &mut self.hoped };
        for effect in effects {
            let place = places.entry(effect.key().clone()).or_default();
            *place = effect.version().max(*place);
        }
    }

    fn refuse(&mut self, effects: &[Effect]) {
        self.refused.extend(effects.iter().map(Effect::version));
    }

    fn keep_hopes(&mut self) {
        for (key, version) in std::mem::take(&mut self.hoped) {
            let place = self.promised.entry(key).or_default();
            *place = version.max(*place);
        }
        self.note_promised = self.note_promised.max(self.note_hoped);
    }

    /// The newest of each key that the tier does not have.
    fn unspilled(&self) -> Vec<Effect> {
        let mut newest = BTreeMap::new();
        for (version, effect) in &self.possible {
            let confirmed = self.confirmed.get(effect.key()).is_some_and(|confirmed| confirmed >= version);
            if !self.refused.contains(version) && !confirmed {
                newest.insert(effect.key().clone(), effect.clone());
            }
        }
        newest.into_values().collect()
    }

    fn check(&mut self, recovered: &Recovered) {
        let found = by_key(&recovered.effects);
        assert_eq!(found.len(), recovered.effects.len(), "each key once");
        assert!(recovered.effects.is_sorted_by_key(Effect::version), "in order of version");
        for effect in &recovered.effects {
            let version = effect.version();
            assert_eq!(self.possible.get(&version), Some(effect), "{version} was never there, or was cut before");
            assert!(!self.refused.contains(&version), "{version} was refused");
        }
        let reaches = |key: &Key, version: Version| {
            found.get(key).is_some_and(|effect| effect.version() >= version)
                || self.confirmed.get(key).is_some_and(|confirmed| *confirmed >= version)
        };
        for (key, version) in &self.promised {
            assert!(reaches(key, *version), "`{key}` {version} is lost: {:?}", found.get(key));
            assert!(recovered.last >= Some(*version));
        }
        // A prefix: whatever was appended before something that was recovered is there too.
        let is_found = |effect: &Effect| found.get(effect.key()).is_some_and(|f| f.version() == effect.version());
        let reach = self.appended.iter().rposition(is_found).unwrap_or(0);
        for effect in self.appended.iter().take(reach).filter(|effect| !self.refused.contains(&effect.version())) {
            assert!(reaches(effect.key(), effect.version()), "{} is a hole", effect.version());
        }
        assert!(recovered.last >= self.last && recovered.last <= self.possible.keys().last().copied().max(self.last));
        let note = recovered.note.as_deref().map(<[u8]>::to_vec);
        let note = note.map_or(0, |note| 1 + self.notes.iter().position(|known| *known == note).unwrap());
        assert!(note >= self.note_promised, "note {note}, and {} was promised", self.note_promised);

        self.last = recovered.last;
        (self.note_promised, self.note_hoped) = (note, note);
        self.notes.truncate(note);
        self.possible = recovered.effects.iter().map(|effect| (effect.version(), effect.clone())).collect();
        self.promised = found.iter().map(|(key, effect)| (key.clone(), effect.version())).collect();
        self.hoped.clear();
        self.appended.clear();
        // What is confirmed and was found is still confirmed: the hint may be given again.
        self.confirmed.retain(|key, _| found.contains_key(key));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    PowerLoss,
}

async fn random_lives(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let fsync = match seed % 4 {
        0 => Fsync::Interval(Duration::from_millis(50)),
        1 => Fsync::Never,
        _ => Fsync::Always,
    };
    let options = Options { fsync, bytes_max: rng.random_range(40_000..400_000), segment_bytes: 8192 };
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    for _ in 0..rng.random_range(2..8) {
        let rig = match Rig::try_new(&disk, options) {
            Ok(rig) => rig,
            Err(error) => panic!("no start: {error}"),
        };
        model.check(&rig.recovered);
        let end = match rng.random_range(0..4) {
            0 => End::Stop,
            1 => End::Kill,
            _ => End::PowerLoss,
        };
        let waiting = live(&rig, &mut model, rng, fsync).await;
        match end {
            End::Stop => {
                let journal = rig.journal.clone();
                drop(rig.stop().await);
                let has_failed = journal.usage().is_failed;
                last_answers(&waiting, &mut model, fsync);
                if !has_failed {
                    model.keep_hopes();
                }
                if rng.random_bool(0.5) {
                    disk.crash(rng);
                }
            }
            End::Kill => {
                rig.kill().await;
                last_answers(&waiting, &mut model, fsync);
                // After a failed sync it was told so, and what was acknowledged before is there.
                model.keep_hopes();
            }
            End::PowerLoss => {
                rig.kill().await;
                last_answers(&waiting, &mut model, fsync);
                disk.crash(rng);
            }
        }
        drop(waiting);
        disk.heal();
        let report = check(&disk.attach(), &mut |_| {}).unwrap();
        assert_eq!(report.problems, [], "corrupt without rot");
        // A start that is cut short by another loss of power.
        if rng.random_bool(0.3) {
            for _ in 0..rng.random_range(0..2) {
                disk.fail_next_sync();
            }
            let opened = open_with(&disk, options);
            disk.heal();
            match opened {
                Ok((_, recovered)) => {
                    model.check(&recovered);
                    disk.crash(rng);
                }
                // What a kill left in the page cache is promised only as long as power stays.
                Err(_) if end == End::Kill && fsync != Fsync::Always => disk.kill(),
                Err(_) => disk.crash(rng),
            }
        }
    }
}

type Waiting = Vec<(Pending, Vec<Effect>)>;

/// What was answered though nobody waited for it.
fn last_answers(waiting: &Waiting, model: &mut Model, fsync: Fsync) {
    for (pending, effects) in waiting {
        match pending.durable().now_or_never() {
            Some(Ok(())) => model.promise(effects, fsync == Fsync::Always),
            Some(Err(JournalError::Refused(_))) => model.refuse(effects),
            Some(Err(JournalError::Failed(_))) | None => {}
        }
    }
}

async fn live(rig: &Rig, model: &mut Model, rng: &mut StdRng, fsync: Fsync) -> Waiting {
    let is_always = fsync == Fsync::Always;
    let mut waiting = Waiting::new();
    for _ in 0..rng.random_range(0..60) {
        match rng.random_range(0..100) {
            0..60 => {
                let effects = model.effects(rng);
                let Ok(pending) = rig.journal.append(&effects) else {
                    // Full or failed: certainly not there.
                    model.refuse(&effects);
                    continue;
                };
                model.append(&effects);
                waiting.push((pending, effects));
            }
            60..70 => settle(&mut waiting, model, is_always).await,
            70..80 => {
                // The tier has what is durable only (R10).
                let durable = if is_always { &model.promised } else { &model.hoped };
                let pick = rng.random_range(0..12);
                let Some((key, version)) = durable.iter().nth(pick).map(|(key, version)| (key.clone(), *version))
                else {
                    continue;
                };
                rig.journal.confirm(&[Effect::Delete { key: key.clone(), version }]);
                let place = model.confirmed.entry(key).or_default();
                *place = version.max(*place);
            }
            80..84 => {
                model.notes.push(format!("note {}", rng.random::<u64>()).into_bytes());
                let Ok(pending) = rig.journal.append_note(model.notes.last().unwrap()) else {
                    model.notes.pop();
                    continue;
                };
                match pending.durable().await {
                    Ok(()) if is_always => model.note_promised = model.notes.len(),
                    Ok(()) => model.note_hoped = model.notes.len(),
                    Err(JournalError::Refused(_)) => drop(model.notes.pop()),
                    Err(JournalError::Failed(_)) => return waiting,
                }
            }
            84..90 => {
                settle(&mut waiting, model, is_always).await;
                checkpoint(rig, model, rng, is_always).await;
            }
            90..95 => sleep_ms(rng.random_range(1..300)).await,
            95 => rig.disk.set_full(true),
            96 => rig.disk.set_full(false),
            97 => rig.disk.fail_next_write(ErrorKind::StorageFull, rng.random_range(0..300)),
            98 if rng.random_bool(0.3) => rig.disk.fail_next_write(ErrorKind::Other, rng.random_range(0..300)),
            99 if rng.random_bool(0.3) => rig.disk.fail_next_sync(),
            _ if rng.random_bool(0.3) => rig.disk.fail_next_sync_dir(),
            _ => {}
        }
    }
    if rng.random_bool(0.5) {
        settle(&mut waiting, model, is_always).await;
    }
    waiting
}

/// Waits for the answers, and takes them at their word.
async fn settle(waiting: &mut Waiting, model: &mut Model, is_always: bool) {
    for (pending, effects) in waiting.drain(..) {
        match pending.durable().await {
            Ok(()) => model.promise(&effects, is_always),
            Err(JournalError::Refused(_)) => model.refuse(&effects),
            Err(JournalError::Failed(_)) => {}
        }
    }
}

async fn checkpoint(rig: &Rig, model: &mut Model, rng: &mut StdRng, is_always: bool) {
    let Ok(mut checkpoint) = rig.journal.begin_checkpoint(&InPlace).await else { return };
    // What comes while it is being made may be in it too.
    let mut waiting = Waiting::new();
    for _ in 0..rng.random_range(0..5) {
        let effects = model.effects(rng);
        match rig.journal.append(&effects) {
            Ok(pending) => {
                model.append(&effects);
                waiting.push((pending, effects));
                tokio::task::yield_now().await;
            }
            Err(_) => model.refuse(&effects),
        }
    }
    settle(&mut waiting, model, is_always).await;
    let unspilled = model.unspilled();
    for effects in unspilled.chunks(3) {
        if checkpoint.write(effects).is_err() {
            return;
        }
    }
    if rng.random_bool(0.1) {
        return;
    }
    if checkpoint.finish().is_ok() && !rig.journal.usage().is_failed {
        model.promise(&unspilled, true);
    }
}

#[test]
fn what_was_promised_survives_whatever_ends_a_life() {
    let seeds = std::env::var("JOURNAL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(400_u64);
    let first = std::env::var("JOURNAL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0_u64);
    for seed in first..first + seeds {
        let run = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(random_lives(seed));
        });
        assert!(run.is_ok(), "to replay it: JOURNAL_SEED={seed} JOURNAL_SEEDS=1");
    }
}

/// The bytes of the files that a later group, a header or a checkpoint vouches for.
fn covered(disk: &MemoryDisk) -> Vec<(String, u64)> {
    let examined = crate::journal::examine::examine(&disk.attach(), &mut |_| {}).unwrap();
    let mut covered: Vec<(String, u64)> = Vec::new();
    covered.extend(examined.checkpoint.map(|part| (part.name, part.bytes)));
    let last = examined.segments.len() - 1;
    for (i, part) in examined.segments.into_iter().enumerate() {
        let end = examined.uncovered.filter(|_| i == last).unwrap_or(part.bytes);
        covered.push((part.name, end));
    }
    covered
}

#[tokio::test(start_paused = true)]
async fn rot_in_what_is_known_to_be_durable_is_always_noticed() {
    for seed in 0..60 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let rig = Rig::new(&disk, Options { segment_bytes: 4096, ..options(Fsync::Always) });
        let mut model = Model::default();
        for i in 0..rng.random_range(3..40) {
            let effects = model.effects(rng);
            model.append(&effects);
            rig.write(&effects).await;
            if i % 11 == 10 {
                rig.checkpoint(&model.unspilled()).await;
            }
        }
        rig.stop().await;
        let files = covered(&disk);
        for _ in 0..40 {
            let (file, end) = &files[rng.random_range(0..files.len())];
            let offset = rng.random_range(0..*end);
            assert!(disk.rot(file, offset));
            match open_with(&disk, options(Fsync::Always)) {
                Err(OpenError::Corrupt { file: said, offset: at, .. }) => {
                    assert!(said != *file || at <= offset, "seed {seed}: {said} at {at}, not {file} at {offset}");
                }
                Err(OpenError::Newer { file: said, .. }) => assert!(said == *file && (8..12).contains(&offset)),
                Err(error) => panic!("seed {seed}: {file} at {offset}: {error}"),
                Ok(_) => panic!("seed {seed}: rot in {file} at {offset} was not noticed"),
            }
            let report = check(&disk.attach(), &mut |_| {}).unwrap();
            assert!(!report.problems.is_empty());
            // The same bit again: whole as before.
            assert!(disk.rot(file, offset));
        }
        assert_eq!(check(&disk.attach(), &mut |_| {}).unwrap().problems, []);
    }
}
