//! Stopping: a clean stop leaves nothing behind, and always ends.

use std::time::Duration;

use overspill::cluster::MemberState;
use overspill::record::Epoch;
use overspill::service::Error;
use overspill::shard::{UncleanStop, WriteMode};
use tokio::time::timeout;

use crate::rig::{Rig, Setup, put_command, until};

const LONG: Duration = Duration::from_secs(20);

async fn stop(rig: &Rig) -> Result<u64, UncleanStop> {
    timeout(LONG, rig.shutdown()).await.expect("a stop that ends").map(|stopped| stopped.spilled)
}

#[tokio::test]
async fn a_stop_without_the_tier_ends_in_time_and_says_what_is_lost() {
    let mut setup = Setup::new(10);
    setup.options.drain_timeout = Duration::from_millis(300);
    let rig = setup.start().await;
    for i in 0..5 {
        rig.put(&format!("k{i}"), "v").await;
    }
    rig.tier.set_down(true);
    assert_eq!(stop(&rig).await, Err(UncleanStop { unspilled: 5 }));
    rig.tier.set_down(false);
    assert!(setup.start_refused().await.contains("--accept-loss"));
}

#[tokio::test]
async fn a_stop_before_any_assignment_ends_and_later_assignments_are_ignored() {
    let setup = Setup::new(10);
    let rig = setup.spawn();
    assert_eq!(stop(&rig).await, Ok(0));
    rig.assign(&setup.assignment).await;
    tokio::task::yield_now().await;
    assert_eq!(rig.state().await, MemberState::Draining);
    assert!(rig.tier.rows().is_empty() && rig.tier.calls().fences == 0);
}

#[tokio::test]
async fn a_stop_right_after_an_assignment_ends_and_leaves_a_clean_fence() {
    for steps in 0..12 {
        let setup = Setup::new(10);
        let rig = setup.spawn();
        rig.assign(&setup.assignment).await;
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        assert_eq!(stop(&rig).await, Ok(0), "after {steps} steps");
        setup.start().await;
    }
}

/// The steward is in the middle of a new assignment when the stop comes.
#[tokio::test]
async fn a_stop_during_an_assignment_ends() {
    let mut setup = Setup::new(10).mode(WriteMode::Through);
    let rig = setup.start().await;
    rig.tier.hold_flushes();
    let writer = rig.clone();
    let put = tokio::spawn(async move { writer.one_within(put_command("k", "v"), 300).await });
    rig.until_stats("it is under way", |stats| stats.unspilled == 1).await;
    setup.assignment.epoch = Epoch(2);
    rig.assign(&setup.assignment).await;
    rig.until_stats("the new epoch is being taken over", |stats| stats.epoch == 2).await;
    let (stopped, ()) = tokio::join!(stop(&rig), async {
        assert!(matches!(put.await.unwrap(), Err(Error::Unknown(_))));
        rig.tier.release_flushes();
    });
    assert!(stopped.is_ok(), "{stopped:?}");
    assert!(rig.tier.row(&crate::rig::key("k")).is_some());
}

/// A stop after the fence was claimed and before anything was served.
#[tokio::test]
async fn a_stop_between_claim_and_service_leaves_a_clean_fence() {
    let setup = Setup::new(10);
    let tier = setup.tier.clone().unwrap();
    let rig = setup.spawn();
    rig.assign(&setup.assignment).await;
    until("the fence is claimed", async || {
        let claimed = tier.calls().fences >= 2;
        if claimed {
            tier.set_down(true);
        }
        claimed
    })
    .await;
    let (stopped, ()) = tokio::join!(stop(&rig), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tier.set_down(false);
    });
    assert_eq!(stopped, Ok(0));
    setup.start().await;
}

/// A client's long patience is not the stop's.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_caller_beyond_its_own_timeout() {
    let mut setup = Setup::new(10);
    setup.options.drain_timeout = Duration::from_millis(300);
    let rig = setup.start().await;
    rig.put_spilled("k", "v").await;
    rig.tier.hold_loads();
    let before = rig.tier.loads();
    let asker = rig.clone();
    let _get = tokio::spawn(async move { asker.one_within(crate::rig::get_command("k"), 3_600_000).await });
    until("the load hangs", async || rig.tier.loads() > before).await;
    let stopping = rig.clone();
    let stopped = tokio::spawn(async move { stopping.shutdown().await });
    until("it counts as stopping", async || rig.state().await == MemberState::Draining).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    rig.tier.release_loads();
    timeout(LONG, stopped).await.expect("a stop that ends").unwrap().ok();
}
