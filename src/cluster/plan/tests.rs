use super::*;
use crate::cluster::{FenceToken, Incarnation, TierId};
use crate::record::{JournalId, Lsn};

fn name(name: &str) -> ShardName {
    ShardName::new(name).unwrap()
}

fn names(list: &str) -> Vec<ShardName> {
    list.split_whitespace().map(name).collect()
}

fn slots(text: &str) -> SlotSet {
    text.parse().unwrap()
}

/// What a primary sees, put together piece by piece.
struct Scene {
    list: Vec<ShardName>,
    members: BTreeMap<ShardName, Seen>,
    fences: Result<Vec<Fence>, String>,
    epoch: Option<Epoch>,
    accept_loss: bool,
}

impl Scene {
    fn of(list: &str) -> Self {
        let (list, members) = (names(list), BTreeMap::new());
        Self { list, members, fences: Ok(Vec::new()), epoch: None, accept_loss: false }
    }

    fn see(mut self, who: &str, status: Result<MemberStatus, ControlError>, order: OrderAnswer) -> Self {
        let misses = if status.is_ok() { 0 } else { MISSES_MIN };
        self.members.insert(name(who), Seen { status, order, misses });
        self
    }

    fn fresh(self, who: &str) -> Self {
        self.see(who, Ok(status(None, MemberState::Unassigned)), OrderAnswer::Accepted)
    }

    /// Holds and serves slots, and has its fence.
    fn serving(self, who: &str, held: &str, epoch: u64) -> Self {
        let holding = Holding { shard: name(who), epoch: Epoch(epoch), slots: slots(held) };
        let scene = self.see(who, Ok(status(Some(holding), MemberState::Serving)), OrderAnswer::Accepted);
        scene.fence(who, held, epoch, false)
    }

    fn down(self, who: &str) -> Self {
        self.see(who, Err(ControlError::Unreachable("connection refused".to_owned())), OrderAnswer::None)
    }

    fn fence(mut self, who: &str, held: &str, epoch: u64, clean: bool) -> Self {
        let (shard, slots, epoch) = (name(who), slots(held), Epoch(epoch));
        let (token, incarnation, journal) = (FenceToken(7), Incarnation(1), JournalId(0));
        let row = Fence { shard, token, incarnation, journal, epoch, slots, lsn: Lsn(1), clean };
        self.fences.as_mut().unwrap().push(row);
        self
    }

    fn blind(mut self) -> Self {
        self.fences = Err("the tier is down".to_owned());
        self
    }

    fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    fn status_of(&mut self, who: &str) -> &mut MemberStatus {
        self.members.get_mut(&name(who)).unwrap().status.as_mut().unwrap()
    }

    fn plan(&self) -> Plan {
        let fences = self.fences.as_deref().map_err(String::as_str);
        let Self { list, members, epoch, accept_loss, .. } = self;
        let plan = plan(&View { list, members, fences, epoch: *epoch, accept_loss: *accept_loss });
        let routed: usize = plan.routes.iter().map(|route| route.slots.len()).sum();
        let all = plan.routes.iter().fold(SlotSet::empty(), |all, route| all.union(&route.slots));
        assert_eq!((routed, all), (SlotSet::all().len(), SlotSet::all()), "each slot once: {plan:?}");
        plan
    }
}

fn status(held: Option<Holding>, state: MemberState) -> MemberStatus {
    MemberStatus {
        incarnation: Incarnation(1),
        tier_id: Some(TierId(1)),
        is_pure_cache: false,
        held,
        state,
        announced: None,
    }
}

