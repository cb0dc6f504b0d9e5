//! The services of compose.yaml.

use serde_json::Value;

use super::{Launch, PASSWORD, Place, all_serve, image_env, image_probe, with_ports};
use crate::path;
use crate::sets::{list, words, yaml};

/// `${NAME:?…}` and `${NAME:-…}`; every variable is a password here.
fn substituted(value: &str) -> String {
    if value.starts_with("${") { PASSWORD.to_owned() } else { value.to_owned() }
}

fn launch(place: &Place, name: &str, service: &Value) -> Launch {
    let command: Vec<String> = list(&service["command"]).iter().map(|word| words(word).to_owned()).collect();
    let port = command.iter().find_map(|word| word.parse().ok()).unwrap();
    let mut env = image_env();
    let given = service["environment"].as_object().unwrap().iter();
    env.extend(given.map(|(key, value)| (key.clone(), substituted(words(value)))));
    let mount = |volume: &Value| {
        let (volume, mount) = words(volume).split_once(':').unwrap();
        (mount.to_owned(), place.folder(volume, &[]))
    };
    assert_eq!(service["read_only"], true);
    Launch {
        at: format!("compose.yaml: {name}"),
        program: command[0].clone(),
        args: command[1..].to_vec(),
        env,
        mounts: list(&service["volumes"]).iter().map(mount).collect(),
        port,
        probes: vec![image_probe()],
        ..Launch::default()
    }
}

#[test]
fn compose_starts_and_serves() {
    let Some(documents) = yaml(&[path("compose.yaml")]) else { return };
    let services = documents[0]["services"].as_object().unwrap();
    let mut place = Place::new();
    let (mysql, tier) = (&services["mysql"], place.tier());
    assert!(mysql["healthcheck"]["test"].is_array());
    place.names.insert("mysql:3306".to_owned(), tier);
    let ours = services.iter().filter(|(name, _)| *name != "mysql");
    let mut launches: Vec<(String, Launch)> =
        ours.map(|(name, service)| (name.clone(), launch(&place, name, service))).collect();
    for (name, launch) in &mut launches {
        with_ports(std::slice::from_mut(launch));
        place.names.insert(format!("{name}:{}", launch.port), format!("127.0.0.1:{}", launch.real_port));
        let grace = humantime::parse_duration(words(&services[name.as_str()]["stop_grace_period"])).unwrap();
        let drain =
            launch.env.get("KV_DRAIN_TIMEOUT").map_or(0, |drain| humantime::parse_duration(drain).unwrap().as_secs());
        assert!(grace.as_secs() >= drain + 10 + 5, "{name}");
    }
    all_serve(&place, launches.into_iter().map(|(_, launch)| launch).collect());
}
