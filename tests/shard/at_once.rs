//! What is answered without waiting is what a batch would have answered.

use std::time::Duration;

use overspill::command::{Command, Condition, Reply};
use overspill::service::Service;
use overspill::shard::WriteMode;
use overspill::slots::{Slot, SlotSet};

use crate::rig::{Rig, Setup, get_command, key, put_command, until, value};

const PATIENCE: Duration = Duration::from_secs(10);

fn reads(k: &str) -> [Command; 3] {
    [get_command(k), Command::Exists { key: key(k) }, Command::Ttl { key: key(k) }]
}

/// That the reads of a key are answered at once, and rightly.
async fn answers(rig: &Rig, k: &str) {
    for read in reads(k) {
        let at_once = rig.answer_now(&read);
        assert!(at_once.is_some(), "{read:?}");
        assert_eq!(at_once, rig.run(vec![read], PATIENCE).await.remove(0).ok());
    }
}

fn leaves_to_a_batch(rig: &Rig, k: &str) {
    for read in reads(k) {
        assert_eq!(rig.answer_now(&read), None, "{read:?}");
    }
}

#[tokio::test]
async fn reads_of_what_memory_knows_are_answered_at_once_and_all_else_is_not() {
    let rig = Setup::new(4).start().await;
    rig.put_spilled("row", "v").await;
    rig.put("record", "v").await;
    rig.put_ttl("record with an end", "v", 1000).await;
    rig.delete("row that never was").await;
    for known in ["record", "record with an end", "row that never was"] {
        answers(&rig, known).await;
    }
    assert_eq!(rig.answer_now(&get_command("record")), Some(Reply::Found(rig.found("record").await)));
    leaves_to_a_batch(&rig, "row");
    rig.clock.advance_ms(1000);
    answers(&rig, "record with an end").await;

    let before = rig.stats().await;
    for other in [put_command("record", "w"), Command::Delete { key: key("record") }, Command::Count, Command::Stats] {
        assert_eq!(rig.answer_now(&other), None, "{other:?}");
    }
    leaves_to_a_batch(&rig, "row");
    let after = rig.stats().await;
    assert_eq!(
        (after.hits, after.misses, after.puts, after.deletes),
        (before.hits, before.misses, before.puts, before.deletes)
    );
    rig.answer_now(&get_command("record"));
    assert_eq!(rig.stats().await.hits, after.hits + 1);
}

#[tokio::test]
async fn nothing_is_answered_at_once_about_the_slots_of_others() {
    let setup = Setup::new(4);
    let rig = setup.start().await;
    rig.put("k", "v").await;
    let mut assignment = setup.assignment.clone();
    assignment.epoch.0 += 1;
    assignment.slots = SlotSet::shares(2).into_iter().find(|share| !share.contains(Slot::of(&key("k")))).unwrap();
    rig.tier.hold_flushes(); // so that memory keeps it
    rig.assign(&assignment).await;
    until("it lets go", async || rig.run(vec![get_command("k")], PATIENCE).await[0].is_err()).await;
    leaves_to_a_batch(&rig, "k");
    leaves_to_a_batch(&rig, "{k} that never was");
    rig.tier.release_flushes();
}

/// R18: what is not acknowledged yet is not to be seen yet.
#[tokio::test]
async fn what_waits_for_the_tier_in_write_through_is_not_answered_at_once() {
    let rig = Setup::new(4).mode(WriteMode::Through).start().await;
    rig.put("k", "v").await;
    answers(&rig, "k").await;
    rig.tier.hold_flushes();
    let put = tokio::spawn({
        let rig = rig.clone();
        let command = Command::Put { key: key("k"), value: value("w"), ttl: None, condition: Condition::Always };
        async move { rig.one(command).await }
    });
    rig.until_stats("it is under way", |stats| stats.unspilled == 1).await;
    leaves_to_a_batch(&rig, "k");
    rig.tier.release_flushes();
    put.await.unwrap().unwrap();
    answers(&rig, "k").await;
}
