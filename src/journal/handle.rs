//! The open journal, shared by those who append, by the task that writes, and by whoever makes a checkpoint.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::checkpoint::{self, Checkpoint, Permit};
use super::disk::Disk;
use super::format::{FRAME_BYTES_MAX, FileId, FileKind, Frame, Kind, confirm_bytes, effect_bytes};
use super::groups::{Era, Group, Outcome, State};
use super::writer::{Begun, Traces, Writer, is_space, refused};
use super::{AppendError, Fsync, JournalError, Usage};
use crate::command::Effect;
use crate::gather::gather;
use crate::mutants::{Rule, is_planted};
use crate::record::JournalId;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify, oneshot, sleep_until};
use crate::task::Blocking;

/// After so long without work it is made known that the last group is durable.
const IDLE: Duration = Duration::from_millis(100);
const NOTE_BYTES_MAX: usize = 1024 * 1024;
const ENDED: &str = "the journal was stopped";

/// An open journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    id: JournalId,
    fsync: Fsync,
    disk: Arc<dyn Disk>,
    /// Locked before `state`. Held while files are written and synced, by nobody but the task and a checkpoint.
    writer: Mutex<Writer>,
    state: Mutex<State>,
    /// There may be something to write.
    work: Notify,
    failed: CancellationToken,
    checkpoint_wanted: watch::Sender<bool>,
    _lock: Box<dyn Send + Sync>,
}

/// What the task is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Commit,
    Sync,
    Mark,
    Stop,
}

