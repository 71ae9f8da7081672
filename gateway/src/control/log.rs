//! The log of the shell: lines on standard error, as text or JSON.
//!
//! Any thread may log with the macros of `tracing`; a line goes into a bounded queue that one thread writes out, so a
//! terminal or pipe that takes nothing never stops a core. Lines beyond the queue are dropped and counted. What the macros
//! are given never includes a payload, a password or a user name.

use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

use crate::config::{LogFormat, LogLevel, LogSection};

/// Lines that wait to be written.
const QUEUE_LINES: usize = 8_192;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Keeps the log open; dropping it writes out what waits.
#[must_use]
pub struct LogGuard(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Opens the log of the process. A second call keeps the first log.
pub fn init(settings: &LogSection) -> LogGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let counter = writer.error_counter();
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(level_filter(settings.level))
        .with_target(false)
        .with_ansi(false);
    let targets = targets(settings.level);
    let installed = match settings.format {
        LogFormat::Text => tracing::subscriber::set_global_default(builder.finish().with(targets)),
        LogFormat::Json => tracing::subscriber::set_global_default(
            builder.json().flatten_event(true).finish().with(targets),
        ),
    };
    if installed.is_ok() {
        let _ = DROPPED.set(counter); // Set once, by the call that installed the log.
    }
    LogGuard(guard)
}

/// Lines dropped because standard error took nothing.
pub fn lines_dropped() -> u64 {
    DROPPED
        .get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// What is written at a level. quinn-proto warns of what any stranger may send, as often as that is sent.
fn targets(level: LogLevel) -> Targets {
    let quinn = match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => LevelFilter::ERROR,
        LogLevel::Debug | LogLevel::Trace => level_filter(level),
    };
    Targets::new()
        .with_default(level_filter(level))
        .with_target("quinn_proto", quinn)
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log_with_warnings_of_quic() {
        for level in [LogLevel::Warn, LogLevel::Info] {
            let targets = targets(level);
            assert!(!targets.would_enable("quinn_proto::connection", &Level::WARN));
            assert!(targets.would_enable("quinn_proto::connection", &Level::ERROR));
            assert!(targets.would_enable("gateway::node", &Level::WARN));
        }
        let targets = targets(LogLevel::Debug);
        assert!(targets.would_enable("quinn_proto::connection", &Level::DEBUG));
        assert!(!targets.would_enable("gateway::node", &Level::TRACE));
    }
}
