//! What the schemas don't tell: that names, selectors, ports, keys, sizes and times fit each other.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::sets::{Set, container, list, name, words};
use crate::text;

/// Fields of which a schema says only that they are text.
const ENUMS: [(&str, &[&str]); 12] = [
    ("imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
    ("protocol", &["TCP", "UDP"]),
    ("whenUnsatisfiable", &["ScheduleAnyway", "DoNotSchedule"]),
    ("podManagementPolicy", &["Parallel", "OrderedReady"]),
    ("fsGroupChangePolicy", &["OnRootMismatch", "Always"]),
    ("operator", &["In", "NotIn", "Exists", "DoesNotExist", "Equal"]),
    ("scheme", &["HTTP", "HTTPS", "http", "https"]),
    ("pathType", &["Prefix", "Exact", "ImplementationSpecific"]),
    ("policyTypes", &["Ingress", "Egress"]),
    ("accessModes", &["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]),
    ("drop", &["ALL"]),
    ("clusterIP", &["None"]),
];
/// What a stop takes beside --drain-timeout: the requests under way.
const DOOR_SECONDS: u64 = 10;

fn all() -> Vec<Set> {
    Set::all().unwrap_or_default()
}

fn labels<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object[field].as_object()
}

fn template(workload: &Value) -> &Value {
    &workload["spec"]["template"]
}

/// The workloads whose pods a selector's labels choose.
fn chosen<'a>(set: &'a Set, selector: &Value) -> Vec<&'a Value> {
    let empty = Map::new();
    let wanted = selector.as_object().unwrap_or(&empty);
    let fits = |workload: &&Value| {
        let has = labels(&template(workload)["metadata"], "labels").unwrap();
        wanted.iter().all(|(key, value)| has.get(key) == Some(value))
    };
    set.workloads().filter(fits).collect()
}

fn has_port(workload: &Value, port: &Value) -> bool {
    list(&container(workload)["ports"]).iter().any(|known| known["name"] == *port || known["containerPort"] == *port)
}

/// Every field of a tree, with its name.
fn each(value: &Value, seen: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            seen(key, value);
            each(value, seen);
        }),
        Value::Array(values) => values.iter().for_each(|value| each(value, seen)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A size as Kubernetes or Overspill writes it, in bytes.
fn bytes(size: &str) -> u64 {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match size[digits.len()..].trim_end_matches('B') {
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        other => panic!("`{other}` in `{size}`"),
    };
    digits.parse::<u64>().unwrap() * unit
}

#[test]
fn objects_have_names_of_their_own_and_known_words() {
    for set in all() {
        let names: BTreeSet<_> = set.objects.iter().map(|object| (words(&object["kind"]), name(object))).collect();
        assert_eq!(names.len(), set.objects.len(), "{}", set.name);
        for object in &set.objects {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name(object).chars().all(is_name) && name(object).len() <= 52, "{}", name(object));
            let namespace = &object["metadata"]["namespace"];
            let wanted = set.name == "k8s" && object["kind"] != "Namespace";
            assert_eq!(namespace.as_str(), wanted.then_some("overspill"), "{}: {}", set.name, name(object));
            each(&object["spec"], &mut |key, value| {
                let Some((_, allowed)) = ENUMS.iter().find(|(known, _)| *known == key) else { return };
                let given = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                let is_known = |word: &Value| word.as_str().is_some_and(|word| allowed.contains(&word));
                assert!(given.iter().all(is_known), "{}: {key}: {value}", set.name);
            });
        }
    }
}

#[test]
fn selectors_choose_pods_and_ports_are_theirs() {
    for set in all() {
        for workload in set.workloads() {
            let own = chosen(&set, &workload["spec"]["selector"]["matchLabels"]);
            assert!(own.len() == 1 && own[0] == workload, "{}: {}", set.name, name(workload));
        }
        for service in set.of_kind("Service") {
            let pods = chosen(&set, &service["spec"]["selector"]);
            assert_eq!(pods.len(), 1, "{}: {}", set.name, name(service));
            for port in list(&service["spec"]["ports"]) {
                assert!(has_port(pods[0], &port["targetPort"]), "{}: {port}", set.name);
            }
        }
        for workload in set.of_kind("StatefulSet") {
            assert!(set.find("Service", words(&workload["spec"]["serviceName"])).is_some());
        }
        for budget in set.of_kind("PodDisruptionBudget") {
            assert_eq!(chosen(&set, &budget["spec"]["selector"]["matchLabels"]).len(), 1, "{}", name(budget));
        }
        for ingress in set.of_kind("Ingress") {
            let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
            let service = set.find("Service", words(&backend["name"])).unwrap();
            assert_eq!(service["spec"]["ports"][0]["name"], backend["port"]["name"]);
        }
    }
}