impl Journal {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        id: JournalId,
        fsync: Fsync,
        writer: Writer,
        state: State,
        lock: Box<dyn Send + Sync>,
    ) -> Self {
        let shared = Shared {
            id,
            fsync,
            disk,
            writer: Mutex::new(writer),
            checkpoint_wanted: watch::Sender::new(state.wants_checkpoint()),
            state: Mutex::new(state),
            work: Notify::new(),
            failed: CancellationToken::new(),
            _lock: lock,
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn id(&self) -> JournalId {
        self.shared.id
    }

    /// Puts effects into the buffer of the next group: all or none. Never waits.
    ///
    /// # Errors
    /// [`AppendError`]: none of them is in the journal.
    pub fn append(&self, effects: &[Effect]) -> Result<Pending, AppendError> {
        let bytes: usize = effects.iter().map(effect_bytes).sum();
        self.shared.put(bytes, true, effects.len() as u64, |frame| {
            effects.iter().for_each(|effect| frame.push_effect(effect));
            Traces { last: effects.iter().map(Effect::version).max(), note: None }
        })
    }

    /// Puts bytes that the journal does not look into there, at most 1 MiB; the newest note replaces the former and survives
    /// checkpoints. It finds room even in a full journal.
    ///
    /// # Errors
    /// [`AppendError`]: it is not in the journal.
    pub fn append_note(&self, note: &[u8]) -> Result<Pending, AppendError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(AppendError::Full(format!("a note of {} bytes: at most {NOTE_BYTES_MAX}", note.len())));
        }
        self.shared.put(note.len() + 5, false, 1, |frame| {
            frame.push_note(note);
            Traces { last: None, note: Some(Bytes::copy_from_slice(note)) }
        })
    }

    /// A hint that the tier has these effects. Not waited for, and dropped where it is inconvenient; keeps recovery small.
    pub fn confirm(&self, effects: &[Effect]) {
        let bytes: usize = effects.iter().map(confirm_bytes).sum();
        {
            let mut state = self.shared.state.lock();
            state.note_confirmed(effects.iter().map(|effect| effect_bytes(effect) as u64).sum());
            if effects.is_empty() || state.failed.is_some() || state.is_stopped || !state.has_room(bytes) {
                return self.shared.look_at_checkpoint(state);
            }
            state.put(bytes, |group| {
                effects.iter().for_each(|effect| group.frame.push_confirm(effect));
                group.entries += effects.len() as u64;
            });
            self.shared.look_at_checkpoint(state);
        }
        self.shared.work.notify_one();
    }

    /// The work in the background: group commit, interval syncs, idle marks. Runs until `stop`, then writes and syncs what is
    /// buffered; what comes later is refused. To be run once.
    ///
    /// # Cancel safety
    /// Dropped once it has begun and before its end, it fails the journal: nobody else would ever answer those who wait.
    pub async fn run(&self, blocking: &dyn Blocking, stop: &CancellationToken) {
        let shared = &self.shared;
        let _guard = PoisonUnlessStopped(shared);
        // When the interval is over, and when it has been idle for long.
        let (mut sync_at, mut mark_at) = (None, None);
        loop {
            let duty = tokio::select! {
                biased;
                () = shared.failed.cancelled() => return,
                () = stop.cancelled() => Duty::Stop,
                // Before the work, of which there may be no end.
                () = until(sync_at) => Duty::Sync,
                () = shared.work.notified() => Duty::Commit,
                () = until(mark_at) => Duty::Mark,
            };
            if duty != Duty::Commit || shared.state.lock().is_due() {
                mark_at = None;
                if duty == Duty::Commit && shared.fsync == Fsync::Always {
                    gather(|| shared.state.lock().gathering()).await;
                }
                shared.work_on(duty, blocking).await;
            }
            if duty == Duty::Stop {
                return;
            }
            let (is_unsynced, wants_mark, is_due) = shared.leftover();
            sync_at = match shared.fsync {
                Fsync::Interval(interval) if is_unsynced => sync_at.or_else(|| Some(Instant::now() + interval)),
                Fsync::Interval(_) | Fsync::Always | Fsync::Never => None,
            };
            if wants_mark && mark_at.is_none() {
                mark_at = Some(Instant::now() + IDLE);
            }
            if is_due {
                shared.work.notify_one();
            }
        }
    }

    /// Syncs all that is durable at the journal's level for good, whatever that level is.
    ///
    /// # Errors
    /// [`JournalError::Failed`]: nobody knows (R23).
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn sync(&self, blocking: &dyn Blocking) -> Result<(), JournalError> {
        if self.shared.fsync == Fsync::Always {
            return Ok(());
        }
        let shared = self.shared.clone();
        let sync = move || {
            shared.perform(Duty::Sync);
            shared.failure().map_or(Ok(()), |reason| Err(JournalError::Failed(reason)))
        };
        on(blocking, sync).await
    }

    /// Resolves once the journal can't be written any more, with the reason (R23).
    pub async fn failed(&self) -> String {
        self.shared.failed.cancelled().await;
        self.shared.failure().unwrap_or_default()
    }

    pub fn usage(&self) -> Usage {
        self.shared.state.lock().usage()
    }

    pub fn wants_checkpoint(&self) -> bool {
        self.shared.state.lock().wants_checkpoint()
    }

    /// Resolves when a checkpoint is worth it; at once again, if one has failed.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn until_checkpoint_wanted(&self) {
        // An error would say that the sender is gone, and `self` holds it.
        let _ = self.shared.checkpoint_wanted.subscribe().wait_for(|wanted| *wanted).await;
    }

    /// Begins a new segment, waits until everything appended before has been applied (its [`Pending`]s are dropped), and
    /// gives the place to write the unspilled effects to. One at a time.
    ///
    /// # Errors
    /// [`JournalError::Refused`] if the disk has no room for it, or another one is being made.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a shorter segment behind.
    pub async fn begin_checkpoint(&self, blocking: &dyn Blocking) -> Result<Checkpoint, JournalError> {
        let permit = self.shared.begin_checkpoint()?;
        let shared = self.shared.clone();
        let (begun, traces, earlier) = on(blocking, move || shared.rotate()).await?;
        for over in earlier.into_iter().filter(|_| !is_planted(Rule::R13Trim)) {
            tokio::select! {
                biased;
                reason = self.failed() => return Err(JournalError::Failed(reason)),
                () = over.cancelled() => {}
            }
        }
        on(blocking, move || {
            Checkpoint::begin(permit, begun, traces).map_err(|error| {
                if is_space(&error) {
                    refused(&error)
                } else {
                    JournalError::Refused(format!("no checkpoint can be made: {error}"))
                }
            })
        })
        .await
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The result of work that blocks.
async fn on<T: Send + 'static>(
    blocking: &dyn Blocking,
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let (sender, receiver) = oneshot::channel();
    // Nobody listens any more: what was made is dropped.
    blocking.run(Box::new(move || drop(sender.send(work())))).await;
    receiver.await.unwrap_or_else(|_| Err(JournalError::Failed("the writing of the journal broke off".into())))
}

