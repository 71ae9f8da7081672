//! What a run says: figures as they come, one line for each check, and the count at the end.

use std::fmt::Display;

/// Checks of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// A figure or a step, for the reader.
    pub(crate) fn note(&self, text: impl Display) {
        println!("       {text}");
    }

    /// A heading.
    pub(crate) fn title(&self, text: impl Display) {
        println!("\n{text}");
    }

    /// A check and what was seen; returns whether it held.
    pub(crate) fn check(&mut self, holds: bool, name: impl Display, seen: impl Display) -> bool {
        println!("{}  {name}: {seen}", if holds { "ok   " } else { "FAILED" });
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        holds
    }

    /// A check that cannot be made here, and why.
    pub(crate) fn skipped(&self, name: impl Display, why: impl Display) {
        println!("skip   {name}: {why}");
    }

    /// Checks that did not hold so far.
    pub(crate) const fn failed(&self) -> usize {
        self.failed
    }

    /// Prints the count; true when nothing failed.
    pub(crate) fn finish(&self) -> bool {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}
