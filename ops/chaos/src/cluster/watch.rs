//! What each node says of its cluster, asked over and over by a thread of its own, and kept with the time: so it can be told when a node
//! noticed what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::member::uid;
use crate::admin::request_within;
use crate::clock::now;

/// How often a node is asked, and how long it may take.
const PERIOD: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// An answer that is older says nothing about now.
const FRESH: Duration = Duration::from_secs(1);
/// Answers kept of one node; only those that differ from the one before.
const KEPT_MAX: usize = 100_000;

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Number and hash of its view.
    pub(crate) view: (u64, String),
    /// Members of it: uid and incarnation, and `active` or `leaving`.
    pub(crate) members: Vec<(String, String)>,
    /// `serving`, `fenced` or `left`; empty when it did not answer.
    pub(crate) standing: String,
    /// Members that it calls alive, itself included.
    pub(crate) alive: usize,
}

impl Said {
    fn shown(&self) -> String {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|(node, role)| format!("{} {role}", node.trim_start_matches('0')))
            .collect();
        let (epoch, hash) = &self.view;
        let standing = if self.standing.is_empty() {
            "no answer"
        } else {
            &self.standing
        };
        format!(
            "{standing}, view {epoch} {hash} of {}; {} alive",
            members.join(", "),
            self.alive
        )
    }

    fn has(&self, uid: &str) -> bool {
        self.members.iter().any(|(node, _)| node.starts_with(uid))
    }
}

#[derive(Debug, Default)]
struct History {
    said: Vec<(Instant, Said)>,
    asked_last: Option<Instant>,
}

/// All nodes, watched. Dropping it ends the threads.
#[derive(Debug)]
pub(crate) struct Watch {
    nodes: Vec<(SocketAddr, Arc<Mutex<History>>)>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches nodes by the addresses of their operators' side.
    pub(crate) fn start(addresses: &[SocketAddr]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let nodes: Vec<_> = addresses
            .iter()
            .map(|address| (*address, Arc::<Mutex<History>>::default()))
            .collect();
        let threads = nodes.iter().map(|(address, history)| {
            let (address, history, ends) = (*address, Arc::clone(history), Arc::clone(&ends));
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    note(&history, ask(address));
                    std::thread::park_timeout(PERIOD);
                }
            })
        });
        let threads = threads.collect();
        Self {
            nodes,
            ends,
            threads,
        }
    }

    fn history(&self, node: usize) -> MutexGuard<'_, History> {
        self.nodes[node].1.lock().expect("no panic while held")
    }

    /// What a node says now; `None` when it does not answer.
    pub(crate) fn latest(&self, node: usize) -> Option<Said> {
        let history = self.history(node);
        let fresh = history.asked_last.is_some_and(|at| at.elapsed() < FRESH);
        let (_, said) = history.said.last().filter(|_| fresh)?;
        (!said.standing.is_empty()).then(|| said.clone())
    }

    /// How long after `start` this node had a view without the other one.
    pub(crate) fn noticed(&self, node: usize, gone: usize, start: Instant) -> Option<Duration> {
        let (history, gone) = (self.history(node), uid(gone));
        let mut later = history.said.iter().filter(|(at, _)| *at >= start);
        let is_without = |said: &Said| !said.members.is_empty() && !said.has(&gone);
        let (at, _) = later.find(|(_, said)| is_without(said))?;
        Some(at.duration_since(start))
    }

    /// How long after `start` this node said of itself that it does not serve, or did not answer.
    pub(crate) fn fenced(&self, node: usize, start: Instant) -> Option<Duration> {
        let history = self.history(node);
        let mut later = history.said.iter().filter(|(at, _)| *at >= start);
        let (at, _) = later.find(|(_, said)| said.standing != "serving")?;
        Some(at.duration_since(start))
    }

    /// True when all nodes answer, serve, have the same view, and all are active members of it.
    pub(crate) fn agree(&self) -> bool {
        let said: Option<Vec<Said>> = (0..self.nodes.len())
            .map(|node| self.latest(node))
            .collect();
        let Some(said) = said else { return false };
        let count = self.nodes.len();
        said.iter().all(|one| {
            one.standing == "serving"
                && one.view == said[0].view
                && one.alive == count
                && one.members.len() == count
                && one.members.iter().all(|(_, role)| role == "active")
        })
    }

    /// What each node said that was new since then, with the milliseconds after it.
    pub(crate) fn changes(&self, start: Instant) -> Vec<String> {
        let of_node = |node: usize| {
            let history = self.history(node);
            let later = history.said.iter().filter(|(at, _)| *at >= start);
            let lines = later.map(|(at, said)| {
                let after_ms = at.duration_since(start).as_millis();
                (
                    after_ms,
                    format!("{after_ms:>6} ms node{node}: {}", said.shown()),
                )
            });
            lines.collect::<Vec<_>>()
        };
        let mut lines: Vec<_> = (0..self.nodes.len()).flat_map(of_node).collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// What all nodes say, in one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |node: usize| match self.latest(node) {
            Some(said) => format!("node{node}: {}", said.shown()),
            None => format!("node{node}: no answer"),
        };
        (0..self.nodes.len()).map(line).collect()
    }

    /// The node that owns each partition, as one node has it; empty when it does not answer.
    pub(crate) fn owners(&self, asked: usize) -> BTreeMap<u16, usize> {
        let answer = get(self.nodes[asked].0, "/v1/cluster/partitions").unwrap_or_default();
        let cores = answer["cores"].as_array().cloned().unwrap_or_default();
        let mut owners = BTreeMap::new();
        for core in &cores {
            let node = core["node"].as_str().unwrap_or_default();
            let Some(node) = (0..self.nodes.len()).find(|index| node.starts_with(&uid(*index)))
            else {
                continue;
            };
            let partitions = core["partitions"].as_array().into_iter().flatten();
            owners.extend(
                partitions
                    .filter_map(Value::as_u64)
                    .map(|partition| (partition as u16, node)),
            );
        }
        owners
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // A panic has been printed where it happened.
        }
    }
}

fn note(history: &Mutex<History>, said: Said) {
    let mut history = history.lock().expect("no panic while held");
    let at = now();
    history.asked_last = Some(at);
    let is_new = history.said.last().is_none_or(|(_, last)| *last != said);
    if is_new && history.said.len() < KEPT_MAX {
        history.said.push((at, said));
    }
}

fn ask(address: SocketAddr) -> Said {
    let (Some(status), Some(view)) = (
        get(address, "/v1/cluster"),
        get(address, "/v1/cluster/view"),
    ) else {
        return Said::default();
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members = view["members"].as_array().cloned().unwrap_or_default();
    Said {
        view: (view["epoch"].as_u64().unwrap_or(0), text(&view["hash"])),
        alive: members
            .iter()
            .filter(|member| member["is_alive"] == true)
            .count(),
        members: members
            .iter()
            .map(|member| (text(&member["node"]), text(&member["role"])))
            .collect(),
        standing: text(&status["standing"]),
    }
}

fn get(address: SocketAddr, path: &str) -> Option<Value> {
    let (status, body) = request_within(address, "GET", path, "", ANSWER_LIMIT).ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok())?
}
