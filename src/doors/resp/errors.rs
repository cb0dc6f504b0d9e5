//! Errors in the words that Redis clients act on: `MOVED` and `CLUSTERDOWN` make cluster clients look at the map again, and
//! `TRYAGAIN` makes them try again.

use crate::cluster::Topology;
use crate::protocol::redis::Refusal;
use crate::record::Key;
use crate::service::Error;
use crate::slots::Slot;

pub(super) fn no_auth() -> Refusal {
    Refusal("NOAUTH Authentication required.".to_owned())
}

pub(super) fn cross_slot() -> Refusal {
    Refusal("CROSSSLOT Keys in request don't hash to the same slot".to_owned())
}

/// `key`: what the request was about; `is_member`: the node serves its own slots only.
pub(super) fn words(error: &Error, key: Option<&Key>, topology: &dyn Topology, is_member: bool) -> String {
    match error {
        Error::Busy(reason) => format!("TRYAGAIN busy: {reason}"),
        Error::ReplyTooLarge => format!("TRYAGAIN {error}"),
        Error::Unknown(_) | Error::Invalid(_) => format!("ERR {error}"),
        Error::Unavailable(reason) | Error::WrongShard { reason, .. } => {
            let map = topology.map();
            let Some(slot) = key.map(Slot::of) else {
                return match map.unserved().next() {
                    Some(unserved) => format!("CLUSTERDOWN Hash slots not served: {}", unserved.reason),
                    None => format!("TRYAGAIN {reason}"),
                };
            };
            match map.shard_of(slot) {
                Some((shard, Ok(()))) if is_member && !shard.is_me => format!("MOVED {slot} {}", shard.address),
                Some((_, Ok(()))) => format!("TRYAGAIN {reason}"),
                Some((_, Err(reason))) => format!("CLUSTERDOWN Hash slot not served: {reason}"),
                None => format!("CLUSTERDOWN Hash slot not served: {reason}"),
            }
        }
    }
}
