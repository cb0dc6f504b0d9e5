//! Manifests that are applied together, read.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{path, skip};

/// Turns YAML into JSON, and refuses a key that stands twice, which YAML parsers let pass.
const TO_JSON: &str = r#"
import json, sys, yaml
class Strict(yaml.SafeLoader):
    pass
def mapping(loader, node):
    keys = [key.value for key, _ in node.value]
    if len(set(keys)) < len(keys):
        raise SystemExit(f"a key stands twice{node.start_mark}")
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)
Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
documents = [d for name in sys.argv[1:] for d in yaml.load_all(open(name), Strict) if d is not None]
json.dump(documents, sys.stdout)
"#;

pub const VARIANTS: [&str; 3] = ["default", "external", "cache"];

/// Kubernetes objects that are applied together.
pub struct Set {
    pub name: String,
    pub objects: Vec<Value>,
}

impl Set {
    /// The plain manifests; or nothing, said aloud, if there is no parser.
    pub fn plain() -> Option<Self> {
        Some(Self { name: "k8s".to_owned(), objects: yaml(&manifests())? })
    }

    /// The render of one variant of values.
    pub fn of(variant: &str) -> Option<Self> {
        let name = format!("tests/golden/helm/{variant}.yaml");
        Some(Self { objects: yaml(&[path(&name)])?, name })
    }

    pub fn all() -> Option<Vec<Self>> {
        std::iter::once(Self::plain()).chain(VARIANTS.into_iter().map(Self::of)).collect()
    }

    pub fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.of_kind(kind).find(|object| object["metadata"]["name"] == name)
    }

    /// Deployments and StatefulSets.
    pub fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("StatefulSet").chain(self.of_kind("Deployment"))
    }

    /// The workload that runs this program of ours.
    pub fn running(&self, program: &str) -> &Value {
        let runs = |workload: &&Value| container(workload)["command"][0] == program;
        self.workloads().find(runs).unwrap_or_else(|| panic!("{}: nothing runs `{program}`", self.name))
    }

    /// The keys and values of a ConfigMap or Secret.
    pub fn data(&self, kind: &str, name: &str) -> Option<Vec<(String, Vec<u8>)>> {
        use base64::Engine;
        let object = self.find(kind, name)?;
        let fields = |field: &str| object[field].as_object().cloned().unwrap_or_default().into_iter();
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let is_plain = kind == "ConfigMap";
        let read = move |text: &str| if is_plain { text.as_bytes().to_vec() } else { encoded(text) };
        let data = fields("data").map(|(key, value)| (key, read(words(&value))));
        let texts = fields("stringData").map(|(key, value)| (key, words(&value).as_bytes().to_vec()));
        Some(data.chain(texts).collect())
    }
}

pub fn manifests() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(path("k8s")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The only container of a workload.
pub fn container(workload: &Value) -> &Value {
    let containers = list(&workload["spec"]["template"]["spec"]["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not text: {value}"))
}

pub fn name(object: &Value) -> &str {
    words(&object["metadata"]["name"])
}

/// All documents in these files.
pub fn yaml(files: &[PathBuf]) -> Option<Vec<Value>> {
    let ours = path("target/deploy/py/bin/python");
    let python = if ours.exists() { ours } else { PathBuf::from("python3") };
    let output = match Command::new(python).args(["-c", TO_JSON]).args(files).output() {
        Ok(output) => output,
        Err(error) => {
            skip("YAML", &format!("python3: {error}"));
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'yaml'") {
        skip("YAML", "there is no python3 with yaml: scripts/setup installs it");
        return None;
    }
    assert!(output.status.success(), "{files:?}: {errors}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_key_that_stands_twice_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("twice.yaml");
    std::fs::write(&file, "x: {a: 1, b: 2}\n---\ny: &y {a: 1}\nz: {<<: *y, a: 2}\n").unwrap();
    let Some(documents) = yaml(std::slice::from_ref(&file)) else { return };
    assert_eq!(documents[1]["z"]["a"], 2);
    std::fs::write(&file, "x:\n  a: 1\n  a: 2\n").unwrap();
    assert!(std::panic::catch_unwind(|| yaml(&[file])).is_err());
}
