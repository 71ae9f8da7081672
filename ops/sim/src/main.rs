//! `sim`: runs seeds until one breaks a promise, and says how to see it again.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

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
  --steps N       steps with faults (default 4000; with --nodes 8000)
  --nodes N       a cluster of N nodes (default 1: one node alone)
  --jumps         numbers of views are left out, and some views do not reach some cores
  --cores N       cores of each node (default: drawn)
  --verbose       prints the whole story of a failure
  --doublecheck   runs each seed twice and compares everything that crossed a border of a core
  --planted       plants each known bug (or NAME) and counts the seeds until it is found; 500 at most
";

/// The seed that runs now, for the panic hook.
static SEED: AtomicU64 = AtomicU64::new(0);

struct Arguments {
    options: Options,
    first: u64,
    count: u64,
    doublecheck: bool,
    keep_going: bool,
    planted: Option<Vec<(Planted, &'static str)>>,
    line: String,
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        print!("{HELP}");
        return ExitCode::from(2);
    };
    println!("commit {}", commit());
    let line = arguments.line.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let seed = SEED.load(Ordering::Relaxed);
        println!("seed {seed}: PANIC {panic}\n  again: cargo xtask sim --seed {seed}{line}");
    }));
    if let Some(planted) = &arguments.planted {
        return find_planted(&arguments, planted);
    }
    let mut failures = 0;
    let (mut published, mut deliveries, mut crashes) = (0, 0, 0);
    for seed in arguments.first..arguments.first + arguments.count {
        SEED.store(seed, Ordering::Relaxed);
        let options = Options {
            seed,
            ..arguments.options
        };
        match check(&options, arguments.doublecheck) {
            Ok(summary) => {
                published += summary.published;
                deliveries += summary.deliveries;
                crashes += summary.crashes;
            }
            Err(failure) => {
                tell(&options, &failure, &arguments.line);
                failures += 1;
                if !arguments.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!(
        "{} seeds, {failures} failures: {published} published, {deliveries} delivered, {crashes} crashes",
        arguments.count
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
        let found = (arguments.first..arguments.first + SEEDS).find_map(|seed| {
            SEED.store(seed, Ordering::Relaxed);
            let options = Options {
                seed,
                planted: Some(*bug),
                ..arguments.options
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
                arguments.options.steps = number()?;
                arguments.line += &format!(" --steps {}", arguments.options.steps);
            }
            "--nodes" => {
                let nodes = u16::try_from(number()?).ok()?;
                arguments.options.nodes = (1..=64).contains(&nodes).then_some(nodes)?;
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
    settle(&mut arguments);
    Some(arguments)
}

/// What follows from the rest when nobody has said it.
fn settle(arguments: &mut Arguments) {
    if arguments.options.steps == 0 {
        // A hand-over takes hundreds of steps.
        arguments.options.steps = if arguments.options.nodes > 1 {
            8000
        } else {
            4000
        };
    }
    if let Some(planted) = arguments
        .planted
        .as_mut()
        .filter(|planted| planted.is_empty())
    {
        *planted = if arguments.options.nodes > 1 {
            Planted::CLUSTER.to_vec()
        } else {
            Planted::ALL.to_vec()
        };
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
