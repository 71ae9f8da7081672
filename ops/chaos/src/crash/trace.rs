//! What one client sent and received, kept so that a failing run can show it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::path::PathBuf;

/// Lines kept for one client.
const LINES_MAX: usize = 20_000;
/// Lines shown of the end.
const LINES_SHOWN: usize = 60;

/// The packets of one client, the oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Trace(VecDeque<(u64, String)>);

impl Trace {
    /// Notes a packet or an event at this tick.
    pub(crate) fn note(&mut self, tick: u64, what: impl Display) {
        if self.0.len() == LINES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((tick, what.to_string()));
    }

    /// Writes all of it to a file; returns which.
    pub(crate) fn save(&self, who: &str) -> PathBuf {
        let name = format!("chaos-trace-{}-{who}.txt", std::process::id());
        let path = std::env::temp_dir().join(name);
        let lines = self.0.iter();
        let whole: String = lines
            .map(|(tick, line)| format!("{tick:>8} {line}\n"))
            .collect();
        let _ = std::fs::write(&path, whole); // What is printed has to do then.
        path
    }

    /// The last lines, and before them all that name this message; and where the whole is.
    pub(crate) fn print(&self, who: &str, message: Option<usize>) {
        let path = self.save(who);
        println!("       trace of {who}, whole in {}:", path.display());
        let tail = self.0.len().saturating_sub(LINES_SHOWN);
        let named = message.map(|message| format!("m{message} "));
        for (index, (tick, line)) in self.0.iter().enumerate() {
            let names_it = named
                .as_ref()
                .is_some_and(|named| line.contains(named.as_str()));
            if index >= tail || names_it {
                println!(
                    "         {}{tick:>8} {line}",
                    if names_it { '*' } else { ' ' }
                );
            }
        }
    }
}
