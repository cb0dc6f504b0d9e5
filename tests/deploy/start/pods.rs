//! The pods of a set of Kubernetes objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Launch, Place, Probe, all_serve, image_env, with_ports};
use crate::path;
use crate::sets::{Set, container, list, name, words, yaml};

const NAMESPACE: &str = "overspill";
/// Of a Deployment.
const PODS_MAX: u64 = 2;

/// `$(NAME)` as the kubelet replaces it.
fn expanded(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = value.to_owned();
    for (key, value) in env {
        expanded = expanded.replace(&format!("$({key})"), value);
    }
    assert!(!expanded.contains("$("), "{value}");
    expanded
}

fn probe(launch: &Launch, workload: &Value, of: &str) -> Probe {
    let probe = &container(workload)[of];
    let port = |port: &Value| {
        let named = list(&container(workload)["ports"]).iter().find(|known| known["name"] == *port);
        assert_eq!(named.unwrap()["containerPort"], launch.port, "{}", launch.at);
    };
    match (&probe["httpGet"], &probe["tcpSocket"]) {
        (Value::Object(get), _) => {
            port(&get["port"]);
            let is_tls = get.get("scheme").is_some_and(|scheme| scheme == "HTTPS");
            Probe::Http { path: words(&get["path"]).to_owned(), is_tls }
        }
        (_, Value::Object(tcp)) => {
            port(&tcp["port"]);
            Probe::Tcp
        }
        _ => panic!("{}: {probe}", launch.at),
    }
}

/// What stands in the folder of a volume.
fn files(place: &Place, set: &Set, volume: &Value) -> Vec<(String, Vec<u8>)> {
    if let Some(map) = volume["configMap"]["name"].as_str() {
        return set.data("ConfigMap", map).unwrap();
    }
    let Some(secret) = volume["secret"]["secretName"].as_str() else { return Vec::new() };
    let data = set.data("Secret", secret);
    let items = list(&volume["secret"]["items"]);
    if items.is_empty() {
        let kinds = ["tls.crt", "tls.key", "ca.crt"];
        return data.unwrap_or_else(|| kinds.iter().map(|key| ((*key).to_owned(), place.given(key))).collect());
    }
    let value = |key: &str| match &data {
        Some(data) => data.iter().find(|(known, _)| known == key).unwrap().1.clone(),
        None => place.given(key),
    };
    items.iter().map(|item| (words(&item["path"]).to_owned(), value(words(&item["key"])))).collect()
}

fn launch(place: &Place, set: &Set, workload: &Value, pod: &str) -> Launch {
    let (spec, container) = (&workload["spec"]["template"]["spec"], container(workload));
    let mut env = image_env();
    env.remove("HEALTH_ADDRESS"); // Kubernetes has probes instead
    for source in list(&container["envFrom"]) {
        let data = set.data("ConfigMap", words(&source["configMapRef"]["name"])).unwrap();
        env.extend(data.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())));
    }
    for variable in list(&container["env"]) {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None => words(&variable["value"]).to_owned(),
            Some("metadata.name") => pod.to_owned(),
            Some("metadata.namespace") => NAMESPACE.to_owned(),
            Some(field) => panic!("{field}"),
        };
        env.insert(words(&variable["name"]).to_owned(), value);
    }
    let mount = |mount: &Value| {
        let volume = list(&spec["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
        let files = volume.map_or(Vec::new(), |volume| files(place, set, volume));
        let real = place.folder(&format!("{pod}/{}", words(&mount["name"])), &files);
        if volume.is_none() {
            std::fs::create_dir(real.join("lost+found")).unwrap(); // as on a volume of its own
        }
        (words(&mount["mountPath"]).to_owned(), real)
    };
    let mut launch = Launch {
        at: format!("{}: {pod}", set.name),
        program: words(&container["command"][0]).to_owned(),
        args: list(&container["args"]).iter().map(|arg| expanded(words(arg), &env)).collect(),
        mounts: list(&container["volumeMounts"]).iter().map(mount).collect(),
        port: container["ports"][0]["containerPort"].as_u64().unwrap().try_into().unwrap(),
        env,
        ..Launch::default()
    };
    launch.startup = vec![probe(&launch, workload, "startupProbe")];
    launch.probes = ["livenessProbe", "readinessProbe"].map(|of| probe(&launch, workload, of)).to_vec();
    launch
}

/// The pods of ours, and by which names they and the database are known.
fn launches(place: &mut Place, set: &Set) -> Vec<Launch> {
    let mut launches = Vec::new();
    let tier = place.tier();
    for workload in set.workloads() {
        let service_of = |service: &&Value| {
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            service["spec"]["selector"].as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
        };
        let service = set.of_kind("Service").find(service_of).unwrap();
        let port = &service["spec"]["ports"][0]["port"];
        if !["primary", "secondary"].contains(&container(workload)["command"][0].as_str().unwrap_or_default()) {
            place.names.insert(format!("{}:{port}", name(service)), tier.clone());
            continue;
        }
        let pods = workload["spec"]["replicas"].as_u64().unwrap();
        let pods = if workload["kind"] == "Deployment" { pods.min(PODS_MAX) } else { pods };
        let mut own: Vec<Launch> =
            (0..pods).map(|i| launch(place, set, workload, &format!("{}-{i}", name(workload)))).collect();
        with_ports(&mut own);
        for (i, launch) in own.iter().enumerate() {
            let real = format!("127.0.0.1:{}", launch.real_port);
            if workload["kind"] == "StatefulSet" {
                let pod = format!("{}-{i}.{}", name(workload), name(service));
                place.names.insert(format!("{pod}:{}", launch.port), real.clone());
                place.names.insert(format!("{pod}.{NAMESPACE}.svc:{}", launch.port), real);
            } else {
                place.names.entry(format!("{}:{port}", name(service))).or_insert(real);
            }
        }
        launches.append(&mut own);
    }
    launches
}

fn serves(set: Option<Set>, elsewhere: &str) {
    let Some(set) = set else { return };
    let mut place = Place::new();
    let tier = place.tier();
    place.names.insert(elsewhere.to_owned(), tier);
    let launches = launches(&mut place, &set);
    all_serve(&place, launches);
}

#[test]
fn plain_manifests_start_and_serve() {
    serves(Set::plain(), "");
}

#[test]
fn the_chart_with_its_defaults_starts_and_serves() {
    serves(Set::of("default"), "");
}

#[test]
fn the_chart_with_tls_and_another_database_starts_and_serves() {
    let Some(values) = yaml(&[path("tests/golden/helm/external.values.yaml")]) else { return };
    let database = &values[0]["externalDatabase"];
    serves(Set::of("external"), &format!("{}:{}", words(&database["host"]), database["port"]));
}

#[test]
fn the_chart_as_a_pure_cache_starts_and_serves() {
    serves(Set::of("cache"), "");
}
