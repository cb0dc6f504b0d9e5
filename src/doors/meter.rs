//! Counts the commands that come in at a door, by what came of them.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Door;
use crate::command::{Command, Expiry, Moved, Reply, Update};
use crate::metrics::{CommandMetrics, DoorName, Metrics, Outcome};
use crate::service::{Batch, Error, Replies, Service};

/// What is behind a door, as it is asked by one way in: commands are counted.
pub(super) struct Metered<S, M> {
    door: Arc<Door<S, M>>,
    name: DoorName,
}

impl<S, M> Metered<S, M> {
    pub fn new(door: &Arc<Door<S, M>>, name: DoorName) -> Self {
        Self { door: Arc::clone(door), name }
    }
}

impl<S: Service, M: Send + Sync + 'static> Service for Metered<S, M> {
    async fn execute(&self, batch: Batch) -> Replies {
        let kinds = Meter::kinds(&batch.commands);
        let started = Instant::now();
        let replies = self.door.service.execute(batch).await;
        self.door.meters.of(self.name).record(&kinds, &replies, started.elapsed());
        replies
    }
}

impl<S: Service, M> Door<S, M> {
    /// Answers a command at once, as [`Service::answer_now`], and counts it if it does.
    pub(super) fn answer_now(&self, name: DoorName, command: &Command) -> Option<Reply> {
        let started = Instant::now();
        let reply = self.service.answer_now(command)?;
        self.meters.of(name).add((Kind::of(command), outcome_of(&reply)), 1, started.elapsed());
        Some(reply)
    }
}

/// One for each way in.
#[derive(Debug)]
pub(super) struct Meters {
    rpc: Meter,
    resp: Meter,
    http: Meter,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let meter = |name| Meter::new(metrics, name);
        Self { rpc: meter(DoorName::Rpc), resp: meter(DoorName::Resp), http: meter(DoorName::Http) }
    }

    fn of(&self, name: DoorName) -> &Meter {
        match name {
            DoorName::Rpc => &self.rpc,
            DoorName::Resp => &self.resp,
            DoorName::Http => &self.http,
        }
    }
}

/// The counts of one door.
#[derive(Debug)]
struct Meter {
    commands: [Arc<CommandMetrics>; Kind::ALL.len()],
}

/// A command as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Put,
    Delete,
    Exists,
    Ttl,
    Expire,
    Persist,
    Scan,
    Count,
    Stats,
    Explain,
    Add,
    AddDecimal,
    Append,
    Overwrite,
    Take,
    GetAndExpire,
    Move,
    PutAllAbsent,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Exists,
        Self::Ttl,
        Self::Expire,
        Self::Persist,
        Self::Scan,
        Self::Count,
        Self::Stats,
        Self::Explain,
        Self::Add,
        Self::AddDecimal,
        Self::Append,
        Self::Overwrite,
        Self::Take,
        Self::GetAndExpire,
        Self::Move,
        Self::PutAllAbsent,
    ];

    fn of(command: &Command) -> Self {
        match command {
            Command::Get { .. } => Self::Get,
            Command::Put { .. } => Self::Put,
            Command::Delete { .. } => Self::Delete,
            Command::Exists { .. } => Self::Exists,
            Command::Ttl { .. } => Self::Ttl,
            Command::Expire { .. } => Self::Expire,
            Command::Persist { .. } => Self::Persist,
            Command::Scan { .. } => Self::Scan,
            Command::Count => Self::Count,
            Command::Stats => Self::Stats,
            Command::Explain { .. } => Self::Explain,
            Command::Update { update, .. } => match update {
                Update::Set { .. } => Self::Put,
                Update::Expire { .. } => Self::Expire,
                Update::Add { .. } => Self::Add,
                Update::AddDecimal { .. } => Self::AddDecimal,
                Update::Append { .. } => Self::Append,
                Update::Overwrite { .. } => Self::Overwrite,
                Update::Take => Self::Take,
                Update::GetAndExpire { .. } => Self::GetAndExpire,
            },
            Command::Move { .. } => Self::Move,
            Command::PutAllAbsent { .. } => Self::PutAllAbsent,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Exists => "exists",
            Self::Ttl => "ttl",
            Self::Expire => "expire",
            Self::Persist => "persist",
            Self::Scan => "scan",
            Self::Count => "count",
            Self::Stats => "stats",
            Self::Explain => "explain",
            Self::Add => "add",
            Self::AddDecimal => "add_decimal",
            Self::Append => "append",
            Self::Overwrite => "overwrite",
            Self::Take => "take",
            Self::GetAndExpire => "get_and_expire",
            Self::Move => "move",
            Self::PutAllAbsent => "put_all_absent",
        }
    }
}

