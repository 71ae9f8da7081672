//! Measures embedded stores on the mailbox workload: which library, which table layout, which commit mode.
//!
//! `cargo run --release --example engine_bench -- FOLDER [REPETITIONS] [steady|large] [STORE…]`: FOLDER must be on the disk to
//! be measured. The store `roadstead-redis`, which has to be named, is on the server at `ENGINE_BENCH_URL`, whose keys it adds to, with
//! the policy `ENGINE_BENCH_POLICY`: `memory`, `aof` or `replica`.
//! Each line is a median with the lowest and the highest of all repetitions. The figures that made the decision are in
//! `docs/decisions/0003-embedded-engine.md`.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
mod stores;

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway::engine::redis::Redis;
use stores::{Fjall, Layout, Mode, Redb, Roadstead, Slot, Store};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of one stored message.
const BODY_BYTES: usize = 200;
/// Sessions of the steady workload.
const SESSIONS: u64 = 10_000;
/// Commits are repeated until this much time has passed.
const STEADY_TIME: Duration = Duration::from_millis(500);
/// Messages that wait in the steady workload: acknowledgements follow publishes at this distance.
const STEADY_WAITING: usize = 2_000;
/// Sessions and messages of the large store.
const LARGE: (u64, u64) = (100_000, 500_000);

/// A small generator: the bench needs the same numbers each time, not good ones.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn body(&mut self) -> Vec<u8> {
        (0..BODY_BYTES).map(|_| self.below(256) as u8).collect()
    }
}

/// Hands out the next slot of a random mailbox.
struct Arrivals {
    rng: Rng,
    next: Vec<u64>,
    position: u64,
}

impl Arrivals {
    fn new(sessions: u64) -> Self {
        Self {
            rng: Rng(0x9E37_79B9_7F4A_7C15),
            next: vec![1; sessions as usize],
            position: 0,
        }
    }

    fn slot(&mut self) -> Slot {
        let session = self.rng.below(self.next.len() as u64);
        self.position += 1;
        let sequence = &mut self.next[session as usize];
        *sequence += 1;
        Slot {
            session,
            sequence: *sequence,
            position: self.position,
        }
    }
}

/// The measured numbers of one repetition, in the order of their first appearance.
type Figures = Vec<(String, f64)>;

/// Publishes with acknowledgements close behind, one commit per `batch` of them.
fn steady<S: Store>(folder: &Path, contender: &Contender, out: &mut Figures) -> Outcome<()> {
    for batch in [1_usize, 16, 64, 256, 1_024] {
        let _ = fs::remove_dir_all(folder);
        let mut store = S::open(folder, contender.layout, contender.mode)?;
        store.prepare(SESSIONS)?;
        let mut arrivals = Arrivals::new(SESSIONS);
        let body = arrivals.rng.body();
        let mut waiting: VecDeque<Slot> = (0..STEADY_WAITING).map(|_| arrivals.slot()).collect();
        store.commit(waiting.make_contiguous(), &[], &body)?;
        let begin = Instant::now();
        let cpu_before = cpu_ms()?;
        let mut publishes = 0;
        while begin.elapsed() < STEADY_TIME {
            let appends: Vec<_> = (0..batch).map(|_| arrivals.slot()).collect();
            let acks: Vec<_> = waiting.drain(..batch).collect();
            store.commit(&appends, &acks, &body)?;
            waiting.extend(appends);
            publishes += batch;
        }
        let rate = publishes as f64 / begin.elapsed().as_secs_f64();
        let cpu_us = (cpu_ms()? - cpu_before) * 1e3 / publishes as f64;
        out.push((
            format!("steady, {batch:>4} per commit, us of CPU each"),
            cpu_us,
        ));
        out.push((format!("steady, {batch:>4} per commit, publishes/s"), rate));
        drop(store);
        out.push((
            format!("steady, {batch:>4} per commit, MiB on disk"),
            disk_mib(folder)?,
        ));
    }
    Ok(())
}