#[test]
fn policies_let_in_who_must_come_and_nobody_else() {
    for set in all().iter().filter(|set| set.of_kind("NetworkPolicy").count() > 0) {
        let on = |workload: &Value, side: &str| -> Vec<Value> {
            let is_chosen = |policy: &&Value| {
                chosen(set, &policy["spec"]["podSelector"]["matchLabels"]).contains(&workload)
                    && list(&policy["spec"]["policyTypes"]).len() > usize::from(side == "egress")
            };
            let rules = set.of_kind("NetworkPolicy").filter(is_chosen).flat_map(|policy| list(&policy["spec"][side]));
            rules.cloned().collect()
        };
        let lets = |rules: &[Value], side: &str, peer: &Value, port: &str| {
            rules.iter().any(|rule| {
                let peers = list(&rule[side]);
                let is_peer = |of: &Value| {
                    of["podSelector"].is_object()
                        && of["namespaceSelector"].is_null()
                        && chosen(set, &of["podSelector"]["matchLabels"]).contains(&peer)
                };
                (peers.is_empty() || peers.iter().any(is_peer))
                    && list(&rule["ports"]).iter().any(|p| p["port"] == port)
            })
        };
        let (primary, secondary) = (set.running("primary"), set.running("secondary"));
        assert!(lets(&on(primary, "egress"), "to", secondary, "overspill"), "{}", set.name);
        assert!(lets(&on(secondary, "ingress"), "from", primary, "overspill"), "{}", set.name);
        assert!(lets(&on(primary, "ingress"), "from", secondary, "overspill"), "{}: clients", set.name);
        if let Some(mysql) = set.workloads().find(|workload| container(workload)["name"] == "mysql") {
            assert!(lets(&on(secondary, "egress"), "to", mysql, "mysql"), "{}", set.name);
            assert!(lets(&on(mysql, "ingress"), "from", secondary, "mysql"), "{}", set.name);
            assert!(!lets(&on(mysql, "ingress"), "from", primary, "mysql"), "{}", set.name);
            assert!(!lets(&on(primary, "egress"), "to", mysql, "mysql"), "{}", set.name);
        }
        for workload in set.workloads() {
            let dns =
                |rule: &Value| list(&rule["ports"]).iter().any(|port| port["port"] == 53 && port["protocol"] == "UDP");
            assert!(on(workload, "egress").iter().any(dns), "{}: {}", set.name, name(workload));
        }
    }
}

#[test]
fn pods_may_do_little_and_are_watched() {
    for set in all() {
        for workload in set.workloads() {
            let (at, pod, container) = (name(workload), &template(workload)["spec"], container(workload));
            let own = &container["securityContext"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{at}");
            assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0, "{at}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{at}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{at}");
            assert_eq!(pod["enableServiceLinks"], false, "{at}: a Service may be named `kv`");
            assert_eq!(
                (&own["readOnlyRootFilesystem"], &own["allowPrivilegeEscalation"]),
                (&true.into(), &false.into()),
                "{at}"
            );
            assert_eq!(own["capabilities"]["drop"][0], "ALL", "{at}");
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert!(container[probe].is_object(), "{at}: {probe}");
            }
            let (requests, limits) = (&container["resources"]["requests"], &container["resources"]["limits"]);
            assert!(
                requests["cpu"].is_string() && requests["memory"].is_string() && limits["memory"].is_string(),
                "{at}"
            );
            for variable in list(&container["env"]) {
                let (key, value) = (words(&variable["name"]), &variable["value"]);
                assert!(
                    !key.contains("PASSWORD") || (key.ends_with("_FILE") && value.is_string()),
                    "{at}: {key} in the open"
                );
            }
        }
    }
}

