//! What a shard tells of the map and of its own fitness.

use overspill::cluster::{Check, Readiness, Topology};
use overspill::record::Epoch;
use overspill::slots::{Slot, SlotSet};

use crate::rig::{Rig, Setup, until};

fn check<'a>(readiness: &'a Readiness, name: &str) -> &'a Check {
    readiness.checks.iter().find(|check| check.name == name).unwrap()
}

fn slots_of(rig: &Rig) -> Result<String, String> {
    check(&rig.shard.readiness(), "slots").outcome.clone()
}

#[tokio::test]
async fn a_shard_is_ready_once_it_serves_what_it_was_assigned() {
    let setup = Setup::new(5).journaled();
    let rig = setup.spawn();
    assert!(rig.shard.map().shards.is_empty() && !rig.shard.readiness().is_ready());
    assert!(slots_of(&rig).unwrap_err().contains("no primary"));
    rig.shutdown().await.unwrap();
    drop(rig); // it has the journal

    let rig = setup.start().await;
    let map = rig.shard.map();
    let me = map.me().unwrap();
    assert_eq!((me.name.as_str(), me.address.as_str()), ("localhost:1", "localhost:1"));
    assert_eq!((map.epoch, me.epoch, &me.served), (Epoch(1), Epoch(1), &SlotSet::all()));
    assert!(map.is_complete() && map.shard_of(Slot::LAST).unwrap().1.is_ok());
    let readiness = rig.shard.readiness();
    assert!(readiness.is_ready(), "{readiness:?}");
    assert!(check(&readiness, "journal").outcome.as_ref().unwrap().starts_with("recovered"));
    assert!(check(&readiness, "tier").outcome.is_ok());
    rig.shutdown().await.unwrap();
    assert_eq!(slots_of(&rig), Err("it is stopping".to_owned()));
}

#[tokio::test]
async fn a_shard_whose_tier_is_away_says_so_and_is_ready() {
    let rig = Setup::new(1).start().await;
    rig.tier.set_down(true);
    rig.put("a", "1").await;
    rig.put("b", "2").await; // evicts "a"
    until("the tier is missed", async || check(&rig.shard.readiness(), "tier").outcome.is_err()).await;
    let readiness = rig.shard.readiness();
    assert!(readiness.is_ready() && !check(&readiness, "tier").is_required, "{readiness:?}");
}

#[tokio::test]
async fn what_a_shard_can_not_serve_yet_is_in_its_map_with_the_reason() {
    let mut setup = Setup::new(5);
    setup.assignment.slots = "0-99".parse().unwrap();
    let rig = setup.spawn();
    rig.tier.set_down(true);
    rig.assign(&setup.assignment).await;
    until("it is known why", async || {
        let map = rig.shard.map();
        map.me().is_some_and(|me| me.unserved.iter().any(|unserved| unserved.reason.contains("tier")))
    })
    .await;
    let map = rig.shard.map();
    assert_eq!(map.me().unwrap().unserved[0].slots.to_string(), "0-99");
    assert!(map.served().is_empty() && !map.is_complete());
    assert!(slots_of(&rig).unwrap_err().starts_with("0 of 100 are served"), "{:?}", slots_of(&rig));
    rig.tier.set_down(false);
    until("it serves", async || rig.shard.readiness().is_ready()).await;
    assert_eq!(rig.shard.map().served().to_string(), "0-99");
}

#[tokio::test]
async fn a_name_that_is_no_address_is_reached_where_the_shard_listens() {
    let mut setup = Setup::new(5);
    let name = overspill::cluster::ShardName::new("local-1").unwrap();
    (setup.assignment.shard, setup.assignment.list) = (name.clone(), vec![name]);
    let rig = setup.start().await;
    rig.shard.listens_at("127.0.0.1:7".to_owned());
    rig.shard.listens_at("127.0.0.1:8".to_owned());
    assert_eq!(rig.shard.map().me().unwrap().address, "127.0.0.1:7");
}
