//! The faults: what is done to the cluster, what is measured meanwhile, and how it is undone.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::network::Host;
use super::stage::{NODES, Stage};
use crate::clock::now;
use crate::report::Report;

/// Until the others have a view without a lost node, until its partitions are served, and until it acknowledges nothing more.
const DETECT_LIMIT: Duration = Duration::from_secs(3);
const SERVE_LIMIT: Duration = Duration::from_secs(5);
const FENCE_LIMIT: Duration = Duration::from_secs(3);
/// An acknowledgement may have been on its way, or wait for its client, for so long.
const READ_SLACK: Duration = Duration::from_millis(100);
/// Most that a node may take to leave, and a replica to take over.
const LEAVE_LIMIT: Duration = Duration::from_secs(60);
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill −9 of a node.
    Kill,
    /// A node is stopped (SIGSTOP) and goes on later.
    Freeze,
    /// A node is cut off from the others and the engine.
    Isolate,
    /// The same of the node that proposes views.
    Halves,
    /// A node is cut off from the others, not from the engine.
    Sideline,
    /// What a node sends to the others is dropped; it hears them and has the engine.
    Mute,
    /// A node hears nothing from the others; they hear it.
    Deafen,
    /// kill −9 of a primary of the engine.
    Primary,
    /// SIGTERM and a new start of each node, one after the other.
    Rolling,
    /// `roadstead ctl cluster drain`.
    Drain,
}

/// All faults, by the names that `--faults` takes.
pub(crate) const ALL: [(&str, Fault); 10] = [
    ("kill", Fault::Kill),
    ("freeze", Fault::Freeze),
    ("isolate", Fault::Isolate),
    ("halves", Fault::Halves),
    ("sideline", Fault::Sideline),
    ("mute", Fault::Mute),
    ("deafen", Fault::Deafen),
    ("primary", Fault::Primary),
    ("rolling", Fault::Rolling),
    ("drain", Fault::Drain),
];

impl Fault {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        let named = ALL.iter().find(|(_, fault)| *fault == self);
        named.map_or("", |(name, _)| name)
    }

    /// What it is, for the reader.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Kill => "kill −9 of a node",
            Self::Freeze => "a node is stopped and goes on",
            Self::Isolate => "a node is cut off from the others and the engine",
            Self::Halves => "two halves: the proposer of views alone, the others with the engine",
            Self::Sideline => "a node is cut off from the others, not from the engine",
            Self::Mute => "one way: what a node sends to the others is dropped",
            Self::Deafen => "one way: what the others send to a node is dropped",
            Self::Primary => "kill −9 of a primary of the engine",
            Self::Rolling => "rolling restart: SIGTERM and a new start of each node",
            Self::Drain => "roadstead ctl cluster drain",
        }
    }

    /// How long it lasts, healing aside.
    fn duration(self, quick: bool) -> Duration {
        Duration::from_secs(match (self, quick) {
            (Self::Freeze, false) => 30,
            (Self::Freeze, true) => 10,
            (_, false) => 15,
            (_, true) => 7,
        })
    }

    /// True when the node is lost to the others for certain.
    const fn loses_node(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Freeze | Self::Isolate | Self::Halves
        )
    }

    /// True when the node runs, with clients, where there is no majority.
    const fn is_cut(self) -> bool {
        matches!(self, Self::Isolate | Self::Halves | Self::Sideline)
    }

    /// Does it, measures, and undoes it. The traffic goes on. `roots` are those of the probes, by node.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn run(
        self,
        stage: &mut Stage,
        roots: &[(usize, usize)],
        quick: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        match self {
            Self::Primary => fail_over(stage, self.duration(quick), report),
            Self::Rolling => {
                for node in 0..NODES {
                    leave(stage, node, "SIGTERM", report)?;
                    let converged = stage.converge();
                    report.check(
                        converged.is_some(),
                        format!("rolling: node{node} is back and all agree"),
                        shown(converged),
                    );
                }
                Ok(())
            }
            Self::Drain => {
                let node = stage.random.below(NODES);
                leave(stage, node, "ctl cluster drain", report)
            }
            _ => self.lose(stage, roots, quick, report),
        }
    }

    fn lose(
        self,
        stage: &mut Stage,
        roots: &[(usize, usize)],
        quick: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let victim = match self {
            Self::Halves => 0,
            _ => stage.random.below(NODES),
        };
        stage.step(report, &format!("{}: node{victim}", self.name()));
        let start = now();
        self.inject(stage, victim)?;
        stage.go_on(self.duration(quick));
        let measured = Measured::of(stage, victim, roots[victim].0, start);
        let healed = now();
        match self {
            Self::Kill => stage.members[victim].spawn(&stage.network)?,
            Self::Freeze => stage.members[victim].signal(Signal::Cont),
            _ => stage.network.heal()?,
        }
        stage.step(report, "healed");
        self.judge(stage, victim, &measured, (start, healed), report);
        Ok(())
    }

    fn inject(self, stage: &mut Stage, victim: usize) -> io::Result<()> {
        let node = Host::Node(victim);
        let others: Vec<Host> = Stage::others(victim).into_iter().map(Host::Node).collect();
        match self {
            Self::Kill => stage.members[victim].kill(),
            Self::Freeze => stage.members[victim].signal(Signal::Stop),
            Self::Isolate | Self::Halves => {
                let all: Vec<Host> = others.into_iter().chain([Host::Engine]).collect();
                stage.network.part(&[node], &all)?;
            }
            Self::Sideline => stage.network.part(&[node], &others)?,
            Self::Mute => {
                for other in others {
                    stage.network.cut(node, other)?;
                }
            }
            Self::Deafen => {
                for other in others {
                    stage.network.cut(other, node)?;
                }
            }
            Self::Primary | Self::Rolling | Self::Drain => {}
        }
        Ok(())
    }

    fn judge(
        self,
        stage: &Stage,
        victim: usize,
        measured: &Measured,
        (start, healed): (Instant, Instant),
        report: &mut Report,
    ) {
        let name = self.name();
        let seen = format!(
            "{} after the loss of node{victim}, view by view of the others: {}",
            shown(measured.detected),
            measured.by_node
        );
        let served = format!(
            "{} until a publish to a root of node{victim} was acknowledged and had reached the others",
            shown(measured.served)
        );
        if self.loses_node() {
            let holds = measured.detected.is_some_and(|it| it <= DETECT_LIMIT);
            report.check(holds, format!("{name}: noticed within 3 s"), seen);
            let holds = measured.served.is_some_and(|it| it <= SERVE_LIMIT);
            report.check(holds, format!("{name}: served within 5 s"), served);
        } else {
            report.note(format!("noticed: {seen}"));
            let holds = measured.served.is_some();
            report.check(holds, format!("{name}: served before it is healed"), served);
        }
        let acks = &stage.world.seen.acks[victim];
        let last = acks.iter().rfind(|at| **at >= start && **at <= healed);
        let last = last.map(|at| at.duration_since(start));
        let (sent, acked) = stage.world.samples.sent(start, victim);
        let text = format!(
            "{} after the cut was the last acknowledgement at node{victim}; it said after {} that it does not serve; of {sent} publishes of \
             its probes since the cut {acked} were acknowledged",
            shown(last),
            shown(stage.watch.fenced(victim, start)),
        );
        if self.is_cut() {
            let holds = last.is_none_or(|last| last <= FENCE_LIMIT + READ_SLACK);
            let what = "a node without a majority acknowledges nothing after 3 s";
            report.check(holds, format!("{name}: {what}"), text);
        } else if matches!(self, Self::Mute | Self::Deafen) {
            report.note(text);
        }
    }
}

