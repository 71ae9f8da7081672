//! `sim`: runs seeds until one breaks a promise, and says how to see it again.

use std::cell::Cell;
use std::num::NonZero;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sim::plan::{Options, Planted, Without};
use sim::run::Run;
use sim::{Failure, simulate};

const HELP: &str = "\
sim [--seed S | --seeds N] [--from S] [--steps N] [--nodes N [--jumps]] [--cores N] [--verbose] [--doublecheck] [--keep-going]
    [--without crashes|expiry|small-mailboxes|engine-faults|short-sessions|keep-alive|wills|retained|shared|connack
              |pauses|cuts|clogs|leaves|views]…
    [--planted [NAME]]

  --seeds N       runs N seeds (default 100), beginning with --from (default 1)
  --seed S        runs one seed
  --steps N       steps with faults (default 4000 for one node, 8000 for a cluster)
  --nodes N       a cluster of N nodes, or one node alone (default: drawn, one to three)
  --jumps         numbers of views are left out, and some views do not reach some cores
  --cores N       cores of each node (default: drawn)
  --verbose       prints the whole story of a failure
  --doublecheck   runs each seed twice and compares everything that crossed a border of a core
  --planted       plants each known bug (or NAME) and counts the seeds until it is found; 500 at most
";

thread_local! {
    /// The seed that runs now, for the panic hook.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

struct Arguments {
    /// Of all seeds; seed, steps and nodes are those of [`Arguments::options_of`].
    options: Options,
    /// `None` = drawn.
    nodes: Option<u16>,
    steps: Option<u64>,
    first: u64,
    count: u64,
    doublecheck: bool,
    keep_going: bool,
    planted: Option<Vec<(Planted, &'static str)>>,
    line: String,
}

/// What the seeds so far came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    failures: u64,
    published: u64,
    deliveries: u64,
    crashes: u64,
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        print!("{HELP}");
        return ExitCode::from(2);
    };
    println!("commit {}", commit());
    let line = arguments.line.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let seed = SEED.get();
        println!("seed {seed}: PANIC {panic}\n  again: cargo xtask sim --seed {seed}{line}");
    }));
    if let Some(planted) = &arguments.planted {
        return find_planted(&arguments, planted);
    }
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run_seeds(&arguments, &next, &total));
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds, {} failures: {} published, {} delivered, {} crashes",
        total.seeds, total.failures, total.published, total.deliveries, total.crashes
    );
    if total.failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs seeds until there are no more, or one has failed and that is enough.
