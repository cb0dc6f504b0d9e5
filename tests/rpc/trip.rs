//! What goes in at one end comes out at the other.

use std::sync::Arc;

use overspill::cluster::{
    Assignment, ControlError, Fence, FenceToken, Holding, Incarnation, MapView, Member, MemberState, MemberStatus,
    ShardName, TierId,
};
use overspill::command::{
    Command, Condition, Cursor, Existence, ExpireWhen, Expiry, Explanation, Found, Moved, NewExpiry, PAIRS_MAX, Place,
    Reply, ShardStats, Update,
};
use overspill::doors::{self, Door, NoMember};
use overspill::record::{Epoch, JournalId, Lsn, Timestamp, Ttl, VALUE_BYTES_MAX, Value, Version};
use overspill::service::{BATCH_BYTES_MAX, Batch, Error, Replies, Service};
use overspill::slots::SlotSet;
use parking_lot::Mutex;

use crate::support::{LONG, Memory, Server, ask, batch, found_bytes, get, key, put};

/// Answers what it is told to, and keeps what it was asked.
#[derive(Default)]
struct Canned {
    replies: Mutex<Replies>,
    asked: Mutex<Vec<Batch>>,
}

impl Service for Canned {
    async fn execute(&self, batch: Batch) -> Replies {
        self.asked.lock().push(batch);
        self.replies.lock().clone()
    }
}

fn every_command() -> Vec<Command> {
    let ttl = Ttl::from_millis(1234).unwrap();
    let value = Value::new(&b"\x00\xff binary"[..]).unwrap();
    let put = |ttl, condition| Command::Put { key: key("k"), value: value.clone(), ttl, condition };
    vec![
        get("k"),
        put(None, Condition::Always),
        put(Some(ttl), Condition::Absent),
        put(None, Condition::Version(Version::new(3, 7))),
        Command::Delete { key: key("k") },
        Command::Exists { key: key("k") },
        Command::Ttl { key: key("k") },
        Command::Expire { key: key("k"), ttl },
        Command::Persist { key: key("k") },
        Command::Scan { cursor: Cursor::START, limit: 10 },
        Command::Scan { cursor: Cursor { slot: 16383, after: Some(key("z")) }, limit: u32::MAX },
        Command::Count,
        Command::Stats,
        Command::Explain { key: key("k") },
        Command::Move { from: key("{k}a"), to: key("{k}b"), is_copy: false, existence: Existence::Any },
        Command::Move { from: key("{k}a"), to: key("{k}b"), is_copy: true, existence: Existence::Absent },
        Command::PutAllAbsent { first: (key("k"), value.clone()), more: vec![(key("k"), value.clone())] },
        Command::PutAllAbsent { first: (key("k"), value), more: Vec::new() },
    ]
    .into_iter()
    .chain(every_update().into_iter().map(|update| Command::Update { key: key("k"), update }))
    .collect()
}

fn every_update() -> Vec<Update> {
    let value = || Value::new(&b"\x00\xff binary"[..]).unwrap();
    let ttl = Ttl::from_millis(1234).unwrap();
    let expiries = [NewExpiry::Keep, NewExpiry::Never, NewExpiry::In(ttl), NewExpiry::At(Timestamp(u64::MAX))];
    let mut updates = vec![
        Update::Add { by: i64::MIN },
        Update::AddDecimal { by: value() },
        Update::Append { tail: value() },
        Update::Overwrite { offset: u32::MAX, part: value() },
        Update::Take,
    ];
    updates.extend(expiries.map(|expiry| Update::GetAndExpire { expiry }));
    for existence in [Existence::Any, Existence::Absent, Existence::Present] {
        updates.extend(expiries.map(|expiry| Update::Set { value: value(), expiry, existence, answer_old: true }));
    }
    for when in [
        ExpireWhen::Always,
        ExpireWhen::None,
        ExpireWhen::Any,
        ExpireWhen::Later,
        ExpireWhen::Sooner,
        ExpireWhen::AnySooner,
    ] {
        updates.push(Update::Expire { expiry: NewExpiry::In(ttl), when });
    }
    updates
}