#[test]
fn volumes_secrets_and_keys_exist() {
    for set in all() {
        let given = set.name.strip_suffix(".yaml").map(|name| text(&format!("{name}.values.yaml"))).unwrap_or_default();
        for workload in set.workloads() {
            let (at, pod) = (format!("{}: {}", set.name, name(workload)), &template(workload)["spec"]);
            let claims = list(&workload["spec"]["volumeClaimTemplates"]).iter().map(name);
            let volumes: Vec<&str> =
                list(&pod["volumes"]).iter().map(|volume| words(&volume["name"])).chain(claims).collect();
            let mounts: Vec<&str> =
                list(&container(workload)["volumeMounts"]).iter().map(|m| words(&m["name"])).collect();
            let sorted = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&volumes), sorted(&mounts), "{at}");
            assert_eq!(volumes.len(), sorted(&volumes).len(), "{at}");
            for volume in list(&pod["volumes"]) {
                let (kind, name) = match (&volume["secret"], &volume["configMap"]) {
                    (Value::Object(secret), _) => ("Secret", words(&secret["secretName"])),
                    (_, Value::Object(map)) => ("ConfigMap", words(&map["name"])),
                    _ => continue,
                };
                let keys: Vec<&str> = list(&volume["secret"]["items"]).iter().map(|item| words(&item["key"])).collect();
                match set.data(kind, name) {
                    Some(data) => {
                        assert!(
                            keys.iter().all(|key| data.iter().any(|(known, _)| known == key)),
                            "{at}: {name} {keys:?}"
                        );
                    }
                    None => {
                        assert!(keys.iter().chain([&name]).all(|word| given.contains(*word)), "{at}: {name} {keys:?}")
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_and_times_fit_each_other() {
    for set in all() {
        let (primary, secondary) = (set.running("primary"), set.running("secondary"));
        let settings =
            set.data("ConfigMap", words(&container(secondary)["envFrom"][0]["configMapRef"]["name"])).unwrap();
        let setting =
            |key: &str| String::from_utf8(settings.iter().find(|(known, _)| known == key).unwrap().1.clone()).unwrap();
        let grace = |workload: &Value| template(workload)["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        let sleep = |workload: &Value| {
            let command = list(&container(workload)["lifecycle"]["preStop"]["exec"]["command"]);
            command.get(1).map_or(0, |seconds| words(seconds).parse::<u64>().unwrap())
        };
        let drain = humantime::parse_duration(&setting("KV_DRAIN_TIMEOUT")).unwrap().as_secs();
        assert!(grace(secondary) >= sleep(secondary) + DOOR_SECONDS + drain + 10, "{}", set.name);
        assert!(grace(primary) >= sleep(primary) + DOOR_SECONDS + 5 && sleep(primary) > 0, "{}", set.name);

        let memory = bytes(&setting("KV_MAX_MEMORY"));
        assert!(
            memory * 10 <= bytes(words(&container(secondary)["resources"]["limits"]["memory"])) * 7,
            "{}",
            set.name
        );
        let journal = bytes(&setting("KV_JOURNAL_MAX"));
        assert!(journal >= memory * 4, "{}", set.name);
        for claim in list(&secondary["spec"]["volumeClaimTemplates"]) {
            assert!(bytes(words(&claim["spec"]["resources"]["requests"]["storage"])) >= journal * 2, "{}", set.name);
        }

        let listed: Vec<&str> =
            list(&container(primary)["args"]).iter().map(words).filter(|arg| arg.contains(':')).collect();
        let (own, service) = (name(secondary), words(&secondary["spec"]["serviceName"]));
        let port = &container(secondary)["ports"][0]["containerPort"];
        let pods = (0..secondary["spec"]["replicas"].as_u64().unwrap()).map(|i| format!("{own}-{i}.{service}:{port}"));
        assert_eq!(listed, pods.collect::<Vec<_>>(), "{}", set.name);
        assert_eq!(secondary["spec"]["podManagementPolicy"], "Parallel", "{}", set.name);
        let headless = &set.find("Service", service).unwrap()["spec"];
        assert_eq!((&headless["clusterIP"], &headless["publishNotReadyAddresses"]), (&"None".into(), &true.into()));
    }
}

#[test]
fn the_database_that_comes_along_is_durable_and_knows_its_user() {
    for set in all() {
        let Some(mysql) = set.workloads().find(|workload| container(workload)["name"] == "mysql") else { continue };
        let map = words(&list(&template(mysql)["spec"]["volumes"])[0]["configMap"]["name"]);
        let config = String::from_utf8(set.data("ConfigMap", map).unwrap()[0].1.clone()).unwrap();
        for line in ["innodb_flush_log_at_trx_commit = 1", "innodb_doublewrite = ON", "sync_binlog = 1"] {
            assert!(config.lines().any(|known| known == line), "{}: {config}", set.name);
        }
        let secondary = words(&container(set.running("secondary"))["envFrom"][0]["configMapRef"]["name"]);
        for (theirs, ours) in [("MYSQL_USER", "KV_MYSQL_USER"), ("MYSQL_DATABASE", "KV_MYSQL_DATABASE")] {
            let made = list(&container(mysql)["env"]).iter().find(|variable| variable["name"] == theirs).unwrap();
            let data = set.data("ConfigMap", secondary).unwrap();
            assert!(
                data.contains(&(ours.to_owned(), words(&made["value"]).as_bytes().to_vec())),
                "{}: {ours}",
                set.name
            );
        }
    }
}
