//! A store, the tier below it and its owner, as a state machine that one seed drives: everything that takes time in the
//! real world takes any number of steps here.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A tier row, or the newest committed state of a key: `None` if it does not exist.
pub(super) type Rows = BTreeMap<Key, Record>;

/// A load on its way: not read yet, or read and not delivered yet.
#[derive(Debug)]
struct Load {
    key: Key,
    id: FillId,
    row: Option<Option<Record>>,
}

/// A scan of the rows on its way, a page at a time.
#[derive(Debug)]
struct Scan {
    id: ScanId,
    after: Option<Key>,
    page: Option<Vec<Key>>,
}

#[derive(Debug)]
pub(super) struct World {
    pub store: Store,
    pub small: Small,
    pub keys: Vec<Key>,
    pub now: Timestamp,
    /// The newest committed effect of each key.
    pub newest: BTreeMap<Key, Effect>,
    pub rows: Rows,
    /// The newest version that the tier was told of each key.
    pub told: BTreeMap<Key, Version>,
    pub flights: Vec<Vec<Effect>>,
    pub set_aside: BTreeSet<Key>,
    /// Who waits for a load, with the version that was the newest when they asked.
    pub readers: BTreeMap<u64, (Key, Version)>,
    /// Who waits for the tier.
    pub awaiting: BTreeMap<u64, (Key, Version)>,
    /// As they were once.
    hints: BTreeMap<Key, Hint>,
    loads: Vec<Load>,
    /// The last one is listened to, the others were overtaken and don't know it.
    scans: Vec<Scan>,
    rng: StdRng,
    lsn: u64,
    tickets: u64,
    clock_ms_max: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let small = Small {
            policy: PolicyKind::ALL[rng.random_range(0..3)],
            spill: [Spill::Evicted, Spill::Evicted, Spill::Everything, Spill::Nothing][rng.random_range(0..4)],
            partitions: [1, 1, 4][rng.random_range(0..3)],
            capacity: rng.random_range(1..8),
            bytes_max: [4 * ENTRY_BYTES, 1 << 30][rng.random_range(0..2)],
            backlog: [3, 1000][rng.random_range(0..2)],
        };
        let keys = (0..rng.random_range(2..24)).map(|i| key(&format!("k{i}"))).collect();
        Self {
            store: small.build(),
            small,
            keys,
            now: Timestamp(1),
            newest: BTreeMap::new(),
            rows: Rows::new(),
            told: BTreeMap::new(),
            flights: Vec::new(),
            set_aside: BTreeSet::new(),
            readers: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            hints: BTreeMap::new(),
            loads: Vec::new(),
            scans: Vec::new(),
            rng,
            lsn: 0,
            tickets: 0,
            clock_ms_max: 5,
        }
    }

    pub fn has_tier(&self) -> bool {
        self.small.spill != Spill::Nothing
    }

    /// The newest committed record of a key, expired or not.
    pub fn newest_record(&self, key: &Key) -> Option<&Record> {
        match self.newest.get(key)? {
            Effect::Set(record) => Some(record),
            Effect::Delete { .. } => None,
        }
    }

    fn newest_version(&self, key: &Key) -> Version {
        self.newest.get(key).map(Effect::version).unwrap_or_default()
    }

    fn any_key(&mut self) -> Key {
        self.keys[self.rng.random_range(0..self.keys.len())].clone()
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    pub fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.put(),
            25..33 => self.delete(),
            33..45 => self.get(),
            45..55 => self.begin_load(),
            55..60 => self.read_row(),
            60..66 => self.end_load(),
            66..74 => self.take_spill(),
            74..83 => self.end_flight(),
            83..85 => self.hand_out_again(),
            85..87 => self.restart_scan(),
            87..92 => self.go_on_scanning(),
            92..94 => self.await_clean(),
            94..95 => self.stop_awaiting(),
            95..97 => self.now.0 += self.rng.random_range(0..=self.clock_ms_max),
            97..98 => self.vacate(),
            98..99 => self.lend_slots(),
            _ => self.delete_expired(),
        }
    }

    fn commit(&mut self, effect: Effect) {
        let Some(admission) = self.store.admit(effect.size_bytes()) else { return };
        self.newest.insert(effect.key().clone(), effect.clone());
        self.store.apply(&effect, admission);
    }

    fn next_record(&mut self, key: Key) -> Record {
        self.lsn += 1;
        let padding = [0, 10, 700, 1_100][self.rng.random_range(0..4)]; // packed, and too long for that
        let value = Value::new(format!("{} {}", self.lsn, "x".repeat(padding))).unwrap();
        let ttl = self.rng.random_range(1..20);
        let expires_at = self.rng.random_bool(0.3).then(|| Timestamp(self.now.0 + ttl));
        Record { key, value, version: version(self.lsn), expires_at }
    }

    fn put(&mut self) {
        let key = self.any_key();
        let record = self.next_record(key);
        self.commit(Effect::Set(record));
    }

    fn delete(&mut self) {
        let key = self.any_key();
        self.lsn += 1;
        // As `evaluate` has it: only what exists is deleted. An expired record is deleted by `delete_expired`.
        if self.newest_record(&key).is_some() {
            self.commit(Effect::Delete { key, version: version(self.lsn) });
        }
    }

    fn delete_expired(&mut self) {
        for key in self.store.expired(self.now, 2) {
            assert!(self.newest_record(&key).is_some_and(|record| record.is_expired(self.now)), "{key} lives");
            self.lsn += 1;
            self.commit(Effect::Delete { key, version: version(self.lsn) });
        }
    }

    /// For the policy, and to see that hints stay right however old they are; the invariants look at what is known.
    fn get(&mut self) {
        let key = self.any_key();
        let hint = self.hints.get(&key).copied().unwrap_or_else(|| self.store.hint(&key));
        assert_eq!(self.store.get(&key, hint, self.now), self.store.peek(&key, self.now), "{key}");
        if self.rng.random_bool(0.1) {
            let mut hints = Hints::new();
            self.store.look_ahead(self.keys.iter().map(Some), &mut hints);
            self.hints = self.keys.iter().cloned().zip(hints.into_iter().flatten()).collect();
        }
    }

    fn begin_load(&mut self) {
        let (key, ticket) = (self.any_key(), self.ticket());
        match self.store.begin_fill(&key, Ticket(ticket), self.now) {
            Fill::Known(_) => return,
            Fill::Started(id) => self.loads.push(Load { key: key.clone(), id, row: None }),
            Fill::Joined => {}
        }
        self.readers.insert(ticket, (key.clone(), self.newest_version(&key)));
    }

    fn read_row(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.loads.len());
        let load = &mut self.loads[at];
        load.row.get_or_insert_with(|| self.rows.get(&load.key).cloned());
    }

    fn end_load(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.loads.len());
        let load = self.loads.swap_remove(at);
        let Some(row) = load.row else {
            let tickets = self.store.fail_fill(&load.key, load.id);
            return self.answer(&load.key, tickets, None);
        };
        let tickets = self.store.complete_fill(&load.key, load.id, row.as_ref(), self.now);
        self.answer(&load.key, tickets, Some(row));
    }

    /// R12: a reader may see what came after its question, never what was overwritten before it.
    fn answer(&mut self, key: &Key, tickets: Vec<Ticket>, row: Option<Option<Record>>) {
        for ticket in tickets {
            let (asked, floor) = self.readers.remove(&ticket.0).expect("a reader is answered once");
            assert_eq!(asked, *key);
            let seen = row.clone().flatten().map(|row| row.version);
            assert!(
                seen.is_none_or(|seen| seen >= floor),
                "a reader of {key} that asked at {floor} was answered {seen:?}"
            );
        }
    }

    fn take_spill(&mut self) {
        let (rows, bytes) = (self.rng.random_range(1..6), self.rng.random_range(1..1000));
        let effects = self.store.take_spill(rows, bytes);
        for effect in &effects {
            let is_twice = self.flights.iter().flatten().any(|other| other.key() == effect.key());
            assert!(!is_twice, "{} is in two flushes at a time (R11)", effect.key());
            assert!(self.set_aside.remove(effect.key()) || self.newest.contains_key(effect.key()));
        }
        if !effects.is_empty() {
            self.flights.push(effects);
        }
    }

    fn end_flight(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.flights.len());
        let effects = self.flights.swap_remove(at);
        match self.rng.random_range(0..10) {
            0..5 => {
                self.flush(&effects);
                self.confirm(&effects);
            }
            5 => self.store.unflushed(&effects),
            6 => {
                self.flush(&effects); // and the answer is lost
                self.store.unflushed(&effects);
            }
            7 => {
                self.flush(&effects); // the answer is late: it is flushed again, under a new token
                self.flights.push(effects);
            }
            8 => {
                let (poison, rest) = effects.split_first().unwrap();
                self.flush(rest);
                self.confirm(rest);
                self.store.set_aside(poison);
                self.set_aside.insert(poison.key().clone());
            }
            _ => {
                self.flush(&effects); // committed, the answer lost, and then the server has changed its mind
                effects.iter().for_each(|effect| self.store.set_aside(effect));
                self.set_aside.extend(effects.iter().map(|effect| effect.key().clone()));
            }
        }
    }

    /// As `Tier::flush` has it: guarded by version (R19).
    fn flush(&mut self, effects: &[Effect]) {
        for effect in effects {
            let is_newer = self.rows.get(effect.key()).is_none_or(|row| row.version < effect.version());
            match effect {
                Effect::Set(record) if is_newer => drop(self.rows.insert(record.key.clone(), record.clone())),
                Effect::Delete { key, .. } if is_newer => drop(self.rows.remove(key)),
                Effect::Set(_) | Effect::Delete { .. } => {}
            }
            let told = self.told.entry(effect.key().clone()).or_default();
            *told = effect.version().max(*told);
        }
    }

    fn confirm(&mut self, effects: &[Effect]) {
        for ticket in self.store.confirm(effects) {
            let (key, awaited) = self.awaiting.remove(&ticket.0).expect("a ticket is answered once");
            let is_there = self.told[&key] >= awaited;
            let is_gone = self.newest_record(&key).is_none() && !self.rows.contains_key(&key);
            assert!(is_there || is_gone, "who awaited {awaited} of {key} was told too early");
        }
    }

    fn hand_out_again(&mut self) {
        if let Some(key) = self.set_aside.pop_first()
            && self.store.hand_out_again(&key)
        {
            self.set_aside.insert(key);
        }
    }

    fn restart_scan(&mut self) {
        if self.has_tier() {
            self.scans.push(Scan { id: self.store.restart_filter(), after: None, page: None });
        }
    }

    /// A page is read at one step and told at another.
    fn go_on_scanning(&mut self) {
        if self.scans.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.scans.len());
        let scan = &mut self.scans[at];
        let Some(page) = scan.page.take() else {
            let after = |key: &&Key| scan.after.as_ref().is_none_or(|after| *key > after);
            scan.page = Some(self.rows.keys().filter(after).take(10).cloned().collect());
            return;
        };
        self.store.extend_filter(scan.id, &page);
        match page.last() {
            Some(last) => scan.after = Some(last.clone()),
            None => {
                self.store.finish_filter(scan.id);
                self.scans.remove(at);
            }
        }
    }

    fn await_clean(&mut self) {
        let (key, ticket) = (self.any_key(), self.ticket());
        let awaited = self.newest_version(&key);
        if self.store.await_clean(&key, awaited, Ticket(ticket)) {
            self.awaiting.insert(ticket, (key, awaited));
        }
    }

    fn stop_awaiting(&mut self) {
        if let Some((ticket, (key, _))) = self.awaiting.pop_first() {
            self.store.stop_awaiting(&key, Ticket(ticket));
        }
    }

    fn some_slots(&mut self) -> SlotSet {
        let (first, keys) = (self.rng.random_range(0..2), self.keys.clone());
        keys.iter().skip(first).step_by(2).map(Slot::of).collect()
    }

    fn vacate(&mut self) {
        let slots = self.some_slots();
        self.store.vacate(&slots);
        self.forget_dropped();
    }

    /// Another shard serves some slots for a while. Loads may be in flight all the time.
    fn lend_slots(&mut self) {
        let slots = self.some_slots();
        if !self.has_tier() || !self.flights.is_empty() {
            return;
        }
        self.store.vacate(&slots);
        while self.store.on_their_way(&slots) > 0 {
            let effects = self.store.take_spill(100, 1 << 20);
            self.flush(&effects);
            self.confirm(&effects);
        }
        if self.store.entries_in(&slots) > 0 {
            return; // the tier rejects something
        }
        for key in self.keys.clone().into_iter().filter(|key| slots.contains(Slot::of(key))) {
            let record = self.next_record(key);
            let effect = match self.rng.random_range(0..3) {
                0 => Effect::Delete { key: record.key, version: record.version },
                1 => Effect::Set(record),
                _ => continue,
            };
            self.flush(std::slice::from_ref(&effect));
            self.newest.insert(effect.key().clone(), effect);
        }
        self.restart_scan();
    }

    /// In a pure cache what is evicted never was.
    pub fn forget_dropped(&mut self) {
        if !self.has_tier() {
            self.newest.retain(|key, _| self.store.explain(key).is_some());
        }
    }

    /// Heals everything, and lets everything that waits come to its end.
    pub fn converge(&mut self) {
        while !self.loads.is_empty() {
            self.read_row();
            self.end_load();
        }
        self.flights.drain(..).for_each(|effects| self.store.unflushed(&effects));
        self.drain();
        while !self.scans.is_empty() {
            self.go_on_scanning();
        }
    }

    pub fn drain(&mut self) {
        for key in std::mem::take(&mut self.set_aside) {
            self.store.hand_out_again(&key);
        }
        while self.store.on_their_way(&SlotSet::all()) > 0 {
            let effects = self.store.take_spill(7, 1 << 20);
            self.flush(&effects);
            self.confirm(&effects);
        }
    }

    /// Reads a key as a client would.
    pub fn serve(&mut self, key: &Key) -> Option<Found> {
        let ticket = self.ticket();
        match self.store.begin_fill(key, Ticket(ticket), self.now) {
            Fill::Known(known) => known.found,
            Fill::Joined => panic!("a load of {key} was never ended"),
            Fill::Started(id) => {
                let row = self.rows.get(key).cloned();
                let tickets = self.store.complete_fill(key, id, row.as_ref(), self.now);
                assert_eq!(tickets, [Ticket(ticket)]);
                let row = row.filter(|row| !row.is_expired(self.now))?;
                Some(Found { value: row.value, version: row.version, expires_at: row.expires_at })
            }
        }
    }
}
