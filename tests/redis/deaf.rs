//! Clients that ask much and never read: what that costs a whole node.

use crate::support::cluster::Cluster;
use crate::wire::{Wire, request};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_little_memory_and_others_are_served() {
    let cluster = Cluster::start(1, &[]).await;
    let nodes = [(&cluster.primary, cluster.port), (&cluster.secondaries[0], cluster.secondary_ports()[0])];
    let mut wire = Wire::connect(cluster.port);
    let value = vec![b'v'; MIB as usize];
    for i in 0..16 {
        assert_eq!(wire.told(&[b"SET", format!("{{t}}{i}").as_bytes(), &value]), "+OK\\r\\n");
    }
    for (process, port) in nodes {
        let before = process.resident_bytes();
        let mget: Vec<String> =
            std::iter::once("MGET".to_owned()).chain((0..16).map(|i| format!("{{t}}{i}"))).collect();
        let gets: Vec<u8> = (0..16).flat_map(|i| request(&["GET", &format!("{{t}}{i}")])).collect();
        let pipeline = [request(&mget), gets].concat().repeat(20);
        let mut deaf: Vec<Wire> = (0..60).map(|_| Wire::connect(port)).collect();
        deaf.iter_mut().for_each(|wire| wire.send(&pipeline));
        let mut other = Wire::connect(port);
        let mut most = 0;
        for i in 0..40 {
            // Large answers may be refused while others hold much; never for good, and small ones never.
            let reply = other.ask(&["GET", &format!("{{t}}{}", i % 16)]);
            assert!(
                reply.len() as u64 == MIB + 12 || reply.starts_with(b"-TRYAGAIN "),
                "{}",
                reply[..100].escape_ascii()
            );
            assert_eq!(other.line("EXISTS {t}0"), ":1");
            assert_eq!(other.line("SET small 1"), "+OK");
            assert_eq!(other.line("GET small"), "$1\\r\\n1");
            most = most.max(process.resident_bytes().saturating_sub(before));
        }
        println!("memory grew by {} MiB", most / MIB);
        assert!(most < 400 * MIB, "memory grew by {} MiB", most / MIB);
        drop(deaf);
    }
    cluster.stop();
}