fn every_reply() -> Replies {
    let version = Version::new(2, 9);
    let (value, expires_at) = (Value::new("v").unwrap(), Some(Timestamp(5)));
    let explanation = |place, rank| Explanation {
        slot: 7,
        shard: "localhost:8081".into(),
        place,
        version: Some(version),
        expires_at,
        value_bytes: Some(1),
        rank,
        policy: "lru".into(),
    };
    let places =
        [Place::Memory { clean: true }, Place::Spilling, Place::Deleting, Place::Tier, Place::Nowhere].into_iter();
    let explained = places.map(|place| Ok(Reply::Explained(Box::new(explanation(place, None)))));
    let replies = [
        Reply::Found(None),
        Reply::Found(Some(Found { value, version, expires_at })),
        Reply::Stored(version),
        Reply::Conflict(None),
        Reply::Conflict(Some(version)),
        Reply::Done(true),
        Reply::Expiry(Expiry::Missing),
        Reply::Expiry(Expiry::Never),
        Reply::Expiry(Expiry::InMillis(u64::MAX)),
        Reply::Page { keys: vec![key("a"), key("b")], next: Some(Cursor { slot: 3, after: None }) },
        Reply::Page { keys: Vec::new(), next: None },
        Reply::Count(u64::MAX),
        Reply::Number(i64::MIN),
        Reply::Moved(Moved::Missing),
        Reply::Moved(Moved::Refused),
        Reply::Moved(Moved::Done),
        Reply::Stats(vec![ShardStats { shard: "s".into(), tier_up: true, busy: 3, ..ShardStats::default() }]),
    ];
    let errors = [
        Error::Busy("b".into()),
        Error::Unavailable("u".into()),
        Error::Unknown("?".into()),
        Error::WrongShard { epoch: Epoch(4), reason: "r".into() },
        Error::ReplyTooLarge,
        Error::Invalid("i".into()),
    ];
    replies.into_iter().map(Ok).chain(explained).chain(errors.into_iter().map(Err)).collect()
}

#[tokio::test]
async fn every_command_and_every_reply_survives_the_trip() {
    let service = Arc::new(Canned::default());
    let server = Server::start(Arc::clone(&service));
    let client = server.client();

    let mut expected = every_reply();
    let mut commands = every_command();
    while commands.len() < expected.len() {
        commands.push(Command::Count);
    }
    expected.resize(commands.len(), Ok(Reply::Done(false)));
    *service.replies.lock() = expected.clone();
    let sent = Batch { commands: commands.clone(), epoch: Some(Epoch(42)), timeout: LONG };
    assert_eq!(client.execute(sent).await, expected);

    let asked = service.asked.lock().remove(0);
    assert_eq!((asked.commands, asked.epoch), (commands, Some(Epoch(42))));
    assert!(asked.timeout <= LONG && asked.timeout > LONG / 2, "{:?}", asked.timeout);
    assert_eq!(client.execute(batch(Vec::new(), LONG)).await, Vec::new());
}

#[tokio::test]
async fn a_service_is_never_asked_to_take_longer_than_thirty_seconds() {
    let service = Arc::new(Canned::default());
    *service.replies.lock() = vec![Ok(Reply::Count(1))];
    let server = Server::start(Arc::clone(&service));
    ask(&server.client(), Command::Count, std::time::Duration::MAX).await.unwrap();
    assert!(service.asked.lock()[0].timeout <= std::time::Duration::from_secs(30));
}

#[tokio::test]
async fn the_largest_value_travels_both_ways() {
    let server = Server::start(Memory::open());
    let client = server.client();
    let value = vec![7; VALUE_BYTES_MAX];
    ask(&client, put("k", value.clone()), LONG).await.unwrap();
    assert_eq!(ask(&client, get("k"), LONG).await, found_bytes(value));
}

#[tokio::test]
async fn answers_that_exceed_a_frame_come_in_several_and_nothing_runs_twice() {
    const COUNT: usize = 64;
    let service = Memory::open();
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    let value = |i: usize| vec![i as u8; 1024 * 1024];
    for i in 0..COUNT {
        service.records.lock().insert(key(format!("k{i}")), Value::new(value(i)).unwrap());
    }
    // The get before the put is asked first, and its answer does not fit the first frame.
    let mut commands: Vec<Command> = (0..COUNT).map(|i| get(format!("k{i}"))).collect();
    commands.push(put("k63", "new"));
    let replies = client.execute(batch(commands, LONG)).await;
    assert_eq!(replies.len(), COUNT + 1);
    for (i, reply) in replies.into_iter().take(COUNT).enumerate() {
        assert!(reply == found_bytes(value(i)), "{i}");
    }
    assert_eq!(service.calls(), 1);
}

#[tokio::test]
async fn a_batch_beyond_the_limits_takes_effect_in_order() {
    let service = Memory::open();
    let server = Server::start(Arc::clone(&service));
    let value = |i: u8| vec![i; BATCH_BYTES_MAX / 2];
    let mut commands = Vec::new();
    for i in 0..16 {
        commands.extend([put("k", value(i)), get("k")]);
    }
    commands.extend((0..10_000).map(|_| get("absent")));
    let replies = server.client().execute(batch(commands, LONG)).await;
    assert_eq!(replies.len(), 10_032);
    for i in 0..16 {
        assert!(replies[usize::from(i) * 2 + 1] == found_bytes(value(i)), "{i}");
    }
    assert_eq!(replies[10_031], Ok(Reply::Found(None)));
}

