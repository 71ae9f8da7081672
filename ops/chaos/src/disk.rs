//! `chaos disk`: a full disk under traffic, a second process on the same store, and a damaged store.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edge_proto::packet::{PacketType, QoS, Version};

use crate::admin::{self, Metrics};
use crate::bounds::pairs::Pairs;
use crate::clock::{now, wait_for};
use crate::node::Node;
use crate::options::Options;
use crate::random::Random;
use crate::report::Report;
use crate::wire::{Received, Wire, wait_for_any};

const CONFIG: &str = "[mailboxes]\nmessages_max = 1000000\nbytes_max = \"1 GiB\"\n[queues]\npending_bytes_max = \"4 MiB\"\n\
    [log]\nlevel = \"warn\"\n";
const FILE_SYSTEM: &str = "size=192m";
const PAYLOAD_BYTES: usize = 4096;
const WINDOW: usize = 64;
const MIB: u64 = 1024 * 1024;
/// Memory that a full disk may cost: what waits for its acknowledgement and the difference that is not written (16 MiB).
const FULL_BYTES_MAX: u64 = 64 * MIB;
/// Until a durable subscriber has everything.
const DELIVERED_IN: Duration = Duration::from_secs(30);

/// A small file system in memory; dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("chaos-small-disk-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", FILE_SYSTEM, "tmpfs"])
            .arg(&path)
            .status()?;
        if status.success() {
            Ok(Self(path))
        } else {
            Err(io::Error::other("mount(8) refused; it needs root"))
        }
    }

    /// Takes all the space that is left.
    fn fill(&self) -> io::Result<u64> {
        let mut file = File::create(self.0.join("filler"))?;
        let mut bytes = 0;
        for piece in [64 * 1024, 4096] {
            let zeros = vec![0; piece];
            loop {
                match file.write(&zeros) {
                    Ok(written) if written > 0 => bytes += written as u64,
                    Err(error) if error.kind() != ErrorKind::StorageFull => return Err(error),
                    _ => break,
                }
            }
        }
        Ok(bytes)
    }

    fn free(&self) -> io::Result<()> {
        fs::remove_file(self.0.join("filler"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A publisher of QoS 1 with a window, to a durable subscriber.
struct Sure {
    wire: Wire,
    sent: usize,
    acknowledged: Vec<usize>,
}

impl Sure {
    /// Publishes until so many more were acknowledged, or none for so long. True when acknowledgements stopped.
    fn publish(&mut self, count: usize, quiet: Duration) -> bool {
        let (enough, mut last_answer) = (self.acknowledged.len() + count, now());
        while self.acknowledged.len() < enough && last_answer.elapsed() < quiet && !self.wire.ended
        {
            while self.sent - self.acknowledged.len() < WINDOW {
                let mut payload = format!("{} ", self.sent).into_bytes();
                payload.resize(PAYLOAD_BYTES, b'.');
                let packet_id = (self.sent % 60_000) as u16 + 1;
                self.wire
                    .publish(false, QoS::AtLeastOnce, false, "d/x/t", packet_id, &payload);
                self.sent += 1;
            }
            if self.read(Duration::from_millis(20)) > 0 {
                last_answer = now();
            }
        }
        last_answer.elapsed() >= quiet
    }

    fn read(&mut self, limit: Duration) -> usize {
        self.wire.flush();
        wait_for_any(&[&self.wire], limit);
        self.wire.fill();
        let before = self.acknowledged.len();
        for packet in self.wire.packets().unwrap_or_default() {
            // The server answers in the order in which the messages came.
            if matches!(packet, Received::PubAck(_, reason) if !reason.is_error()) {
                self.acknowledged.push(self.acknowledged.len());
            }
        }
        self.acknowledged.len() - before
    }
}

/// Runs all parts.
///
/// # Errors
/// The server cannot be started.
pub(crate) fn run(options: &Options, report: &mut Report) -> io::Result<()> {
    report.title(format!("disk: backend {}", options.io));
    match SmallDisk::mount() {
        Ok(disk) => full(options, report, &disk)?,
        Err(error) => report.skipped("a full disk", error),
    }
    let folder = std::env::temp_dir().join(format!("chaos-store-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome =
        second_process(options, report, &folder).and_then(|()| damage(options, report, &folder));
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn full(options: &Options, report: &mut Report, disk: &SmallDisk) -> io::Result<()> {
    let mut node = Node::new(options, "disk", CONFIG, Some(&disk.0.join("data")))?;
    node.start()?;
    let mut reader = Wire::join(node.tcp, Version::V5, "disk-reader", true, 3600)?;
    reader.subscribe_now(&["d/#"], QoS::AtLeastOnce);
    drop(reader);
    let wire = Wire::join(node.tcp, Version::V5, "disk-writer", true, 3600)?;
    let mut sure = Sure {
        wire,
        sent: 0,
        acknowledged: Vec::new(),
    };
    let pairs = Pairs::start(node.tcp, 4)?;
    sure.publish(1_000, Duration::from_secs(30));
    let (before, resident) = (sure.acknowledged.len(), node.resident_bytes());
    let filled = disk.fill()?;
    pairs.set_phase(1);
    let stopped = sure.publish(usize::MAX / 2, Duration::from_secs(4));
    report.note(format!(
        "{before} acknowledged before {} KiB of filler, {} after",
        filled / 1024,
        sure.acknowledged.len() - before
    ));
    report.check(
        stopped,
        "acknowledgements stop when the disk is full",
        if stopped { "yes" } else { "they went on" },
    );
    let full = wait_for_state(&node, "full");
    let (status, body) = admin::request(node.admin, "GET", "/readyz", "")?;
    report.check(
        full,
        "the metrics say so",
        format!("engine_state full: {}", full),
    );
    let says = body.contains("space") || body.contains("full");
    report.check(
        status == 200 && says,
        "/readyz says so and stays 200",
        format!("{status} {}", body.trim()),
    );
    let grown = node.resident_bytes().saturating_sub(resident);
    report.check(
        grown < FULL_BYTES_MAX,
        "memory stays bounded",
        format!("{} KiB more", grown / 1024),
    );
    disk.free()?;
    let at_stop = sure.acknowledged.len();
    let again = wait_for(Duration::from_secs(30), || {
        (sure.read(Duration::from_millis(50)) > 0).then_some(())
    });
    sure.publish(1_000, Duration::from_secs(30));
    report.check(
        again.is_some(),
        "acknowledgements go on once there is space",
        format!("{} more", sure.acknowledged.len() - at_stop),
    );
    pairs.set_phase(2);
    let working = wait_for_state(&node, "working");
    report.check(working, "the metrics say that it works again", working);
    nothing_is_lost(&node, pairs, &sure, report)
}

/// What the live pairs and the durable subscriber got.
fn nothing_is_lost(node: &Node, pairs: Pairs, sure: &Sure, report: &mut Report) -> io::Result<()> {
    let outcome = pairs.finish();
    report.note(format!(
        "live traffic before: {}; while full: {}",
        outcome.words(0),
        outcome.words(1)
    ));
    report.check(
        outcome.is_whole() && outcome.count(1) > 0,
        "live traffic goes on",
        outcome.losses(),
    );
    let (missing, longest) = missing(node, sure)?;
    report.check(
        missing == 0,
        "nothing acknowledged is lost",
        format!(
            "{missing} of {} missing, at most {} ms without one",
            sure.acknowledged.len(),
            longest.as_millis()
        ),
    );
    let metrics = Metrics::scrape(node.admin)?;
    report.check(
        metrics.unaccounted() == 0,
        "conservation",
        metrics.deliveries(),
    );
    Ok(())
}

/// Waits until the metrics name this state of the engine.
fn wait_for_state(node: &Node, state: &str) -> bool {
    let seen = wait_for(Duration::from_secs(10), || {
        let metrics = Metrics::scrape(node.admin).ok()?;
        (metrics.labelled("engine_state", state) == 1).then_some(())
    });
    seen.is_some()
}

/// How many acknowledged messages the durable subscriber does not get within [`DELIVERED_IN`], and the longest time without one.
fn missing(node: &Node, sure: &Sure) -> io::Result<(usize, Duration)> {
    let mut reader = Wire::join(node.tcp, Version::V5, "disk-reader", false, 3600)?;
    let mut got = vec![false; sure.sent];
    let (since, mut last, mut longest) = (now(), now(), Duration::ZERO);
    while since.elapsed() < DELIVERED_IN && sure.acknowledged.iter().any(|number| !got[*number]) {
        reader.flush();
        wait_for_any(&[&reader], Duration::from_millis(100));
        reader.fill();
        for packet in reader.packets().unwrap_or_default() {
            let Received::Publish(arrived) = packet else {
                continue;
            };
            longest = longest.max(last.elapsed());
            last = now();
            let text = String::from_utf8_lossy(&arrived.payload).into_owned();
            let number = text
                .split(' ')
                .next()
                .and_then(|digits| digits.parse::<usize>().ok());
            number
                .and_then(|number| got.get_mut(number))
                .into_iter()
                .for_each(|got| *got = true);
            reader.ack(PacketType::PubAck, arrived.packet_id);
        }
    }
    let missing = sure.acknowledged.iter().filter(|number| !got[**number]);
    Ok((missing.count(), longest))
}

/// Another process on the same store is refused; the first does not notice.
fn second_process(options: &Options, report: &mut Report, data: &Path) -> io::Result<()> {
    let mut node = Node::new(options, "first", CONFIG, Some(data))?;
    node.start()?;
    let mut wire = Wire::join(node.tcp, Version::V5, "keeper", true, 3600)?;
    wire.subscribe_now(&["k/#"], QoS::AtLeastOnce);
    let other = Node::new(options, "second", CONFIG, Some(data))?;
    let (status, text) = other.run_to_end("second", &other)?;
    let clear = !status.success() && text.contains("in use by another process");
    report.check(
        clear,
        "a second process on the store is refused in clear words",
        format!("{status}; {}", text.trim()),
    );
    wire.publish(false, QoS::AtLeastOnce, true, "k/x/y", 1, b"kept");
    let answered = wire.await_packet(Duration::from_secs(10), |packet| {
        matches!(packet, Received::PubAck(..)).then_some(())
    });
    report.check(
        answered.is_some(),
        "the first process goes on",
        answered.is_some(),
    );
    node.terminate();
    Ok(())
}

/// A damaged store is reported, and left as it is.
fn damage(options: &Options, report: &mut Report, data: &Path) -> io::Result<()> {
    let store = data.join("store.redb");
    let good = fs::read(&store)?;
    let mut random = Random::new(options.seed);
    let mut flipped = good.clone();
    for _ in 0..good.len() / 40 {
        let at = random.below(flipped.len());
        flipped[at] ^= 0x55;
    }
    let mut headless = good.clone();
    headless[..512].fill(0);
    let half = good[..good.len() / 2].to_vec();
    for (name, bytes) in [
        ("flipped bytes", flipped),
        ("a zeroed head", headless),
        ("half of the file", half),
        ("an empty file", Vec::new()),
    ] {
        fs::write(&store, &bytes)?;
        let node = Node::new(options, "damaged", CONFIG, Some(data))?;
        match node.run_to_end("damaged", &node) {
            Ok((status, text)) => {
                let clear =
                    !status.success() && text.contains("is damaged") && text.contains("Restore");
                report.check(
                    clear,
                    format!("{name}: refused in clear words"),
                    format!("{status}; {}", text.trim()),
                );
            }
            Err(error) => {
                report.check(false, format!("{name}: refused in clear words"), error);
            }
        }
        let untouched = fs::read(&store)? == bytes;
        report.check(
            untouched,
            format!("{name}: the file is left as it is"),
            untouched,
        );
    }
    fs::write(&store, &good)?;
    let mut node = Node::new(options, "restored", CONFIG, Some(data))?;
    node.start()?;
    let metrics = Metrics::scrape(node.admin)?;
    let whole = metrics.sum("sessions") == 1 && metrics.sum("retained_messages") == 1;
    report.check(
        whole,
        "the good file back, everything is there",
        format!(
            "{} session, {} retained",
            metrics.sum("sessions"),
            metrics.sum("retained_messages")
        ),
    );
    Ok(())
}
