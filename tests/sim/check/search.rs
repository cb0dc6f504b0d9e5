//! Wing and Gong's search for an order, with Lowe's memory of what was tried ("Testing for linearizability", 2017).

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use super::model::State;
use crate::history::{Moment, Op};

/// Configurations that are looked at before the search is given up.
const CONFIGURATIONS_MAX: usize = 2_000_000;

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// With the longest order that was found.
    Impossible {
        best: Vec<usize>,
    },
    TooHard,
}

/// A step of the order that is being tried.
struct Frame {
    state: State,
    candidates: Vec<usize>,
    next: usize,
    /// What was put in place to get here.
    taken: Option<usize>,
}

type Seen = HashSet<(u64, State), BuildHasherDefault<DefaultHasher>>;

/// How an order is looked for.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Whether the memory tells apart which open operations were used up. Else what is found is an order, but one may be missed.
    is_exact: bool,
    /// Whether open operations come first, or only when nothing else goes.
    open_first: bool,
    configurations_max: usize,
}

/// First in ways that miss some orders, then, if need be, exactly.
pub fn search(ops: &[Op], starts_anyhow: bool) -> Verdict {
    let rough = Way { is_exact: false, open_first: false, configurations_max: CONFIGURATIONS_MAX };
    match search_with(ops, starts_anyhow, rough) {
        Verdict::Linearizable => Verdict::Linearizable,
        Verdict::Impossible { .. } | Verdict::TooHard => {
            search_with(ops, starts_anyhow, Way { is_exact: true, ..rough })
        }
    }
}

/// Whether there is an order, if that is soon found: open deletions and the like are done as early as they can be, or as late.
pub fn is_soon_found(ops: &[Op], starts_anyhow: bool) -> bool {
    [true, false].into_iter().any(|open_first| {
        let way = Way { is_exact: true, open_first, configurations_max: CONFIGURATIONS_MAX / 10 };
        search_with(ops, starts_anyhow, way) == Verdict::Linearizable
    })
}

fn search_with(ops: &[Op], starts_anyhow: bool, way: Way) -> Verdict {
    let spread = |i: usize| if way.is_exact || !ops[i].is_open() { spread(i) } else { 0 };
    let mut order: Vec<usize> = (0..ops.len()).collect();
    order.sort_by_key(|&i| ops[i].begin);
    let open_first = way.open_first;
    let mut search =
        Search { ops, open_first, order, is_placed: vec![false; ops.len()], placed: Vec::new(), first_left: 0 };
    let required = ops.iter().filter(|op| !op.is_open()).count();
    let mut required_left = required;
    let mut seen = Seen::default();
    let mut sum = 0_u64;
    let mut best = Vec::new();
    let state = State::new(starts_anyhow);
    let mut frames = vec![Frame { state, candidates: search.candidates(), next: 0, taken: None }];
    while let Some(frame) = frames.last_mut() {
        if required_left == 0 {
            return Verdict::Linearizable;
        }
        let Some(&i) = frame.candidates.get(frame.next) else {
            if let Some(i) = frames.pop().and_then(|frame| frame.taken) {
                search.take_back(i);
                sum ^= spread(i);
                required_left += usize::from(!ops[i].is_open());
            }
            continue;
        };
        frame.next += 1;
        let Some(state) = frame.state.after(&ops[i]) else { continue };
        if !seen.insert((sum ^ spread(i), state)) {
            continue;
        }
        if seen.len() > way.configurations_max {
            return Verdict::TooHard;
        }
        search.place(i);
        sum ^= spread(i);
        required_left -= usize::from(!ops[i].is_open());
        if search.placed.len() > best.len() {
            best.clone_from(&search.placed);
        }
        frames.push(Frame { state, candidates: search.candidates(), next: 0, taken: Some(i) });
    }
    Verdict::Impossible { best }
}

/// A number for an operation; those of a set are XORed.
fn spread(i: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    i.hash(&mut hasher);
    hasher.finish()
}

struct Search<'a> {
    ops: &'a [Op],
    open_first: bool,
    /// By begin.
    order: Vec<usize>,
    is_placed: Vec<bool>,
    placed: Vec<usize>,
    /// All before it in `order` are placed or open.
    first_left: usize,
}

impl Search<'_> {
    fn place(&mut self, i: usize) {
        self.is_placed[i] = true;
        self.placed.push(i);
    }

    fn take_back(&mut self, i: usize) {
        self.is_placed[i] = false;
        self.placed.pop();
        self.first_left = 0;
    }

    /// Who may come next: all that began before any of those that are left has ended.
    fn candidates(&mut self) -> Vec<usize> {
        while self.order.get(self.first_left).is_some_and(|&i| self.is_placed[i]) {
            self.first_left += 1;
        }
        let mut first_end = Moment::MAX;
        let mut candidates = Vec::new();
        let mut open = Vec::new();
        for &i in &self.order[self.first_left..] {
            let op = &self.ops[i];
            if op.begin > first_end {
                break;
            }
            if self.is_placed[i] {
                continue;
            }
            first_end = first_end.min(op.end);
            if op.is_open() { open.push(i) } else { candidates.push(i) }
        }
        candidates.retain(|&i| self.ops[i].begin <= first_end);
        open.retain(|&i| self.ops[i].begin <= first_end);
        if self.open_first {
            std::mem::swap(&mut candidates, &mut open);
        }
        candidates.append(&mut open);
        candidates
    }
}
