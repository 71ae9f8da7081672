//! Steps and their runner: a verb is a table of steps, and its answer is a table of what became of them.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{self, LIMIT};
use crate::project::Project;
use crate::tools::{self, Tool};

/// One line of a table: what to run, and what it needs.
pub(crate) struct Step {
    /// Unique; what `--only` looks for.
    pub name: String,
    /// Tools to install first. If one cannot be had, the step is skipped, or fails in CI.
    pub needs: &'static [Tool],
    /// True exactly when `--quick` leaves it out.
    pub slow: bool,
    action: Action,
}

type Action = Box<dyn Fn(&Project) -> Result<()>>;

/// The error of a step that this machine does not allow: it is skipped with the reason, in CI too.
#[derive(Debug)]
pub(crate) struct NotHere(pub String);

impl fmt::Display for NotHere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

impl Step {
    /// A step that calls a function.
    pub(crate) fn call(
        name: impl Into<String>,
        needs: &'static [Tool],
        action: impl Fn(&Project) -> Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs,
            slow: false,
            action: Box::new(action),
        }
    }

    /// A step that runs `cargo ARGUMENTS` with a few variables set.
    pub(crate) fn cargo(
        name: &str,
        variables: &'static [(&'static str, &'static str)],
        arguments: &'static [&'static str],
    ) -> Self {
        Self::call(name, &[], move |project| {
            process::run(
                project,
                project.cargo(arguments).envs(variables.iter().copied()),
                LIMIT,
            )
        })
    }

    /// Installs tools first.
    pub(crate) fn needs(mut self, tools: &'static [Tool]) -> Self {
        self.needs = tools;
        self
    }

    /// Leaves the step out of `--quick`.
    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Runs the steps in order, all of them even when one fails, and prints the summary with its closing line.
/// True when none has failed.
pub(crate) fn run_all(project: &Project, steps: &[Step]) -> bool {
    let mut results = Vec::new();
    for step in steps {
        println!("\n━━ {}", step.name);
        let start = Instant::now();
        let outcome = run_one(project, step);
        match &outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => println!("━━ {} FAILED: {why}", step.name),
            Outcome::Skipped(why) => println!("━━ {} skipped: {why}", step.name),
        }
        results.push((step.name.as_str(), outcome, start.elapsed()));
    }
    summary(&results)
}

fn run_one(project: &Project, step: &Step) -> Outcome {
    for tool in step.needs {
        if let Err(error) = tools::ensure(project, *tool) {
            let why = format!("{tool} cannot be had: {error:#}");
            return if project.ci {
                Outcome::Failed(why)
            } else {
                Outcome::Skipped(why)
            };
        }
    }
    match (step.action)(project) {
        Ok(()) => Outcome::Passed,
        Err(error) if error.is::<NotHere>() => Outcome::Skipped(error.to_string()),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn summary(results: &[(&str, Outcome, Duration)]) -> bool {
    let width = results
        .iter()
        .map(|(name, ..)| name.chars().count())
        .max()
        .unwrap_or(0);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut total = Duration::ZERO;
    println!("\n{:<width$}  {:<7}  {:>7}", "step", "result", "seconds");
    for (name, outcome, took) in results {
        let (word, why) = match outcome {
            Outcome::Passed => ("passed", ""),
            Outcome::Failed(why) => ("FAILED", why.as_str()),
            Outcome::Skipped(why) => ("skipped", why.as_str()),
        };
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
        total += *took;
        println!(
            "{name:<width$}  {word:<7}  {:>7.1}  {why}",
            took.as_secs_f64()
        );
    }
    println!("{:<width$}  {:<7}  {:>7.1}", "", "", total.as_secs_f64());
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}