impl Shared {
    pub(super) fn id(&self) -> JournalId {
        self.id
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    fn put(
        &self,
        bytes: usize,
        needs_room: bool,
        entries: u64,
        write: impl FnOnce(&mut Frame) -> Traces,
    ) -> Result<Pending, AppendError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.failed {
            return Err(AppendError::Failed(reason.clone()));
        }
        if state.is_stopped {
            return Err(AppendError::Failed(ENDED.into()));
        }
        let era = state.era.clone();
        if entries == 0 {
            let outcome: Arc<Outcome> = Arc::default();
            outcome.end(Ok(()));
            return Ok(Pending { outcome, _era: era });
        }
        if bytes > FRAME_BYTES_MAX {
            return Err(AppendError::Full(format!("{bytes} bytes at once: the journal takes {FRAME_BYTES_MAX}")));
        }
        if needs_room && !state.has_room(bytes) {
            let reason = state.full();
            self.look_at_checkpoint(state);
            return Err(AppendError::Full(reason));
        }
        let outcome = state.put(bytes, |group| {
            group.traces.add(write(&mut group.frame));
            group.entries += entries;
            group.appends += 1;
        });
        drop(state);
        self.work.notify_one();
        Ok(Pending { outcome, _era: era })
    }

    /// Tells whoever waits for it when a checkpoint becomes worth it, or has ceased to be. Under the lock, so that the latest
    /// word stays.
    fn look_at_checkpoint(&self, state: MutexGuard<'_, State>) {
        let wanted = state.wants_checkpoint();
        self.checkpoint_wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        drop(state);
    }

    /// Nothing is written any more (R23).
    pub(super) fn poison(&self, reason: &str) {
        let groups = {
            let mut state = self.state.lock();
            state.failed.get_or_insert_with(|| reason.to_owned());
            state.give_up()
        };
        for group in groups {
            group.outcome.end(Err(JournalError::Failed(reason.to_owned())));
        }
        self.failed.cancel();
    }

