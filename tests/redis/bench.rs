//! `kv bench`, on Redis and on us.

use crate::support::process::run;
use crate::world::{Ours, Redis, has};

#[test]
fn kv_bench_loads_both_alike() {
    let (redis, ours) = (has("redis-server").then(|| Redis::start(&[])), Ours::start(2, 100));
    let servers = redis.as_ref().map(|redis| redis.port).into_iter().chain([ours.primary()]);
    for port in servers {
        let address = format!("127.0.0.1:{port}");
        let bench = |words: &str| {
            let args = ["bench", &address, "--json", "--keys", "1000", "--connections", "7"].into_iter();
            let output = run("kv", &args.chain(words.split_whitespace()).collect::<Vec<_>>(), "");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let filled = bench("--gets 0 --pattern sequential --requests 1000");
        assert_eq!((&filled["set"]["count"], &filled["errors"]), (&1000.into(), &0.into()));
        // All keys are there, most of ours in the tier.
        let read = bench("--gets 100 --requests 3000 --pipeline 16 --pattern zipf:0.99 --threads 2");
        assert_eq!((&read["hits"], &read["errors"]), (&3000.into(), &0.into()));
        let paced = bench("--time 300ms --rate 1000");
        assert_eq!((&paced["requests"], &paced["unsent"]), (&300.into(), &0.into()));
        let gone = bench("--gets 100 --requests 10 --prefix other:");
        assert_eq!(gone["hits"], 0);
    }
}

#[test]
fn kv_bench_tells_what_is_wrong_in_one_line() {
    let closed = crate::support::free_port().to_string();
    let address = format!("127.0.0.1:{closed}");
    let cases: [(&[&str], &str); 5] = [
        (&[&address, "--requests", "1"], "can't be reached"),
        (&[&address, "--pattern", "zipf"], "zipf:0.99"),
        (&[&address, "--prefix", "a b"], "--prefix"),
        (&[&address, "--rate", "0"], "requests a second"),
        (&[&address, "--value-size", "9000000"], "8388608"),
    ];
    for (args, expected) in cases {
        let output = run("kv", &[&["bench"], args].concat(), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1 && said.contains(expected), "{said}");
    }
}
