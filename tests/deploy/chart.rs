//! The chart renders as it did, and what it renders is valid. `UPDATE=1 cargo test --test deploy` writes the golden files again.

use std::path::PathBuf;
use std::process::Command;

use crate::sets::{VARIANTS, manifests};
use crate::{path, skip};

/// A line that is longer, as the dashboard's is, is told by its length.
const LINE_BYTES_MAX: usize = 4000;
/// Not Kubernetes' own, so there is no schema.
const FOREIGN_KINDS: [&str; 2] = ["PrometheusRule", "ServiceMonitor"];

fn tool(name: &str) -> Option<PathBuf> {
    let tool = path("target/deploy").join(name);
    if path("target/deploy/installed").exists() {
        return Some(tool);
    }
    skip(name, "it is not in target/deploy: scripts/setup installs it on x86-64 Linux");
    None
}

fn values(variant: &str) -> PathBuf {
    path(&format!("tests/golden/helm/{variant}.values.yaml"))
}

/// Runs it, and gives what it prints.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

/// Exactly as `helm` prints it.
fn render(helm: &PathBuf, variant: &str) -> String {
    let mut command = Command::new(helm);
    command.args(["template", "overspill", "--namespace", "overspill", "--values"]).arg(values(variant));
    said(command.arg(path("charts/overspill")))
}

fn shortened(render: &str) -> String {
    let short = |line: &str| match line.split_once(": ") {
        Some((key, value)) if line.len() > LINE_BYTES_MAX => format!("{key}: \"{} bytes\"\n", value.len()),
        _ => format!("{line}\n"),
    };
    render.lines().map(short).collect()
}

#[test]
fn renders_are_as_they_were() {
    let Some(helm) = tool("helm") else { return };
    for variant in VARIANTS {
        let golden = path(&format!("tests/golden/helm/{variant}.yaml"));
        let render = shortened(&render(&helm, variant));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &render).unwrap();
        }
        let known = std::fs::read_to_string(&golden).unwrap_or_default();
        let differs = known.lines().zip(render.lines()).find(|(known, now)| known != now);
        assert!(known == render, "{variant}: golden and now: {differs:?}; UPDATE=1 takes what is now");
    }
}

#[test]
fn the_chart_passes_its_lint() {
    let Some(helm) = tool("helm") else { return };
    for variant in VARIANTS {
        said(
            Command::new(&helm)
                .args(["lint", "--strict", "--values"])
                .arg(values(variant))
                .arg(path("charts/overspill")),
        );
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let Some(helm) = tool("helm") else { return };
    for (wrong, named) in [
        ("shards=0", "shards"),
        ("polcy=lru", "polcy"),
        ("policy=mru", "policy"),
        ("fsync=sometimes", "fsync"),
        ("maxMemory=much", "maxMemory"),
        ("primary.service.type=Cluster", "type"),
        ("tls.enabled=true", "tls.existingSecret"),
        ("mysql.enabled=false,externalDatabase.host=db", "externalDatabase"),
    ] {
        let mut command = Command::new(&helm);
        let output = command.args(["template", "x", "--set", wrong]).arg(path("charts/overspill")).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(named), "{wrong}: {errors}");
    }
}

#[test]
fn passwords_that_nobody_chose_are_random() {
    let Some(helm) = tool("helm") else { return };
    let passwords = || {
        let render = said(Command::new(&helm).args(["template", "x"]).arg(path("charts/overspill")));
        let found = render.lines().filter(|line| line.trim_start().contains("password: ") && line.len() > 40);
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, other) = (passwords(), passwords());
    assert_eq!((one.len(), other.len()), (3, 3));
    assert!(one.iter().all(|password| !other.contains(password)));
}

#[test]
fn manifests_and_renders_are_valid() {
    let (Some(helm), Some(validate)) = (tool("helm"), tool("py/bin/kubernetes-validate")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut files = manifests();
    for variant in VARIANTS {
        let file = folder.path().join(format!("{variant}.yaml"));
        std::fs::write(&file, render(&helm, variant)).unwrap();
        files.push(file);
    }
    let output = Command::new(&validate).arg("--strict").args(&files).output().unwrap();
    let report = [&output.stdout[..], &output.stderr].concat();
    let report = String::from_utf8_lossy(&report);
    let is_fine = |line: &&str| {
        line.starts_with("INFO") || FOREIGN_KINDS.iter().any(|kind| line.contains(&format!("schema for kind {kind} ")))
    };
    let wrong: Vec<&str> = report.lines().filter(|line| !is_fine(line)).collect();
    assert!(output.status.success() && wrong.is_empty(), "{wrong:#?}");
    assert!(report.lines().count() > 40, "{report}");
}