fn run_seeds(arguments: &Arguments, next: &AtomicU64, total: &Mutex<Total>) {
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        if place >= arguments.count {
            return;
        }
        let options = arguments.options_of(arguments.first + place);
        SEED.set(options.seed);
        let outcome = check(&options, arguments.doublecheck);
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.seeds += 1;
        match outcome {
            Ok(summary) => {
                total.published += summary.published;
                total.deliveries += summary.deliveries;
                total.crashes += summary.crashes;
            }
            Err(failure) => {
                tell(&options, &failure, &arguments.line);
                total.failures += 1;
                if !arguments.keep_going {
                    next.store(arguments.count, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Arguments {
    /// How a seed runs. Without `--nodes` it says itself on how many nodes: half of the seeds one node alone, the others two or three.
    fn options_of(&self, seed: u64) -> Options {
        let drawn = || match seed % 6 {
            1 => 2,
            3 | 5 => 3,
            _ => 1,
        };
        let nodes = self.nodes.unwrap_or_else(drawn);
        self.options_with(seed, nodes)
    }

    fn options_with(&self, seed: u64, nodes: u16) -> Options {
        // A hand-over takes hundreds of steps.
        let usual = if nodes > 1 { 8000 } else { 4000 };
        Options {
            seed,
            nodes,
            steps: self.steps.unwrap_or(usual),
            ..self.options
        }
    }
}

fn check(options: &Options, twice: bool) -> Result<sim::run::Summary, Failure> {
    let summary = simulate(options)?;
    if twice && simulate(options)?.hash != summary.hash {
        return Err(Failure {
            text: "the same seed ran differently the second time".to_owned(),
            client: None,
        });
    }
    Ok(summary)
}

/// Runs a failing seed again with notes, and prints what led to it.
fn tell(options: &Options, failure: &Failure, line: &str) {
    let mut run = Run::new(&Options {
        verbose: true,
        ..*options
    });
    let _ = run.complete(options.steps);
    let length = if options.verbose { 10_000 } else { 12 };
    let client = failure
        .client
        .map_or(String::new(), |client| format!("client c{client} "));
    println!(
        "seed {} step {}: {client}{}",
        options.seed,
        run.step(),
        failure.text
    );
    println!(
        "{}",
        run.story(
            if options.verbose {
                None
            } else {
                failure.client
            },
            length
        )
    );
    println!(
        "  again: cargo xtask sim --seed {}{line} --verbose",
        options.seed
    );
}

fn find_planted(arguments: &Arguments, planted: &[(Planted, &str)]) -> ExitCode {
    const SEEDS: u64 = 500;
    let mut missed = 0;
    for (bug, name) in planted {
        let is_of_cluster = Planted::CLUSTER.iter().any(|(known, _)| known == bug);
        let nodes = arguments.nodes.unwrap_or(if is_of_cluster { 3 } else { 1 });
        let found = (arguments.first..arguments.first + SEEDS).find_map(|seed| {
            SEED.set(seed);
            let options = Options {
                planted: Some(*bug),
                ..arguments.options_with(seed, nodes)
            };
            // A panic of the subject is a find as well.
            let outcome = std::panic::catch_unwind(|| simulate(&options));
            match outcome {
                Ok(Ok(_)) => None,
                Ok(Err(failure)) => Some((seed, failure.text)),
                Err(_) => Some((seed, "panic".to_owned())),
            }
        });
        match found {
            Some((seed, text)) => println!("{name}: found at seed {seed}: {text}"),
            None => {
                missed += 1;
                println!("{name}: NOT FOUND in {SEEDS} seeds");
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".to_owned())
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let options = Options {
        seed: 1,
        steps: 0,
        nodes: 1,
        jumps: false,
        cores: None,
        verbose: false,
        planted: None,
        without: Without::default(),
    };
    let mut arguments = Arguments {
        options,
        nodes: None,
        steps: None,
        first: 1,
        count: 100,
        doublecheck: false,
        keep_going: false,
        planted: None,
        line: String::new(),
    };
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse::<u64>().ok();
        match &*word {
            "--seeds" => arguments.count = number()?,
            "--from" => arguments.first = number()?,
            "--seed" => (arguments.first, arguments.count) = (number()?, 1),
            "--steps" => {
                let steps = number()?;
                arguments.steps = Some(steps);
                arguments.line += &format!(" --steps {steps}");
            }
            "--nodes" => {
                let nodes = u16::try_from(number()?).ok()?;
                arguments.nodes = Some((1..=64).contains(&nodes).then_some(nodes)?);
                arguments.line += &format!(" --nodes {nodes}");
            }
            "--cores" => {
                let cores = u16::try_from(number()?).ok()?;
                arguments.options.cores = Some(cores);
                arguments.line += &format!(" --cores {cores}");
            }
            "--jumps" => {
                arguments.options.jumps = true;
                arguments.line += " --jumps";
            }
            "--verbose" => arguments.options.verbose = true,
            "--doublecheck" => arguments.doublecheck = true,
            "--keep-going" => arguments.keep_going = true,
            "--without" => {
                let name = words.next()?;
                leave_out(&mut arguments.options.without, &name)?;
                arguments.line += &format!(" --without {name}");
            }
            "--planted" => arguments.planted = Some(Vec::new()),
            name => {
                let known = Planted::ALL.iter().chain(&Planted::CLUSTER);
                let one = known.copied().find(|(_, known)| *known == name)?;
                arguments.planted.as_mut()?.push(one);
            }
        }
    }
    plant(&mut arguments);
    Some(arguments)
}

/// `--planted` without names is all bugs that fit.
fn plant(arguments: &mut Arguments) {
    if let Some(planted) = arguments
        .planted
        .as_mut()
        .filter(|planted| planted.is_empty())
    {
        let all = Planted::ALL.iter().chain(&Planted::CLUSTER);
        let fits = |(bug, _): &&(Planted, &str)| {
            let is_of_cluster = Planted::CLUSTER.iter().any(|(known, _)| known == bug);
            arguments
                .nodes
                .is_none_or(|nodes| is_of_cluster == (nodes > 1))
        };
        *planted = all.filter(fits).copied().collect();
    }
}

fn leave_out(without: &mut Without, name: &str) -> Option<()> {
    *match name {
        "crashes" => &mut without.crashes,
        "expiry" => &mut without.expiry,
        "small-mailboxes" => &mut without.small_mailboxes,
        "engine-faults" => &mut without.engine_faults,
        "short-sessions" => &mut without.short_sessions,
        "keep-alive" => &mut without.keep_alive,
        "wills" => &mut without.wills,
        "retained" => &mut without.retained,
        "shared" => &mut without.shared,
        "connack" => &mut without.connack,
        "pauses" => &mut without.pauses,
        "cuts" => &mut without.cuts,
        "clogs" => &mut without.clogs,
        "leaves" => &mut without.leaves,
        "views" => &mut without.views,
        _ => return None,
    } = true;
    Some(())
}
