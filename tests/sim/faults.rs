//! Does to the cluster what the plan says, when it says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use overspill::cluster::MemberState;
use overspill::journal::Fsync;
use overspill::journal::memory::MemoryDisk;
use overspill::shard::Stopped;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::disk;
use crate::plan::{DiskFate, Fault};
use crate::world::{DiskOfName, Process, World};

/// A stop takes at most its drain timeout and what its last statements take.
const STOP_MAX: Duration = Duration::from_secs(120);

pub async fn plant(world: &Arc<World>) {
    let start = Instant::now();
    for &(at_ms, fault) in &world.plan.faults {
        sleep_until(start + Duration::from_millis(at_ms)).await;
        world.trace.note(format_args!("{fault:?}"));
        world.faults.add(1);
        plant_one(world, fault);
        world.check_all();
    }
}

fn plant_one(world: &Arc<World>, fault: Fault) {
    let time = |ms: u32| Duration::from_millis(u64::from(ms));
    match fault {
        Fault::Crash { shard, power, disk, down_ms, accept_after_ms } => {
            if let Some(process) = world.up(shard) {
                if power {
                    world.lose_power(&process);
                } else {
                    world.kill(&process, "by kill -9");
                }
                harm_disk(world, &process, disk, power);
                bring_back(world, process, time(down_ms), time(accept_after_ms));
            }
        }
        Fault::CrashAtDisk { shard, calls, power } => {
            if let Some(process) = world.up(shard).filter(|process| process.disk.is_some()) {
                world.weather.crash_at_disk(&process, calls, power);
                bring_back(world, process, time(100), time(1000));
            }
        }
        Fault::SyncFails { shard, of_directory } => with_disk(world, shard, |disk| match of_directory {
            true => disk.fail_next_sync_dir(),
            false => disk.fail_next_sync(),
        }),
        Fault::WriteFails { shard } => with_disk(world, shard, |disk| disk.fail_next_write(io::ErrorKind::Other, 7)),
        Fault::DiskFull { shard, ms } => with_disk(world, shard, |disk| {
            disk.set_full(true);
            let disk = disk.clone();
            tokio::spawn(async move {
                sleep(time(ms)).await;
                disk.set_full(false);
            });
        }),
        Fault::DiskSlow { ms, by_ms } => world.weather.disk_slow(time(ms), by_ms),
        Fault::CrashAtCommit { shard, is_before, down_ms, accept_after_ms } => {
            if let Some(process) = world.up(shard) {
                world.weather.crash_at_commit(Some((process.life, is_before)));
                bring_back(world, process, time(down_ms), time(accept_after_ms));
            }
        }
        Fault::Stop { shard, down_ms, accept_after_ms } => {
            if let Some(process) = world.up(shard) {
                tokio::spawn(stop(Arc::clone(world), Arc::clone(&process)));
                bring_back(world, process, time(down_ms), time(accept_after_ms));
            }
        }
        Fault::Usurp { shard, accept_after_ms } => {
            let serving = world.up(shard).filter(|process| process.status().state == MemberState::Serving);
            if let Some(process) = serving {
                process.set_cut_off(true);
                world.primary.lock().accept_loss_from(shard, Instant::now() + time(accept_after_ms));
                world.disks.lock()[shard] = DiskOfName::empty(); // on another machine
                world.start(shard);
            }
        }
        Fault::CutOff { shard, ms } => {
            if let Some(process) = world.up(shard) {
                process.set_cut_off(true);
                tokio::spawn(reconnect(Arc::clone(world), process, time(ms)));
            }
        }
        Fault::TierAway { ms, hangs } => world.weather.away(time(ms), hangs),
        Fault::TierKilled { ms } => world.weather.killed(time(ms)),
        Fault::TierSlow { ms, factor } => world.weather.slow(time(ms), factor),
        Fault::PoolExhausted { ms } => world.weather.exhausted(time(ms)),
        Fault::Poison { key, ms } => {
            world.rows.poison(world.keys[key].clone());
            let world = Arc::clone(world);
            tokio::spawn(async move {
                sleep(time(ms)).await;
                world.rows.cure(&world.keys[key]);
            });
        }
        Fault::ClockJump { ms } => world.clock.jump_ms(ms),
        Fault::ClockRate { percent } => world.clock.set_rate(f64::from(percent) / 100.0),
        Fault::Move { share_percent } => world.primary.lock().divide(share_percent, &world.keys),
    }
}

fn with_disk(world: &World, shard: usize, harm: impl FnOnce(&MemoryDisk)) {
    if let Some(disk) = world.up(shard).as_ref().and_then(|process| process.disk.as_ref()) {
        harm(disk);
    }
}

/// What becomes of the disk that a dead process leaves.
fn harm_disk(world: &World, process: &Process, fate: DiskFate, power: bool) {
    let disks = &mut *world.disks.lock();
    let of_name = &mut disks[process.name];
    let Some(disk) = &process.disk else { return };
    let is_lazy = world.setup().journal.is_some_and(|journal| journal.fsync != Fsync::Always);
    match fate {
        DiskFate::Kept => {}
        DiskFate::Lost => *of_name = DiskOfName::empty(),
        DiskFate::Rotten if is_lazy || power => {} // what is lost or torn may look like what is rotten
        DiskFate::Rotten => {
            let place = disk::rot(disk, &mut world.chaos.lock());
            of_name.is_rotten = place.is_some();
            world.trace.note(format_args!("rot: {place:?}"));
        }
    }
}

/// R23: a process whose journal can't be written any more ends, and is started again.
pub async fn end_with_journal(world: Arc<World>, process: Arc<Process>) {
    let reason = process.shard().failed().await;
    if !process.is_dead() {
        world.kill(&process, &format!("by itself: {reason}"));
        bring_back(&world, process, Duration::from_millis(200), Duration::from_millis(1000));
    }
}

/// Starts the next process of a name once this one is dead, unless somebody else did. Who does not die lives on.
fn bring_back(world: &Arc<World>, process: Arc<Process>, down: Duration, accept_after: Duration) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let give_up = Instant::now() + STOP_MAX;
        while !process.is_dead() {
            if Instant::now() > give_up {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        sleep(down).await;
        if world.newest(process.name).is_some_and(|newest| newest.life == process.life) {
            let from = Instant::now() + accept_after;
            world.primary.lock().accept_loss_from(process.name, from);
            world.start(process.name);
        }
    });
}

async fn reconnect(world: Arc<World>, process: Arc<Process>, after: Duration) {
    sleep(after).await;
    // Not one that was usurped meanwhile.
    if world.newest(process.name).is_some_and(|newest| newest.life == process.life) {
        process.set_cut_off(false);
    }
}

/// SIGTERM: what a clean stop promises is that nothing is lost.
async fn stop(world: Arc<World>, process: Arc<Process>) {
    let stopped = timeout(STOP_MAX, process.shard().shutdown()).await;
    if process.is_dead() {
        return; // killed while it stopped
    }
    world.trace.note(format_args!("{process} has stopped: {stopped:?}"));
    match stopped {
        Ok(Ok(Stopped { journaled: 1.., .. })) => {}
        Ok(Ok(_)) => {
            if let Some(key) = (0..world.keys.len()).find(|&key| world.dies_with(&process, key)) {
                let key = &world.keys[key];
                world.fail(format!("{process} has stopped cleanly, and the tier does not have {key}"));
            }
        }
        Ok(Err(_)) => {}
        Err(_) => world.fail(format!("{process} was told to stop and does not")),
    }
    world.kill(&process, "by its own end");
}