/// What was seen of a loss.
struct Measured {
    detected: Option<Duration>,
    by_node: String,
    served: Option<Duration>,
}

impl Measured {
    fn of(stage: &Stage, victim: usize, root: usize, start: Instant) -> Self {
        let others = Stage::others(victim);
        let noticed: Vec<_> = others
            .iter()
            .map(|node| stage.watch.noticed(*node, victim, start))
            .collect();
        let by_node = others.iter().zip(&noticed);
        let by_node: Vec<String> = by_node
            .map(|(node, noticed)| format!("node{node} {}", shown(*noticed)))
            .collect();
        let all: Option<Vec<Duration>> = noticed.into_iter().collect();
        Self {
            detected: all.and_then(|all| all.into_iter().max()),
            by_node: by_node.join(", "),
            served: stage.world.samples.served(start, root, &others),
        }
    }
}

/// A node leaves as it was asked to, and is started again.
fn leave(stage: &mut Stage, node: usize, how: &str, report: &mut Report) -> io::Result<()> {
    stage.step(report, &format!("{how}: node{node}"));
    let start = now();
    let mut asked = None;
    if how == "SIGTERM" {
        stage.members[node].signal(Signal::Term);
    } else {
        asked = Some(stage.members[node].ctl(&["cluster", "drain"])?);
    }
    let mut status = None;
    let ended = stage.until(LEAVE_LIMIT, |stage| {
        status = stage.members[node].ended();
        status.is_some()
    });
    if let Some(asked) = asked {
        let output = asked.wait_with_output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
            .trim()
            .to_owned();
        report.check(
            output.status.success(),
            format!("{how}: the command succeeds"),
            said,
        );
    }
    report.check(
        status.is_some_and(|status| status.success()),
        format!("{how}: node{node} leaves and ends well"),
        format!("{} ({status:?})", shown(ended)),
    );
    let others = Stage::others(node);
    let noticed: Vec<String> = others
        .iter()
        .map(|other| shown(stage.watch.noticed(*other, node, start)))
        .collect();
    report.note(format!(
        "views without it after {}; longest time without an acknowledgement {} ms",
        noticed.join(" and "),
        stage.world.seen.silence.as_millis()
    ));
    stage.members[node].spawn(&stage.network)?;
    stage.step(report, "started again");
    Ok(())
}

/// A primary of the engine is killed, its replica takes over, and it comes back as a replica.
fn fail_over(stage: &mut Stage, time: Duration, report: &mut Report) -> io::Result<()> {
    let primaries = stage.engine.primaries(0);
    if primaries.is_empty() {
        return Err(io::Error::other("the engine names no primary"));
    }
    let victim = primaries[stage.random.below(primaries.len())];
    let asked = usize::from(victim == 0);
    stage.step(report, &format!("kill −9 of the Valkey server {victim}"));
    stage.engine.kill(victim);
    let mut looked = now();
    let taken = stage.until(FAILOVER_LIMIT, |stage| {
        if looked.elapsed() < Duration::from_millis(100) {
            return false;
        }
        looked = now();
        let primaries = stage.engine.primaries(asked);
        primaries.len() == 3 && !primaries.contains(&victim)
    });
    report.check(
        taken.is_some(),
        "primary: its replica takes its place",
        shown(taken),
    );
    stage.go_on(time);
    stage.engine.spawn(&stage.network, victim)?;
    stage.step(report, "the server is started again");
    let whole = stage.until(FAILOVER_LIMIT, |stage| {
        if looked.elapsed() < Duration::from_millis(200) {
            return false;
        }
        looked = now();
        stage.engine.is_whole()
    });
    report.check(
        whole.is_some(),
        "primary: every primary has a replica again",
        shown(whole),
    );
    Ok(())
}

/// A time in words.
pub(crate) fn shown(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |it| format!("{} ms", it.as_millis()))
}
