//! The primary's routes as a map for clients and people: by shard, with what each does not serve.

use crate::cluster::{MapView, Route, ShardName, ShardView, Unserved};
use crate::record::Epoch;
use crate::slots::SlotSet;

/// Every slot is there once: with the shard that serves it, or, while nobody does, with the one whose share it is.
pub(super) fn map_view(
    list: &[ShardName],
    routes: &[Route],
    epoch: Epoch,
    address_of: impl Fn(&ShardName) -> String,
) -> MapView {
    let new_shard = |name: &ShardName| ShardView {
        name: name.clone(),
        address: address_of(name),
        is_me: false,
        epoch,
        served: SlotSet::empty(),
        unserved: Vec::new(),
    };
    let mut shards: Vec<ShardView> = list.iter().map(new_shard).collect();
    let shares = SlotSet::shares(list.len());
    for route in routes {
        match &route.to {
            Ok((name, epoch)) => {
                if !shards.iter().any(|shard| shard.name == *name) {
                    shards.push(new_shard(name)); // not of the list, but it still serves
                }
                if let Some(shard) = shards.iter_mut().find(|shard| shard.name == *name) {
                    shard.served = shard.served.union(&route.slots);
                    shard.epoch = *epoch;
                }
            }
            Err(reason) => {
                for (shard, share) in shards.iter_mut().zip(&shares) {
                    let slots = route.slots.intersection(share);
                    if !slots.is_empty() {
                        shard.unserved.push(Unserved { slots, reason: reason.clone() });
                    }
                }
            }
        }
    }
    MapView { epoch, shards }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slot;

    fn name(name: &str) -> ShardName {
        ShardName::new(name).unwrap()
    }

    fn route(slots: &str, to: Result<&str, &str>) -> Route {
        let to = to.map(|to| (name(to), Epoch(4))).map_err(str::to_owned);
        Route { slots: slots.parse().unwrap(), to }
    }

    #[test]
    fn every_slot_is_in_the_map_once_served_or_with_the_reason() {
        let list = [name("a"), name("b")];
        let routes = [route("0-99", Ok("a")), route("100-9000", Err("a is away")), route("9001-16383", Ok("former"))];
        let map = map_view(&list, &routes, Epoch(5), |name| format!("{name}:1"));
        let told: Vec<_> = map
            .shards
            .iter()
            .map(|shard| {
                let unserved: Vec<_> =
                    shard.unserved.iter().map(|it| (it.slots.to_string(), it.reason.as_str())).collect();
                (shard.address.as_str(), shard.epoch, shard.served.to_string(), unserved)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a:1", Epoch(4), "0-99".to_owned(), vec![("100-8191".to_owned(), "a is away")]),
                ("b:1", Epoch(5), String::new(), vec![("8192-9000".to_owned(), "a is away")]),
                ("former:1", Epoch(4), "9001-16383".to_owned(), Vec::new()),
            ]
        );
        assert!(map.is_complete());
        assert!(Slot::all().all(|slot| map.shard_of(slot).is_some()));
    }
}