/// Many sessions, many messages that wait: fill, open, read, drain mailbox by mailbox.
fn large<S: Store>(folder: &Path, contender: &Contender, out: &mut Figures) -> Outcome<()> {
    let _ = fs::remove_dir_all(folder);
    let (sessions, messages) = LARGE;
    let mut store = S::open(folder, contender.layout, contender.mode)?;
    let mut arrivals = Arrivals::new(sessions);
    let body = arrivals.rng.body();
    let mut mailboxes: Vec<Vec<Slot>> = vec![Vec::new(); sessions as usize];
    let mut full = Vec::new();
    let begin = Instant::now();
    for round in 0..messages / 1_000 {
        let mut appends: Vec<_> = (0..1_000).map(|_| arrivals.slot()).collect();
        if round % 5 == 0 {
            // One mailbox of 100 messages that came over a long time.
            arrivals.position += 1;
            appends.push(Slot {
                session: sessions + 1,
                sequence: round,
                position: arrivals.position,
            });
            full.push(appends[1_000]);
        }
        store.commit(&appends, &[], &body)?;
        for slot in appends.iter().take(1_000) {
            mailboxes[slot.session as usize].push(*slot);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    out.push((
        "large, fill, 1000 per commit, publishes/s".into(),
        messages as f64 / seconds,
    ));
    drop(store);
    out.push(("large, filled, MiB on disk".into(), disk_mib(folder)?));
    out.push((
        "large, open after clean close, ms".into(),
        open_ms::<S>(folder, contender)?,
    ));
    crash(folder, contender)?;
    out.push((
        "large, open after kill, ms".into(),
        open_ms::<S>(folder, contender)?,
    ));

    let mut store = S::open(folder, contender.layout, contender.mode)?;
    let begin = Instant::now();
    let count = store.scan()?;
    assert_eq!(count, messages + full.len() as u64, "nothing is lost");
    out.push((
        "large, scan all, ms".into(),
        begin.elapsed().as_secs_f64() * 1e3,
    ));
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(store.read(&full)?, full.len() * BODY_BYTES);
    }
    out.push((
        "large, read a mailbox of 100, us".into(),
        begin.elapsed().as_secs_f64() * 1e6 / 20.0,
    ));
    let begin = Instant::now();
    for chunk in mailboxes.chunks(200) {
        store.commit(&[], &chunk.concat(), &body)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    out.push((
        "large, drain 200 mailboxes per commit, acks/s".into(),
        messages as f64 / seconds,
    ));
    drop(store);
    out.push(("large, drained, MiB on disk".into(), disk_mib(folder)?));
    Ok(())
}

/// Milliseconds to open the store, without reading its entries.
fn open_ms<S: Store>(folder: &Path, contender: &Contender) -> Outcome<f64> {
    let begin = Instant::now();
    let store = S::open(folder, contender.layout, contender.mode)?;
    let elapsed = begin.elapsed();
    drop(store);
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// Lets a child process commit once to the store and die without closing it.
fn crash(folder: &Path, contender: &Contender) -> Outcome<()> {
    let status = std::process::Command::new(std::env::current_exe()?)
        .arg("--crash")
        .arg(folder)
        .arg(contender.name)
        .stderr(std::process::Stdio::null())
        .status()?;
    if status.code().is_some() {
        return Err("the child was to die by a signal".into());
    }
    Ok(())
}

/// CPU time of this process so far, all threads: what a loaded machine does not change much.
fn cpu_ms() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // Ticks of 10 ms in user and kernel mode.
    Ok(10.0 * (fields[11].parse::<f64>()? + fields[12].parse::<f64>()?))
}

fn disk_mib(folder: &Path) -> Outcome<f64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// A library with a layout and a commit mode.
struct Contender {
    name: &'static str,
    measure: fn(&Path, &Self, &str, &mut Figures) -> Outcome<()>,
    die: fn(&Path, &Self) -> Outcome<()>,
    layout: Layout,
    mode: Mode,
}

const fn contender<S: Store>(name: &'static str, layout: Layout, mode: Mode) -> Contender {
    Contender {
        name,
        measure: measure::<S>,
        die: die::<S>,
        layout,
        mode,
    }
}

/// Measured only when it is named: it needs servers.
const ON_SERVERS: &str = "roadstead-redis";

const CONTENDERS: [Contender; 10] = [
    contender::<Roadstead>("roadstead", Layout::Log, Mode::TwoPhase),
    contender::<Roadstead<Redis>>(ON_SERVERS, Layout::Log, Mode::TwoPhase),
    contender::<Redb>("redb-mailbox-1phase", Layout::Mailbox, Mode::OnePhase),
    contender::<Redb>("redb-mailbox-2phase", Layout::Mailbox, Mode::TwoPhase),
    contender::<Redb>(
        "redb-mailbox-quickrepair",
        Layout::Mailbox,
        Mode::QuickRepair,
    ),
    contender::<Redb>("redb-log-1phase", Layout::Log, Mode::OnePhase),
    contender::<Redb>("redb-log-2phase", Layout::Log, Mode::TwoPhase),
    contender::<Redb>("redb-log-quickrepair", Layout::Log, Mode::QuickRepair),
    contender::<Fjall>("fjall-mailbox", Layout::Mailbox, Mode::OnePhase),
    contender::<Fjall>("fjall-log", Layout::Log, Mode::OnePhase),
];

fn measure<S: Store>(
    folder: &Path,
    contender: &Contender,
    workload: &str,
    out: &mut Figures,
) -> Outcome<()> {
    if workload != "large" {
        steady::<S>(folder, contender, out)?;
    }
    if workload != "steady" {
        large::<S>(folder, contender, out)?;
    }
    Ok(())
}

fn die<S: Store>(folder: &Path, contender: &Contender) -> Outcome<()> {
    let mut store = S::open(folder, contender.layout, contender.mode)?;
    let slot = Slot {
        session: u64::MAX,
        sequence: 1,
        position: u64::MAX,
    };
    store.commit(&[slot], &[], &[1; BODY_BYTES])?;
    store.commit(&[], &[slot], &[])?;
    std::process::abort()
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [crash, folder, name] = arguments.as_slice()
        && crash == "--crash"
    {
        let contender = CONTENDERS.iter().find(|one| one.name == name);
        let contender = contender.ok_or("unknown store")?;
        return (contender.die)(Path::new(folder), contender);
    }
    let folder =
        Path::new(arguments.first().ok_or("the first argument is a folder")?).join("engine-bench");
    let repetitions: usize = arguments.get(1).map_or(Ok(5), |text| text.parse())?;
    let rest = arguments.get(2..).unwrap_or_default();
    let (workload, chosen) = match rest.split_first() {
        Some((first, stores)) if first == "steady" || first == "large" => (first.as_str(), stores),
        _ => ("", rest),
    };
    let chosen: Vec<_> = CONTENDERS
        .iter()
        .filter(|one| {
            (chosen.is_empty() && one.name != ON_SERVERS)
                || chosen.iter().any(|name| name == one.name)
        })
        .collect();
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); chosen.len()];
    // Contenders take turns, so that a slow minute of the machine does not hit only one of them.
    for repetition in 0..repetitions {
        for (contender, results) in chosen.iter().zip(&mut figures) {
            eprintln!("repetition {repetition}: {}", contender.name);
            let mut out = Figures::new();
            (contender.measure)(&folder, contender, workload, &mut out)?;
            results.push(out);
        }
    }
    fs::remove_dir_all(&folder)?;
    for (contender, results) in chosen.iter().zip(&figures) {
        println!("{}", contender.name);
        for (index, (what, _)) in results[0].iter().enumerate() {
            let mut values: Vec<_> = results.iter().map(|out| out[index].1).collect();
            values.sort_by(f64::total_cmp);
            let (median, low, high) = (
                values[values.len() / 2],
                values[0],
                values[values.len() - 1],
            );
            println!("  {what:<48} {median:>10.1}  {low:>10.1} – {high:.1}");
        }
    }
    Ok(())
}