    /// Does a piece of work where it may block.
    async fn work_on(self: &Arc<Self>, duty: Duty, blocking: &dyn Blocking) {
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, has_ended) = (self.clone(), ended.clone());
        let work = move || {
            shared.perform(duty);
            // Relaxed: the end of the work is what orders it.
            has_ended.store(true, Ordering::Relaxed);
        };
        blocking.run(Box::new(work)).await;
        if !ended.load(Ordering::Relaxed) {
            self.poison("the writing of the journal broke off");
        }
    }

    fn perform(&self, duty: Duty) {
        let done = match duty {
            Duty::Commit => self.commit(),
            Duty::Sync => self.commit().and_then(|()| self.sync(&mut self.writer.lock())),
            Duty::Mark => self.mark(),
            Duty::Stop => self.stop(),
        };
        let writer = self.writer.lock();
        let mut state = self.state.lock();
        (state.is_unsynced, state.wants_mark) = (writer.is_unsynced(), writer.wants_mark());
        drop(state);
        drop(writer);
        if let Err(JournalError::Failed(reason)) = done {
            self.poison(&reason);
        }
    }

    /// Writes a group that is due; it is answered as soon as it is what its caller asked for.
    fn commit(&self) -> Result<(), JournalError> {
        let mut writer = self.writer.lock();
        let group = {
            let mut state = self.state.lock();
            if !state.is_due() || state.failed.is_some() {
                return Ok(());
            }
            state.take()
        };
        group.map_or(Ok(()), |group| self.write(&mut writer, group))
    }

    fn write(&self, writer: &mut Writer, mut group: Group) -> Result<(), JournalError> {
        let mut written = writer.write(&mut group.frame, Kind::Entries);
        if written.is_ok() && group.is_awaited() && self.fsync == Fsync::Always {
            written = self.sync(writer);
        }
        if written.is_ok() {
            writer.traces.add(std::mem::take(&mut group.traces));
            if group.is_awaited() {
                writer.tell();
            }
        }
        if let Err(JournalError::Failed(reason)) = &written {
            // Whoever is told must find the journal failed.
            self.poison(reason);
        }
        let mut state = self.state.lock();
        state.counts.groups += u64::from(written.is_ok());
        state.counts.entries += if written.is_ok() { group.entries } else { 0 };
        state.done(&mut group, writer.current());
        self.look_at_checkpoint(state);
        group.outcome.end(written.clone());
        match written {
            // Those who waited were told, and the next group may find room.
            Ok(()) | Err(JournalError::Refused(_)) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    fn sync(&self, writer: &mut Writer) -> Result<(), JournalError> {
        if !writer.is_unsynced() {
            return Ok(());
        }
        let began = Instant::now();
        writer.sync()?;
        let mut state = self.state.lock();
        state.counts.syncs += 1;
        state.counts.last_sync_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes what says that the last group is durable: confirms that waited, or an empty frame. Not synced: if it is lost,
    /// so is only the proof.
    fn mark(&self) -> Result<(), JournalError> {
        let mut writer = self.writer.lock();
        if self.state.lock().failed.is_some() {
            return Ok(());
        }
        let group = self.state.lock().take();
        if let Some(group) = group {
            return self.write(&mut writer, group);
        }
        let mut frame = Frame::default();
        if !writer.wants_mark() {
            return Ok(());
        }
        match writer.write(&mut frame, Kind::Mark) {
            Ok(()) | Err(JournalError::Refused(_)) => {
                self.state.lock().grown(writer.current());
                Ok(())
            }
            Err(failed) => Err(failed),
        }
    }

    /// Whether something is to be synced, to be written once it is idle, and to be written now.
    fn leftover(&self) -> (bool, bool, bool) {
        let state = self.state.lock();
        (state.is_unsynced, state.wants_mark || state.has_groups(), state.is_due())
    }

    fn stop(&self) -> Result<(), JournalError> {
        let mut writer = self.writer.lock();
        loop {
            let group = {
                let mut state = self.state.lock();
                if state.failed.is_some() {
                    return Ok(());
                }
                let group = state.take();
                // In the same moment in which nothing is left: whatever comes later is refused.
                state.is_stopped |= group.is_none();
                group
            };
            let Some(group) = group else { break };
            self.write(&mut writer, group)?;
        }
        self.sync(&mut writer)?;
        drop(writer);
        self.mark()
    }

    fn begin_checkpoint(self: &Arc<Self>) -> Result<Permit, JournalError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.failed {
            return Err(JournalError::Failed(reason.clone()));
        }
        if state.is_checkpointing {
            return Err(JournalError::Refused("a checkpoint is being made".into()));
        }
        state.is_checkpointing = true;
        self.look_at_checkpoint(state);
        Ok(Permit(self.clone()))
    }

    pub(super) fn end_checkpoint(&self) {
        let mut state = self.state.lock();
        state.is_checkpointing = false;
        self.look_at_checkpoint(state);
    }

    /// Begins the segment that a checkpoint reaches up to. All that was written before belongs to the era that ends here.
    fn rotate(&self) -> Result<(Begun, Traces, Vec<CancellationToken>), JournalError> {
        let mut writer = self.writer.lock();
        if let Some(reason) = self.failure() {
            return Err(JournalError::Failed(reason));
        }
        let begun = writer.begin_segment(0).inspect_err(|error| {
            if let JournalError::Failed(reason) = error {
                self.poison(reason);
            }
        })?;
        let mut state = self.state.lock();
        state.grown(writer.current());
        let (era, earlier) = state.next_era();
        drop(state);
        // The last of its holders, maybe: that wakes whoever waits for it.
        drop(era);
        Ok((begun, writer.traces.clone(), earlier))
    }

    /// A checkpoint is durable under its name.
    pub(super) fn checkpointed(&self, number: u64, bytes: u64) {
        let mut state = self.state.lock();
        let name = |kind, number| FileId { kind, journal: self.id, number }.name();
        let kept = state.files.segments.split_off(&number);
        let segments = std::mem::replace(&mut state.files.segments, kept);
        let segments = segments.into_iter().map(|(number, bytes)| (name(FileKind::Segment, number), bytes));
        let before = state.files.checkpoint.replace((number, bytes));
        let before = before.map(|(number, bytes)| (name(FileKind::Checkpoint, number), bytes));
        state.files.replaced.extend(segments.chain(before));
        state.checkpointed();
    }

    pub(super) fn remove_replaced(&self) -> io::Result<()> {
        let mut names: Vec<(String, u64)> = std::mem::take(&mut self.state.lock().files.replaced).into_iter().collect();
        let removed = checkpoint::remove(&*self.disk, &mut names);
        let mut state = self.state.lock();
        state.files.replaced.extend(names);
        state.measure();
        self.look_at_checkpoint(state);
        removed
    }
}

/// Fails the journal if the task that writes it ends in any way but by being told to.
struct PoisonUnlessStopped<'a>(&'a Shared);

impl Drop for PoisonUnlessStopped<'_> {
    fn drop(&mut self) {
        if !self.0.state.lock().is_stopped {
            self.0.poison("the task that writes the journal has ended");
        }
    }
}

/// An append that is under way. To be held until its effects are applied: a checkpoint waits for its drop.
#[must_use]
pub struct Pending {
    outcome: Arc<Outcome>,
    _era: Arc<Era>,
}

impl Pending {
    /// Waits until it is durable at the journal's level.
    ///
    /// # Errors
    /// [`JournalError::Refused`]: it is certainly not in the journal. [`JournalError::Failed`]: nobody knows.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn durable(&self) -> Result<(), JournalError> {
        self.outcome.wait().await
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