impl Plan {
    /// `a 0-8191@1, b 8192-16383@1`
    fn orders_text(&self) -> String {
        let text = |order: &Assignment| format!("{} {}@{}", order.shard, order.slots, order.epoch);
        self.orders.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// The same of what is served.
    fn routes_text(&self) -> String {
        let text = |route: &Route| {
            let (shard, epoch) = route.to.as_ref().ok()?;
            Some(format!("{shard} {}@{epoch}", route.slots))
        };
        self.routes.iter().filter_map(text).collect::<Vec<_>>().join(", ")
    }

    fn retirements_text(&self) -> String {
        let text = |retired: &Retirement| format!("{} keeps {}", retired.fence.shard, retired.slots);
        self.retirements.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// Why a slot is not served; empty if it is.
    fn reason(&self, slot: &str) -> &str {
        let route = self.routes.iter().find(|route| slots(slot).is_subset(&route.slots)).unwrap();
        route.to.as_ref().err().map_or("", String::as_str)
    }
}

#[test]
fn at_the_first_start_everybody_gets_its_share_under_epoch_one() {
    let plan = Scene::of("a b").fresh("a").fresh("b").plan();
    assert_eq!(plan.orders_text(), "a 0-8191@1, b 8192-16383@1");
    assert_eq!(plan.routes_text(), "");
    assert_eq!(plan.reason("0"), "a is being told its slots");
}

#[test]
fn settled_secondaries_are_told_the_same_again_and_are_routed() {
    let scene = Scene::of("a b").serving("a", "0-8191", 4).serving("b", "8192-16383", 4);
    let plan = scene.plan();
    assert_eq!(plan.orders_text(), "a 0-8191@4, b 8192-16383@4");
    assert_eq!(plan.routes_text(), plan.orders_text());
    assert_eq!(scene.blind().plan(), plan, "settled secondaries need no fences");
}

#[test]
fn while_one_is_down_the_others_go_on() {
    let scene = Scene::of("a b").serving("a", "0-8191", 4).down("b").fence("b", "8192-16383", 4, false);
    for scene in [scene, Scene::of("a b").serving("a", "0-8191", 4).down("b").blind()] {
        let plan = scene.plan();
        assert_eq!(plan.orders_text(), "a 0-8191@4");
        assert_eq!(plan.routes_text(), "a 0-8191@4");
        assert_eq!(plan.retirements_text(), "");
        let expected = if scene.fences.is_ok() { "b: no answer: connection refused" } else { "the tier is down" };
        assert!(plan.reason("8192").contains(expected), "{plan:?}");
    }
}

#[test]
fn growing_lets_the_old_owner_spill_before_the_new_one_serves() {
    let one = Scene::of("a b").serving("a", "0-16383", 1).fresh("b");
    let plan = one.plan();
    assert_eq!(plan.orders_text(), "a 0-8191@2, b @2");
    assert_eq!(plan.routes_text(), "a 0-8191@1", "its part is served all along");
    assert_eq!(plan.reason("9000"), "a is spilling these slots before they move");
    let plan = Scene::of("a b").serving("a", "0-8191", 2).fresh("b").plan();
    assert_eq!(plan.orders_text(), "a 0-8191@2, b 8192-16383@2");

    let two = Scene::of("a b c").serving("a", "0-8191", 2).serving("b", "8192-16383", 2).fresh("c");
    let plan = two.plan();
    assert_eq!(plan.orders_text(), "a 0-5460@3, b 8192-10921@3, c @3");
    assert_eq!(plan.routes_text(), "a 0-5460@2, b 8192-10921@2");
}

#[test]
fn shrinking_tells_the_former_member_to_let_go() {
    let scene = Scene::of("a").serving("a", "0-8191", 2).serving("b", "8192-16383", 2);
    let plan = scene.plan();
    assert_eq!(plan.orders_text(), "a 0-8191@3, b @3");
    assert_eq!(plan.routes_text(), "a 0-8191@2");
    assert_eq!(plan.retirements_text(), "", "it lives, and lets go itself");
    let plan = Scene::of("a").serving("a", "0-8191", 2).serving("b", "", 3).plan();
    assert_eq!(plan.orders_text(), "a 0-16383@3");
}

#[test]
fn a_former_member_that_stopped_cleanly_is_taken_over_from_once_it_was_asked() {
    let scene = Scene::of("a").serving("a", "0-8191", 2).fence("b", "8192-16383", 2, true);
    assert_eq!(scene.plan().retirements_text(), "", "it may live");
    let plan = scene.down("b").plan();
    assert_eq!(plan.retirements_text(), "b keeps ");
    assert_eq!(plan.orders_text(), "a 0-8191@3");
    assert_eq!(plan.reason("9000"), "taking these slots over from b");
    let plan = Scene::of("a").serving("a", "0-8191", 2).fence("b", "", 3, true).plan();
    assert_eq!(plan.orders_text(), "a 0-16383@3");
}

#[test]
fn a_former_member_that_stopped_uncleanly_keeps_its_slots_unless_the_loss_is_accepted() {
    let scene = Scene::of("a").serving("a", "0-8191", 2).down("b").fence("b", "8192-16383", 2, false);
    let plan = scene.plan();
    assert_eq!(plan.retirements_text(), "");
    assert_eq!((plan.orders_text().as_str(), plan.routes_text().as_str()), ("a 0-8191@3", "a 0-8191@2"));
    assert!(plan.reason("9000").starts_with("b served these slots"), "{plan:?}");
    assert!(plan.reason("9000").contains("--accept-loss"), "{plan:?}");

    let mut scene = scene.accept_loss();
    assert_eq!(scene.plan().retirements_text(), "b keeps ");
    scene.members.get_mut(&name("b")).unwrap().misses = MISSES_MIN - 1;
    assert_eq!(scene.plan().retirements_text(), "", "perhaps it only hesitates");
}

#[test]
fn a_listed_member_that_is_down_keeps_the_part_of_its_slots_that_stays_its() {
    let scene =
        |clean| Scene::of("a b c").serving("b", "8192-10921", 3).fresh("c").down("a").fence("a", "0-8191", 2, clean);
    assert_eq!(scene(true).plan().retirements_text(), "a keeps 0-5460");
    let plan = scene(false).plan();
    assert_eq!(plan.retirements_text(), "");
    assert_eq!(plan.orders_text(), "b 8192-10921@3, c 10922-16383@3", "what a did not have can move");
    assert_eq!(scene(false).accept_loss().plan().retirements_text(), "a keeps 0-5460");
}

#[test]
fn a_replaced_member_and_a_reordered_list() {
    let plan = Scene::of("a c").serving("a", "0-8191", 1).fresh("c").down("b").fence("b", "8192-16383", 1, true).plan();
    assert_eq!(plan.orders_text(), "a 0-8191@2, c @2");
    assert_eq!(plan.retirements_text(), "b keeps ");
    let plan = Scene::of("b a").serving("a", "0-8191", 1).serving("b", "8192-16383", 1).plan();
    assert_eq!(plan.orders_text(), "a @2, b @2");
    assert_eq!(plan.routes_text(), "", "each holds what the other shall have");
}

#[test]
fn who_follows_another_primary_is_neither_routed_nor_overruled() {
    let other = OrderAnswer::Refused(ControlError::OtherList("a b".to_owned()));
    let mut scene = Scene::of("a c").serving("a", "0-8191", 1).serving("b", "8192-16383", 1).fresh("c");
    for member in scene.members.values_mut() {
        member.order = other.clone();
    }
    let plan = scene.plan();
    assert_eq!(plan.routes_text(), "");
    assert!(plan.reason("0").contains("another primary leads this secondary with another list"), "{plan:?}");
    assert!(plan.reason("9000").contains("b serves these slots for another primary, whose secondaries are: a b"));
    assert_eq!(plan.orders_text(), "a 0-8191@2, c @2, b @2", "asked again, until the other primary is gone");
    assert_eq!(plan.retirements_text(), "");
}

#[test]
fn nobody_is_routed_before_it_has_accepted_an_order() {
    let mut scene = Scene::of("a").serving("a", "0-16383", 1);
    scene.members.get_mut(&name("a")).unwrap().order = OrderAnswer::None;
    assert_eq!(scene.plan().routes_text(), "");
    scene.members.get_mut(&name("a")).unwrap().order = OrderAnswer::Refused(ControlError::StaleEpoch(Epoch(2)));
    assert_eq!(scene.plan().routes_text(), "a 0-16383@1", "it follows, and only the order was late");
}

#[test]
fn who_refuses_or_stops_is_not_routed_and_says_why() {
    for (state, reason) in
        [(MemberState::Refusing("no".to_owned()), "a refuses to serve: no"), (MemberState::Draining, "a is stopping")]
    {
        let mut scene = Scene::of("a").serving("a", "0-16383", 1);
        scene.status_of("a").state = state;
        assert_eq!(scene.plan().routes_text(), "");
        assert_eq!(scene.plan().reason("0"), reason);
    }
}

#[test]
fn where_fences_are_unreadable_everybody_stays_what_it_is() {
    let scene = Scene::of("a b").serving("a", "0-16383", 3).fresh("b").blind();
    let plan = scene.plan();
    assert_eq!(plan.orders_text(), "a 0-16383@3", "less would need a higher epoch, and nobody knows which");
    assert_eq!(plan.routes_text(), "a 0-8191@3");
    assert!(plan.reason("9000").contains("the tier is down"), "{plan:?}");
    assert_eq!(Scene::of("a b").fresh("a").fresh("b").blind().plan().orders_text(), "");
}

#[test]
fn a_secondary_with_another_tier_gets_nothing_and_the_others_go_on() {
    let changes: [fn(&mut MemberStatus); 2] =
        [|status| status.tier_id = Some(TierId(2)), |status| (status.tier_id, status.is_pure_cache) = (None, true)];
    for change in changes {
        let mut scene = Scene::of("a b").fresh("a").serving("b", "8192-16383", 1).fence("c", "0-9", 1, true).down("c");
        change(scene.status_of("a"));
        let plan = scene.plan();
        assert_eq!(plan.orders_text(), "b 8192-16383@2");
        assert_eq!(plan.routes_text(), "b 8192-16383@1");
        assert_eq!(plan.reason("9000"), "");
        assert!(plan.reason("100").contains("a and b have different tiers"), "{plan:?}");
        assert_eq!(plan.retirements_text(), "", "whose fences are these?");

        let mut both_new = Scene::of("a b").fresh("a").fresh("b");
        change(both_new.status_of("a"));
        assert_eq!(both_new.plan().orders_text(), "", "nobody can tell which is the right one");
        assert!(both_new.plan().reason("9000").contains("different tiers"));
    }
}

#[test]
fn a_secondary_that_has_not_reached_its_tier_gets_no_slots() {
    let mut scene = Scene::of("a b").fresh("a").fresh("b");
    scene.status_of("b").tier_id = None;
    let plan = scene.plan();
    assert_eq!(plan.orders_text(), "a 0-8191@1, b @1");
    assert_eq!(plan.reason("9000"), "b has not reached its tier yet");
}

#[test]
fn a_secondary_with_a_new_name_lets_go_under_the_old_one() {
    let holding = Holding { shard: name("old"), epoch: Epoch(1), slots: slots("0-8191") };
    let status = Ok(status(Some(holding), MemberState::Serving));
    let scene = Scene::of("new b").serving("b", "8192-16383", 1).fence("old", "0-8191", 1, false);
    let plan = scene.see("new", status.clone(), OrderAnswer::Accepted).plan();
    assert_eq!(plan.orders_text(), "b 8192-16383@2, new 0-8191@2");
    let scene = Scene::of("b new").serving("b", "8192-16383", 1).fence("old", "0-8191", 1, false);
    let plan = scene.see("new", status, OrderAnswer::Accepted).plan();
    assert_eq!(plan.orders_text(), "b @2, new @2");
    assert_eq!(plan.reason("0"), "new, formerly old, is spilling these slots before they move");
}

#[test]
fn who_got_slots_later_has_them_although_an_old_holder_still_thinks_so() {
    let scene = Scene::of("a").serving("a", "0-16383", 3).serving("b", "8192-16383", 2);
    let plan = scene.plan();
    assert_eq!(plan.routes_text(), "a 0-16383@3");
    assert_eq!(plan.orders_text(), "a 0-16383@3, b @3");
}

#[test]
fn the_epoch_rises_only_when_something_moves() {
    let cases = [
        (Scene::of("a").fresh("a"), 1),
        (Scene::of("a").down("a").fence("a", "0-16383", 5, true), 5),
        (Scene::of("a b").serving("a", "0-16383", 5).fresh("b"), 6),
        (Scene::of("a b").serving("a", "0-8191", 6).fresh("b").fence("c", "9000", 5, true), 6),
        (Scene::of("a b").serving("a", "0-8191", 6).fresh("b").fence("c", "9000", 6, true), 7),
        (Scene::of("a b").serving("a", "0-8191", 6).fresh("b").fence("c", "", 9, true), 9),
    ];
    for (i, (scene, epoch)) in cases.into_iter().enumerate() {
        assert_eq!(scene.plan().epoch, Epoch(epoch), "case {i}");
    }
    let mut heard_of = Scene::of("a").fresh("a");
    heard_of.epoch = Some(Epoch(12));
    assert_eq!(heard_of.plan().epoch, Epoch(12));
}

#[test]
fn fences_are_read_through_those_who_hold_slots_first() {
    let scene = Scene::of("a b c d").fresh("a").down("b").serving("c", "0", 1).fresh("d");
    assert_eq!(readers(&scene.list, &scene.members), [&name("c"), &name("a"), &name("d")]);
}
