//! The units for systemd, with the settings that lie beside them.

use std::collections::BTreeMap;

use super::{Launch, PASSWORD, Place, Probe, all_serve, with_ports};
use crate::text;

/// The values of a key, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn settings(file: &str) -> Vec<(String, String)> {
    let text = text(file);
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// `${NAME}` is one word, `$NAME` as many as it has.
fn command(line: &str, env: &BTreeMap<String, String>) -> Vec<String> {
    let word =
        |word: &str| match (word.strip_prefix("${").and_then(|word| word.strip_suffix('}')), word.strip_prefix('$')) {
            (Some(name), _) => vec![env[name].clone()],
            (_, Some(name)) => env[name].split_whitespace().map(str::to_owned).collect(),
            _ => vec![word.to_owned()],
        };
    line.split_whitespace().flat_map(word).collect()
}

fn launch(place: &Place, program: &str, instance: &str, host: &str, port: u16) -> Launch {
    let unit = text(&format!("deploy/systemd/overspill-{program}{instance}.service")).replace("%i", &port.to_string());
    let unit = unit.replace("%d", "/credentials");
    let mut env: BTreeMap<String, String> = settings(&format!("deploy/systemd/{program}.env")).into_iter().collect();
    env.extend(values(&unit, "Environment").iter().map(|pair| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    }));
    let credentials: Vec<(String, Vec<u8>)> = values(&unit, "LoadCredential")
        .iter()
        .map(|credential| (credential.split_once(':').unwrap().0.to_owned(), PASSWORD.into()))
        .collect();
    let mut mounts = vec![("/credentials".to_owned(), place.folder(&format!("{host}/credentials"), &credentials))];
    for state in values(&unit, "StateDirectory") {
        mounts.push((format!("/var/lib/{state}"), place.folder(&format!("{host}/state"), &[])));
    }
    let command = command(values(&unit, "ExecStart")[0], &env);
    assert_eq!(command[0], format!("/usr/local/bin/{program}"));
    let drain = env.get("KV_DRAIN_TIMEOUT").map_or(0, |drain| humantime::parse_duration(drain).unwrap().as_secs());
    assert!(values(&unit, "TimeoutStopSec")[0].parse::<u64>().unwrap() >= drain + 10 + 5);
    let probe = |path: &str| Probe::Http { path: path.to_owned(), is_tls: false };
    Launch {
        at: format!("systemd: {host}"),
        program: program.to_owned(),
        args: command[1..].to_vec(),
        env: env.into_iter().filter(|(key, _)| key.starts_with("KV_")).collect(),
        mounts,
        port,
        startup: vec![probe("/livez")],
        probes: vec![probe("/readyz")],
        ..Launch::default()
    }
}

#[test]
fn units_start_and_serve() {
    let mut place = Place::new();
    let tier = place.tier();
    place.names.insert("db.example:3306".to_owned(), tier);
    let mut launches = Vec::new();
    for (host, program, instance, port) in [
        ("secondary-1.example", "secondary", "@", 8081),
        ("secondary-2.example", "secondary", "@", 8081),
        ("primary.example", "primary", "", 8080),
    ] {
        let mut launch = launch(&place, program, instance, host, port);
        with_ports(std::slice::from_mut(&mut launch));
        place.names.insert(format!("{host}:{port}"), format!("127.0.0.1:{}", launch.real_port));
        launches.push(launch);
    }
    all_serve(&place, launches);
}
