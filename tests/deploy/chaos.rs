//! The experiments in deploy/chaos aim at what is there. Chaos Mesh's own schemas are not at hand.

use serde_json::Value;

use crate::path;
use crate::sets::{Set, container, list, words, yaml};

/// Selectors with their containers, wherever they stand.
fn aims<'a>(value: &'a Value, found: &mut Vec<(&'a Value, &'a Value)>) {
    if value["selector"].is_object() {
        found.push((&value["selector"], &value["containerNames"]));
    }
    value.as_object().into_iter().flat_map(|fields| fields.values()).for_each(|value| aims(value, found));
}

#[test]
fn experiments_aim_at_pods_that_are_there() {
    let files: Vec<_> = std::fs::read_dir(path("deploy/chaos")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (Some(experiments), Some(plain), Some(chart)) = (yaml(&files), Set::plain(), Set::of("default")) else {
        return;
    };
    assert_eq!(experiments.len(), files.len());
    for experiment in &experiments {
        assert_eq!(experiment["apiVersion"], "chaos-mesh.org/v1alpha1");
        let (mut found, spec) = (Vec::new(), &experiment["spec"]);
        aims(spec, &mut found);
        assert!(!found.is_empty(), "{experiment}");
        for (selector, containers) in found {
            assert_eq!(selector["namespaces"][0], "overspill");
            for set in [&plain, &chart] {
                let fits = |workload: &&Value| {
                    let labels = &workload["spec"]["template"]["metadata"]["labels"];
                    let wanted = selector["labelSelectors"].as_object().unwrap();
                    wanted.iter().all(|(key, value)| labels[key] == *value)
                };
                let aimed: Vec<&Value> = set.workloads().filter(fits).collect();
                assert_eq!(aimed.len(), 1, "{}: {selector}", set.name);
                let container = container(aimed[0]);
                assert!(list(containers).iter().all(|name| *name == container["name"]), "{}: {containers}", set.name);
                if let Some(volume) = spec["volumePath"].as_str() {
                    let mounts = list(&container["volumeMounts"]);
                    assert!(mounts.iter().any(|mount| words(&mount["mountPath"]) == volume), "{}: {volume}", set.name);
                }
            }
        }
    }
}
