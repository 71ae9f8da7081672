//! `chaos crash`: kill −9 under durable traffic, over and over, with the same clients and the same store.
//!
//! Checked: nothing acknowledged is lost, nothing at QoS 2 comes twice, order per publisher, root and QoS is kept, sessions and
//! subscriptions are what was acknowledged, and retained messages are not older than what was acknowledged.

mod cast;
pub(crate) mod ledger;
pub(crate) mod publisher;
mod retained;
pub(crate) mod subscriber;
pub(crate) mod trace;
mod world;

use std::io;
use std::time::Duration;

use crate::admin::Metrics;
use crate::clock::{now, wait_for};
use crate::node::Node;
use crate::options::Options;
use crate::random::Random;
use crate::report::Report;
use ledger::{Ledger, Violation};
use world::World;

/// Broken promises that are shown.
const SHOWN: usize = 12;
/// Of those, how many with the traces of their clients.
const TRACED: usize = 2;
/// Broken promises that end a run before its time.
const ENOUGH: usize = 50;

/// The store must hold what absent subscribers have not fetched.
const CONFIG: &str =
    "[mailboxes]\nmessages_max = 10000000\nbytes_max = \"16 GiB\"\n[log]\nlevel = \"warn\"\n";

/// What the cycles came to.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    kills_at_start: usize,
    stops: usize,
    start_ms: Vec<u128>,
}

/// Runs the cycles and says what was kept.
///
/// # Errors
/// The server cannot be started at all.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    let cycles = options.cycles(200, 10);
    report.title(format!(
        "crash: {cycles} cycles of kill −9, seed {}, backend {}",
        options.seed, options.io
    ));
    let mut random = Random::new(options.seed);
    let node = Node::new(options, "crash", CONFIG, None)?;
    let mut world = World::new(node, random.fork());
    world.node.start()?;
    world.gather()?;
    let mut tally = Tally::default();
    for cycle in 1..=cycles {
        world.run_for(Duration::from_millis(20 + random.below(400) as u64));
        one_end(&mut world, &mut random, &mut tally)?;
        if cycle % 25 == 0 || cycle == cycles {
            let Ledger {
                messages,
                deliveries,
                violations,
                ..
            } = &world.ledger;
            report.note(format!(
                "cycle {cycle}: {} sent, {} acknowledged, {deliveries} deliveries, {} broken promises",
                messages.len(),
                world.ledger.acked_count(),
                violations.len()
            ));
        }
        if world.ledger.violations.len() >= ENOUGH {
            break;
        }
    }
    let settled = world.settle();
    conclude(&world, &tally, settled, options, report);
    Ok(())
}

/// Ends the server one way or another, and starts it again.
fn one_end(world: &mut World, random: &mut Random, tally: &mut Tally) -> io::Result<()> {
    if random.per_mille(60) {
        world.stop();
        tally.stops += 1;
    } else {
        world.crash();
        tally.kills += 1;
    }
    if random.per_mille(120) {
        world.node.spawn()?;
        let moment = Duration::from_millis(random.below(120) as u64);
        wait_for(moment, || None::<()>);
        world.node.kill();
        tally.kills_at_start += 1;
    }
    let start = now();
    world.node.start()?;
    tally.start_ms.push(start.elapsed().as_millis());
    Ok(())
}

fn conclude(world: &World, tally: &Tally, settled: bool, options: &Options, report: &mut Report) {
    let missing = losses(world);
    let (sent, acked) = (world.ledger.messages.len(), world.ledger.acked_count());
    let slowest = tally.start_ms.iter().max().copied().unwrap_or(0);
    report.note(format!(
        "{} kills, {} kills during a start, {} stops, {} connections cut, {} looks at retained messages; slowest start {slowest} ms",
        tally.kills,
        tally.kills_at_start,
        tally.stops,
        world.cuts,
        world.looks()
    ));
    report.note(format!(
        "{} deliveries, of which {} repeats at QoS 1",
        world.ledger.deliveries, world.ledger.repeats
    ));
    report.check(
        settled,
        "after the last crash everyone gets to the end",
        if settled { "yes" } else { "not in time" },
    );
    report.check(
        missing.is_empty(),
        "no acknowledged message lost",
        format!(
            "{} lost of {acked} acknowledged ({sent} sent)",
            missing.len()
        ),
    );
    judge(world, report);
    let broken = &world.ledger.violations;
    if !(missing.is_empty() && broken.is_empty() && settled) {
        let io = &options.io;
        report.note(format!(
            "again: chaos crash --seed {} --io {io} (timing differs from run to run)",
            options.seed
        ));
        show(world, missing.iter().chain(broken));
    }
    let busy = world.node.busy_starts;
    report.check(
        busy == 0,
        "a start right after kill −9 finds its ports free",
        format!("{busy} starts found them taken"),
    );
    let panics = world.node.log().matches("panicked").count();
    report.check(
        panics == 0,
        "the server never panicked",
        format!("{panics} panics"),
    );
    if panics > 0 {
        report.note(world.node.log_tail());
    }
}

/// What was acknowledged and never came.
fn losses(world: &World) -> Vec<Violation> {
    world
        .ledger
        .missing()
        .into_iter()
        .map(|(reader, message)| {
            let sent = &world.ledger.messages[message];
            let from = world.publisher_name(sent.publisher);
            let text = format!(
                "m{message} ({:?} on {} from {from}) was acknowledged and never came",
                sent.qos, sent.topic
            );
            Violation {
                text,
                message: Some(message),
                client: reader.name.clone(),
            }
        })
        .collect()
}

/// Everything that was seen while the cycles ran, and the metrics afterwards.
fn judge(world: &World, report: &mut Report) {
    let broken = &world.ledger.violations;
    let twice = broken
        .iter()
        .filter(|violation| violation.text.ends_with("at QoS 2"))
        .count();
    let disorder = broken
        .iter()
        .filter(|violation| violation.text.contains(" came after "))
        .count();
    report.check(
        twice == 0,
        "nothing at QoS 2 came twice",
        format!("{twice} times"),
    );
    report.check(
        disorder == 0,
        "order of each publisher, root and QoS kept",
        format!("{disorder} out of order"),
    );
    let other = broken.len() - twice - disorder;
    report.check(
        other == 0,
        "sessions, subscriptions, retained messages, packets as the rules say",
        format!("{other} broken"),
    );
    match Metrics::scrape(world.node.admin) {
        Ok(metrics) => {
            report.check(
                metrics.unaccounted() == 0,
                "conservation after the last start",
                metrics.deliveries(),
            );
            let queued = metrics.sum("deliveries_queued");
            report.check(
                queued == 0,
                "nothing is queued once everything was acknowledged",
                queued,
            );
        }
        Err(error) => drop(report.check(false, "metrics after the run", error)),
    }
}

fn show<'a>(world: &World, violations: impl Iterator<Item = &'a Violation>) {
    for (
        index,
        Violation {
            text,
            message,
            client,
        },
    ) in violations.take(SHOWN).enumerate()
    {
        println!("       {client}: {text}");
        if index >= TRACED {
            continue;
        }
        world.print_trace(client, *message);
        if let Some(message) = message {
            let publisher = world
                .publisher_name(world.ledger.messages[*message].publisher)
                .to_owned();
            world.print_trace(&publisher, Some(*message));
        }
    }
}
