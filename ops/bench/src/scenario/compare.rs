//! A scenario, run several times with everybody who is to be measured: in turns, so that whatever else the machine does
//! meets all of them.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::bench::{Bench, Clients};
use crate::arguments::Common;
use crate::cleanup;
use crate::figures::Figures;
use crate::machine::{self, Cores, Plan};
use crate::report::{Column, Report};
use crate::rival::Needs;
use crate::subject::Subject;

/// A scenario, apart from what is done in it.
pub(super) struct Comparison<'a> {
    pub(super) name: &'static str,
    pub(super) common: &'a Common,
    pub(super) clients: Clients,
    pub(super) cores: Cores,
    /// True exactly when the bare relay is measured too.
    pub(super) limit: bool,
    /// Runs when nobody says how many.
    pub(super) runs: u32,
    /// The scenario's own settings.
    pub(super) settings: Value,
}

/// Runs where one takes seconds.
pub(super) const RUNS: u32 = 5;

impl Comparison<'_> {
    /// Runs `once` with each subject in each run, prints and keeps what came of it.
    ///
    /// # Errors
    /// What the machine lacks, an interruption, or what went wrong with our own server. A rival's failure is told in its
    /// column.
    pub(super) fn run(&self, once: impl Fn(&mut Bench, &mut Figures) -> Result<()>) -> Result<()> {
        self.run_with(Subject::all(self.common, self.limit), once)
    }

    /// The same with these subjects.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn run_with(
        &self,
        subjects: Vec<Subject>,
        once: impl Fn(&mut Bench, &mut Figures) -> Result<()>,
    ) -> Result<()> {
        let runs = self.common.runs.unwrap_or(self.runs);
        let plan = self.plan(&subjects[0])?;
        let needs = self.needs();
        let files = machine::open_files()?;
        let column = |subject: Subject| Column {
            subject,
            version: String::new(),
            runs: Vec::new(),
            obstacle: subject.obstacle(self.common, needs, files),
        };
        let mut report = Report {
            scenario: self.name,
            settings: self.all_settings(&plan, runs),
            columns: subjects.into_iter().map(column).collect(),
        };
        let able: Vec<usize> = (0..report.columns.len())
            .filter(|place| report.columns[*place].obstacle.is_none())
            .collect();
        for run in 1..=runs {
            for place in &able {
                let subject = report.columns[*place].subject;
                eprintln!("{}, run {run} of {runs}: {}", self.name, subject.name());
                match self.one(&subject, &once) {
                    Ok((version, mut figures)) => {
                        figures.run = run;
                        let column = &mut report.columns[*place];
                        column.version = version;
                        column.runs.push(figures);
                        report.keep(self.common.record, &report.columns[*place])?;
                    }
                    Err(error) if cleanup::interrupted() => return Err(error),
                    Err(error) if matches!(subject, Subject::Rival(_)) => {
                        eprintln!("  {}: {error:#}", subject.name());
                        report.columns[*place].obstacle = Some(format!("run {run}: {error:#}"));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        report.finish(self.common.json)
    }

    /// Runs `once` with each subject a single time, keeps nothing, and says what it returned for each that could do it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn rehearse(
        &self,
        once: impl Fn(&mut Bench, &mut Figures) -> Result<f64>,
    ) -> Result<Vec<f64>> {
        let mut results = Vec::new();
        for subject in self.able()? {
            eprintln!("{}, before the runs: {}", self.name, subject.name());
            let plan = self.plan(&subject)?;
            let result = Bench::start(self.common, &subject, plan, &self.clients)
                .and_then(|mut bench| once(&mut bench, &mut Figures::default()));
            match result {
                Ok(result) => results.push(result),
                Err(error) if cleanup::interrupted() => return Err(error),
                // It fails again in the runs, which tell it.
                Err(_) if matches!(subject, Subject::Rival(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(results)
    }

    /// Whom nothing keeps from being measured.
    pub(super) fn able(&self) -> Result<Vec<Subject>> {
        let files = machine::open_files()?;
        let needs = self.needs();
        Ok(Subject::all(self.common, self.limit)
            .into_iter()
            .filter(|subject| subject.obstacle(self.common, needs, files).is_none())
            .collect())
    }

    const fn needs(&self) -> Needs {
        Needs {
            sessions: self.clients.connected,
            qos: self.clients.qos,
            store: self.clients.store,
        }
    }

    fn one(
        &self,
        subject: &Subject,
        once: impl Fn(&mut Bench, &mut Figures) -> Result<()>,
    ) -> Result<(String, Figures)> {
        let plan = self.plan(subject)?;
        let mut bench = Bench::start(self.common, subject, plan, &self.clients)?;
        let mut figures = Figures::default();
        once(&mut bench, &mut figures)?;
        bench.ending(&mut figures)?;
        Ok((bench.server.version.clone(), figures))
    }

    fn plan(&self, subject: &Subject) -> Result<Plan> {
        if self.common.address.is_some() && !self.common.rivals.is_empty() {
            bail!(
                "rivals are started here, and the server at --address is not: leave one of them out"
            );
        }
        machine::plan(self.common, subject, self.clients.connected, self.cores)
    }

    /// What a row of results says about how the run was made.
    fn all_settings(&self, plan: &Plan, runs: u32) -> Value {
        let common = self.common;
        let mut settings = json!({
            "transport": common.transport().name(),
            "io": common.io.name(),
            "mqtt": format!("{:?}", common.mqtt),
            "cores": plan.cores,
            "pinned": plan.division.is_some(),
            "threads": plan.threads,
            "set": common.set,
            "seed": common.seed,
            "tls_version": common.tls_version.map(|version| format!("{version:?}")),
            "tls_key": format!("{:?}", common.tls_key),
            "runs": runs,
        });
        if let (Some(settings), Value::Object(own)) =
            (settings.as_object_mut(), self.settings.clone())
        {
            settings.extend(own);
        }
        settings
    }
}
