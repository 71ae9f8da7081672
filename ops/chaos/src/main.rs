//! `chaos`: takes real nodes, kills them, fills their disks, floods them, feeds them garbage, cuts them off, and checks what they have promised.
//!
//! Each verb starts its own server in a folder of its own, prints figures and checks, and ends with `N passed, N failed`.

mod admin;
mod bounds;
mod churn;
mod clock;
mod cluster;
mod crash;
mod disk;
mod garbage;
mod node;
mod options;
mod random;
mod reload;
mod report;
mod stream;
mod talk;
mod wire;

use std::io;
use std::process::ExitCode;

use options::Options;
use report::Report;

const USAGE: &str = "usage: chaos VERB [--quick] [--seed N] [--io auto|io_uring|epoll] [--server PATH] [--cycles N] \
                     [--clients N] [--seconds N]\n\
                     crash    kill -9 under durable traffic (--cycles, 200)\n\
                     disk     a full disk, a second process, a damaged store (needs root for the full disk)\n\
                     bounds   clients that stop reading, and worse, beside well-behaved ones (--clients, 1000; --seconds, 60)\n\
                     garbage  random bytes on every port (--seconds, 30)\n\
                     churn    clients that come, go and take each other over (--clients, 2000; --seconds, 30)\n\
                     reload   certificates replaced under live TLS connections (--clients, 10000; --cycles, 5)\n\
                     cluster  three nodes on a Valkey Cluster in network namespaces, cut, killed, stopped, drained (needs root; --faults a,b,…)";

type Verb = fn(&Options, &mut Report) -> io::Result<()>;

const VERBS: [(&str, Verb); 7] = [
    ("crash", crash::run),
    ("disk", disk::run),
    ("bounds", bounds::run),
    ("garbage", garbage::run),
    ("churn", churn::run),
    ("reload", reload::run),
    ("cluster", cluster::run),
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let Some((_, run)) = VERBS.iter().find(|(name, _)| *name == verb) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut report = Report::default();
    if let Err(error) = run(&options, &mut report) {
        report.check(false, format!("{verb} ran to its end"), error);
    }
    if report.finish() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
