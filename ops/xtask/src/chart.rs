//! The steps of `cargo xtask chart`: the Helm chart, the alerts, the dashboards and the seccomp profile, each held against the tool
//! that will read it, and against a real node. What they do is in `ops/xtask/chart`, a script each; here is only what they need.
//!
//! With `UPDATE_GOLDEN=1` they write what is made of something else: look at the difference before it is committed.

use crate::process::{LIMIT, run};
use crate::project::Project;
use crate::server::certificates;
use crate::step::Step;
use crate::tools::{Tool, chart_python};

/// A script, and what it shows. Those that write what others read come first.
const SCRIPTS: [(&str, &str); 11] = [
    ("rules", "alerts and runbooks"),
    ("dashboards", "dashboards"),
    ("values", "values, their schema and page"),
    ("render", "lint, schemas, golden renders, immutable fields"),
    ("shape", "what objects are for one another"),
    ("refusals", "values that must not render"),
    ("configuration", "the node takes its configuration"),
    ("pod", "the container as the kubelet starts it"),
    ("seccomp_profile", "the node under its seccomp profile"),
    ("helm_test", "what helm test runs"),
    ("live", "every query of a panel, every rule"),
];

const NEEDS: &[Tool] = &[Tool::Chart, Tool::Helm, Tool::Prometheus, Tool::Mosquitto];

/// All of them. The node has to be built.
pub(crate) fn steps() -> Vec<Step> {
    let step = |(script, shows): &(&'static str, &str)| {
        let script = *script;
        Step::call(format!("chart: {shows}"), NEEDS, move |project| {
            run_script(project, script)
        })
    };
    SCRIPTS.iter().map(step).collect()
}

fn run_script(project: &Project, script: &str) -> anyhow::Result<()> {
    let mut command = project.command(chart_python(project));
    command
        .arg("-B") // It leaves no compiled files in the tree.
        .arg(
            project
                .root
                .join("ops/xtask/chart")
                .join(format!("{script}.py")),
        )
        .env("CHART_NODE", project.release_binary("roadstead"))
        .env("CHART_SCRATCH", project.scratch("chart")?)
        .env("CHART_CERTIFICATES", certificates(project)?);
    run(project, &mut command, LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_of_the_folder_with_a_main_is_a_step() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("chart");
        let entries = std::fs::read_dir(folder).expect("the folder is there");
        let mut scripts: Vec<String> = entries
            .map(|entry| entry.expect("it can be read").path())
            .filter(|path| {
                std::fs::read_to_string(path).is_ok_and(|text| text.contains("\ndef main("))
            })
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into())
            .collect();
        scripts.sort();
        let mut steps: Vec<&str> = SCRIPTS.iter().map(|(script, _)| *script).collect();
        steps.sort_unstable();
        assert_eq!(scripts, steps);
    }
}