/// What is too much for one frame, and for the memory of who reads it, is never sent on.
#[tokio::test]
async fn the_largest_command_on_many_keys_travels_and_a_larger_one_ends_the_connection_only() {
    let service = Arc::new(Canned::default());
    *service.replies.lock() = vec![Ok(Reply::Done(true))];
    let server = Server::start(Arc::clone(&service));
    let many = |count: usize, value_bytes: usize| {
        let pair = |i| (key(format!("{i:01024}")), Value::new(vec![7; value_bytes]).unwrap());
        Command::PutAllAbsent { first: pair(0), more: (1..count).map(pair).collect() }
    };
    let fits = many(PAIRS_MAX, VALUE_BYTES_MAX / PAIRS_MAX);
    assert_eq!(ask(&server.client(), fits.clone(), LONG).await, Ok(Reply::Done(true)));
    assert_eq!(service.asked.lock().remove(0).commands, [fits]);
    let refused = ask(&server.client(), many(PAIRS_MAX + 1, 0), LONG).await;
    assert!(matches!(refused, Err(Error::Unknown(_))), "{refused:?}");
    assert!(service.asked.lock().is_empty());
}

#[tokio::test]
async fn one_reply_that_never_fits_is_an_error_and_the_others_come() {
    let service = Arc::new(Canned::default());
    let server = Server::start(Arc::clone(&service));
    let keys = (0..20_000).map(|i| key(format!("{i:01000}"))).collect();
    *service.replies.lock() = vec![Ok(Reply::Count(1)), Ok(Reply::Page { keys, next: None }), Ok(Reply::Count(2))];
    let replies = server.client().execute(batch(vec![Command::Count; 3], LONG)).await;
    assert!(matches!(&replies[..], [Ok(Reply::Count(1)), Err(Error::Invalid(_)), Ok(Reply::Count(2))]));
}

struct CannedMember;

impl CannedMember {
    fn name() -> ShardName {
        ShardName::new("localhost:8081").unwrap()
    }

    fn fence() -> Fence {
        Fence {
            shard: Self::name(),
            token: FenceToken(3),
            incarnation: Incarnation(u64::MAX),
            journal: JournalId(9),
            epoch: Epoch(2),
            slots: SlotSet::shares(2).remove(1),
            lsn: Lsn(77),
            clean: true,
        }
    }

    fn state_of(state: MemberState) -> MemberStatus {
        let held = Some(Holding { shard: Self::name(), epoch: Epoch(2), slots: SlotSet::all() });
        MemberStatus {
            incarnation: Incarnation(5),
            tier_id: Some(TierId(6)),
            is_pure_cache: false,
            held,
            state,
            announced: None,
        }
    }
}

impl Member for CannedMember {
    async fn status(&self) -> Result<MemberStatus, ControlError> {
        Ok(Self::state_of(MemberState::Starting("tier".into())))
    }

    async fn assign(&self, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        assert_eq!(assignment.list, [Self::name()]);
        Err(ControlError::StaleEpoch(assignment.epoch.next()))
    }

    async fn fences(&self) -> Result<Vec<Fence>, ControlError> {
        Ok(vec![Self::fence()])
    }

    async fn retire(&self, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        Ok(expected == Self::fence() && slots == SlotSet::all() && epoch == Epoch(9))
    }

    async fn inform(&self, map: MapView) -> Result<(), ControlError> {
        Err(ControlError::Refused(map.epoch.to_string()))
    }

    async fn resign(&self, list: Vec<ShardName>) -> Result<(), ControlError> {
        Err(ControlError::OtherList(list.len().to_string()))
    }
}

#[tokio::test]
async fn every_control_call_survives_the_trip() {
    let door = Door::new(Memory::open(), CannedMember, NoMember, doors::Options::default());
    let server = Server::start_door("127.0.0.1:0".parse().unwrap(), door);
    let client = server.client();
    let expected = CannedMember::state_of(MemberState::Starting("tier".into()));
    assert_eq!(client.status().await, Ok(expected));
    let (shard, list) = (CannedMember::name(), vec![CannedMember::name()]);
    let assignment = Assignment { shard, epoch: Epoch(3), slots: SlotSet::all(), list, accept_loss: true };
    assert_eq!(client.assign(assignment).await, Err(ControlError::StaleEpoch(Epoch(4))));
    assert_eq!(client.fences().await, Ok(vec![CannedMember::fence()]));
    assert_eq!(client.retire(CannedMember::fence(), SlotSet::all(), Epoch(9)).await, Ok(true));
    let map = MapView { epoch: Epoch(9), ..MapView::default() };
    assert_eq!(client.inform(map).await, Err(ControlError::Refused("9".into())));
    assert_eq!(client.resign(Vec::new()).await, Err(ControlError::OtherList("0".into())));
}