impl Meter {
    fn new(metrics: &Metrics, door: DoorName) -> Self {
        Self { commands: Kind::ALL.map(|kind| metrics.command(door, kind.name())) }
    }

    /// What is about to be asked, for [`Meter::record`]. A short batch takes no memory for it.
    fn kinds(commands: &[Command]) -> SmallVec<[Kind; 16]> {
        commands.iter().map(Kind::of).collect()
    }

    /// Counts a batch: once for each run of equal ones, since most of a batch is.
    fn record(&self, kinds: &[Kind], replies: &Replies, took: Duration) {
        let mut ended = kinds.iter().zip(replies).map(|(kind, reply)| (*kind, outcome(reply)));
        let Some(mut run) = ended.next() else { return };
        let mut count = 1;
        for next in ended {
            if next == run {
                count += 1;
                continue;
            }
            self.add(run, count, took);
            (run, count) = (next, 1);
        }
        self.add(run, count, took);
    }

    fn add(&self, (kind, outcome): (Kind, Outcome), count: u64, took: Duration) {
        if let Some(command) = self.commands.get(kind as usize) {
            command.record(outcome, count, took);
        }
    }
}

fn outcome_of(reply: &Reply) -> Outcome {
    match reply {
        Reply::Found(None) | Reply::Done(false) | Reply::Expiry(Expiry::Missing) | Reply::Moved(Moved::Missing) => {
            Outcome::Missing
        }
        Reply::Conflict(_) | Reply::Moved(Moved::Refused) => Outcome::Conflict,
        Reply::Found(Some(_))
        | Reply::Stored(_)
        | Reply::Done(true)
        | Reply::Expiry(Expiry::Never | Expiry::InMillis(_))
        | Reply::Page { .. }
        | Reply::Count(_)
        | Reply::Stats(_)
        | Reply::Explained(_)
        | Reply::Number(_)
        | Reply::Moved(Moved::Done) => Outcome::Ok,
    }
}

fn outcome(reply: &Result<Reply, Error>) -> Outcome {
    match reply {
        Ok(reply) => outcome_of(reply),
        Err(Error::Busy(_)) => Outcome::Busy,
        Err(Error::Unavailable(_)) => Outcome::Unavailable,
        Err(Error::Unknown(_)) => Outcome::Unknown,
        Err(Error::WrongShard { .. }) => Outcome::WrongShard,
        Err(Error::ReplyTooLarge) => Outcome::TooLarge,
        Err(Error::Invalid(_)) => Outcome::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Version};

    #[test]
    fn every_kind_has_its_place_and_a_name_of_its_own() {
        for (i, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            assert!(Kind::ALL.iter().all(|other| *other == kind || other.name() != kind.name()));
        }
    }

    #[test]
    fn a_batch_is_counted_by_command_and_by_what_came_of_it() {
        let metrics = Metrics::new();
        let meter = Meter::new(&metrics, DoorName::Rpc);
        let key = Key::new("k").unwrap();
        let get = || Command::Get { key: key.clone() };
        let commands = [get(), get(), Command::Delete { key: key.clone() }, get(), Command::Count];
        let stored = || Ok(Reply::Stored(Version::new(1, 1)));
        let replies = vec![stored(), stored(), Ok(Reply::Done(false)), Err(Error::ReplyTooLarge), stored()];
        meter.record(&Meter::kinds(&commands), &replies, Duration::ZERO);
        let text = metrics.encode(Vec::new());
        for (command, result, count) in
            [("get", "ok", 2), ("delete", "missing", 1), ("get", "too_large", 1), ("count", "ok", 1)]
        {
            let line = format!("kv_commands_total{{door=\"rpc\",command=\"{command}\",result=\"{result}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        assert!(text.contains("kv_command_seconds_count{door=\"rpc\",command=\"get\"} 3\n"), "{text}");
    }
}
