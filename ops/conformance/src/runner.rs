//! Runs the cases, many at a time, and keeps what each one found.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Stop;
use crate::cases::{self, Case};
use crate::target::Target;
use crate::test::Test;
use crate::wire::Version;

/// How an execution of a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the specification demands.
    Passed,
    /// Not as it demands: expected and got.
    Failed(String),
    /// Not applicable to this server, and why.
    NotApplicable(String),
}

impl Verdict {
    /// One word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Failed(_) => "FAIL",
            Self::NotApplicable(_) => "n/a",
        }
    }
}

/// The verdict of each case that ran, by name and version.
pub type Results = BTreeMap<(&'static str, Version), Verdict>;

/// Enough to keep two cores busy while most cases wait for an interval of the protocol.
const THREADS: usize = 32;

/// Runs the cases whose name contains `filter` in both versions.
pub fn run(target: &Target, filter: &str) -> Results {
    let jobs: Vec<(&Case, Version)> = cases::all()
        .filter(|case| case.name.contains(filter))
        .flat_map(|case| [(case, Version::V5), (case, Version::V311)])
        .filter(|(case, version)| case.shows(*version).next().is_some())
        .collect();
    let nonce = nonce();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(&(case, version)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let number = jobs
                        .iter()
                        .position(|job| job.0.name == case.name)
                        .unwrap_or(0);
                    let unique = format!(
                        "{nonce}x{number}v{}",
                        if version == Version::V5 { 5 } else { 3 }
                    );
                    let address = target.address;
                    let test = Test {
                        address,
                        websocket: target.websocket,
                        version,
                        unique,
                    };
                    let verdict = match (case.run)(&test) {
                        Ok(()) => Verdict::Passed,
                        Err(Stop::Failed(text)) => Verdict::Failed(text),
                        Err(Stop::NotApplicable(text)) => Verdict::NotApplicable(text),
                    };
                    results
                        .lock()
                        .expect("no case panics")
                        .insert((case.name, version), verdict);
                }
            });
        }
    });
    results.into_inner().expect("no case panics")
}

/// Letters and digits that differ between runs, so that a run finds nothing that an earlier one left.
fn nonce() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut left = since.as_millis() / 100;
    let mut out = String::new();
    for _ in 0..6 {
        let digit = u32::try_from(left % 36).unwrap_or(0);
        left /= 36;
        out.extend(char::from_digit(digit, 36));
    }
    out
}
