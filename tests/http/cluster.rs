//! A whole cluster: any node is asked by HTTP, beside the other protocols on its port.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use overspill::journal::{self, Fsync};
use overspill::node::{LocalCluster, LocalOptions};
use overspill::policy::PolicyKind;
use overspill::shard::{ShardOptions, WriteMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::caller::Caller;
use crate::world::PATIENCE;

pub async fn cluster(folder: &Path) -> LocalCluster {
    let options = LocalOptions {
        data_dir: folder.to_owned(),
        secondaries: 2,
        secret: None,
        journal: journal::Options { segment_bytes: 1 << 20, ..journal::Options::new(Fsync::Never, 1 << 26) },
        shard: ShardOptions {
            capacity: 50,
            memory_bytes_max: 64 * 1024 * 1024,
            policy: PolicyKind::Lru,
            write_mode: WriteMode::Spill,
            accept_loss: false,
            strict: false,
            drain_timeout: PATIENCE,
            sweep_interval: Duration::from_secs(3600),
            seed: 7,
        },
    };
    let cluster = LocalCluster::start(options).await.unwrap();
    cluster.until_served(PATIENCE).await.unwrap();
    cluster
}

async fn caller(address: std::net::SocketAddr) -> Caller<TcpStream> {
    Caller::new(TcpStream::connect(address).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_answers_for_all_and_a_secondary_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path()).await;
    let mut primary = caller(cluster.address()).await;
    for i in 0..200 {
        let stored = primary.put(&format!("/v1/kv/key:{i}"), &[], i.to_string()).await;
        assert_eq!(stored.status, 204, "{stored:?}");
    }
    for i in 0..200 {
        assert_eq!(primary.get(&format!("/v1/kv/key:{i}")).await.text(), i.to_string(), "spilled or not");
    }
    let map = primary.get("/v1/map").await.json();
    let stats = primary.get("/v1/stats").await.json();
    assert_eq!(map["complete"], true);
    for (i, address) in cluster.secondaries().enumerate() {
        let name = format!("local-{}", i + 1);
        let shard = &map["shards"][i];
        assert_eq!((&shard["name"], &shard["address"]), (&name.as_str().into(), &address.to_string().into()));
        assert_eq!((&shard["me"], &stats["shards"][i]["shard"]), (&false.into(), &name.as_str().into()));
        assert!(stats["shards"][i]["spilled_rows"].as_u64().unwrap() > 0);

        let mut secondary = caller(address).await;
        let own = secondary.get("/v1/map").await.json();
        let me = own["shards"].as_array().unwrap().iter().find(|shard| shard["me"] == true).unwrap().clone();
        assert_eq!((&me["name"], &me["slots"], &me["epoch"]), (&shard["name"], &shard["slots"], &shard["epoch"]));
        assert_eq!(me["address"], shard["address"], "they tell clients the same");
        assert_eq!(secondary.get("/readyz").await.status, 200);
        let figures = secondary.get("/metrics").await;
        let up: Vec<&str> = figures.text().lines().filter(|line| line.starts_with("kv_shard_up{")).collect();
        assert_eq!(up, [format!("kv_shard_up{{shard=\"{name}\"}} 1")], "it speaks for itself only");
        let answers: Vec<u16> = [
            secondary.get("/v1/kv/key:1").await.status,
            secondary.get("/v1/kv/key:2").await.status,
            secondary.get("/v1/kv/key:3").await.status,
            secondary.get("/v1/kv/key:4").await.status,
        ]
        .into();
        assert!(answers.contains(&200) && answers.contains(&503), "its own, and those of the other: {answers:?}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_and_browsers_share_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path()).await;
    let mut redis = TcpStream::connect(cluster.address()).await.unwrap();
    redis.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n").await.unwrap();
    let mut reply = [0; 5];
    redis.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"+OK\r\n");
    let mut typed = TcpStream::connect(cluster.address()).await.unwrap();
    typed.write_all(b"GET k\r\n").await.unwrap();
    let mut reply = [0; 11];
    typed.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"$5\r\nvalue\r\n");
    let mut http = caller(cluster.address()).await;
    assert_eq!(http.get("/v1/kv/k").await.text(), "value");
    let metrics = http.get("/metrics").await;
    for line in [
        r#"kv_connections{door="resp"} 2"#,
        r#"kv_connections{door="http"} 1"#,
        r#"kv_connections_accepted_total{door="resp"} 2"#,
        r#"kv_commands_total{door="resp",command="get",result="ok"} 1"#,
    ] {
        assert!(metrics.text().lines().any(|told| told == line), "{line} in\n{}", metrics.text());
    }
    let received = metrics.text().lines().find(|line| line.starts_with("kv_received_bytes_total{door=\"resp\"}"));
    assert_eq!(received.unwrap().rsplit_once(' ').unwrap().1, (31 + 7).to_string());
    drop((redis, typed, http));
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_does_what_the_documents_say() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path()).await;
    let base = format!("http://{}", cluster.address());
    let curl = async |arguments: Vec<String>| {
        let run = move || {
            let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let words = |line: &str| line.split(' ').map(|word| word.replace('~', " ").replace("BASE", &base)).collect();
    assert_eq!(curl(words("-X PUT --data-binary hello BASE/v1/kv/greeting -w %{http_code}")).await, "204");
    assert_eq!(curl(words("BASE/v1/kv/greeting")).await, "hello");
    let head = curl(words("-I BASE/v1/kv/greeting")).await.to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 200") && head.contains("etag: \"") && head.contains("content-length: 5"),
        "{head}"
    );
    assert_eq!(
        curl(words("-X PUT -H If-None-Match:~* -d again BASE/v1/kv/greeting -o /dev/null -w %{http_code}")).await,
        "412"
    );
    assert_eq!(curl(words("-X PUT -H Overspill-TTL:~30s -d brief BASE/v1/kv/brief -w %{http_code}")).await, "204");
    assert!(curl(words("-i BASE/v1/kv/brief")).await.contains("overspill-ttl: "));
    let set = words(r#"-X POST BASE/store/set -d {"key":"name","value":"Ada"}"#);
    assert_eq!(curl(set).await, r#"{"key":"name","value":"Ada"}"#);
    assert_eq!(curl(words("BASE/store/get/name")).await, r#"{"key":"name","value":"Ada"}"#);
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'x'; 9 << 20]).unwrap();
    let upload =
        |more: &str| words(&format!("{more}-T {} BASE/v1/kv/large -o /dev/null -w %{{http_code}}", large.display()));
    assert_eq!(curl(upload("")).await, "413");
    assert_eq!(curl(upload("-H Expect: ")).await, "413", "also for those who do not ask before they send");
    assert_eq!(curl(upload("-H Expect: -H Transfer-Encoding:~chunked ")).await, "413");
    std::fs::write(&large, vec![b'x'; 8 << 20]).unwrap();
    assert_eq!(curl(upload("")).await, "204");
    assert_eq!(curl(words("BASE/v1/kv/large -o /dev/null -w %{size_download}")).await, (8 << 20).to_string());
    assert_eq!(curl(words("-X DELETE BASE/v1/kv/greeting -w %{http_code}")).await, "204");
    assert_eq!(curl(words("BASE/v1/kv/greeting -w %{http_code}")).await, "there is no such key\n404");
    assert_eq!(curl(words("BASE/readyz")).await, "ready\n");
    assert!(curl(words("BASE/metrics")).await.ends_with("# EOF\n"));
    cluster.stop().await.unwrap();
}
