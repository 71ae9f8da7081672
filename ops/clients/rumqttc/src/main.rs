//! The scripted conversation of `ops/clients`, held by rumqttc in both protocol versions. Prints a line per scenario; exit
//! code 1 when one fails.

mod peer;
mod refusals;
mod scenarios;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::peer::{Talk, Tls};

type Outcome<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;
type Scenario = (&'static str, fn(&Talk) -> Outcome<'_>);

const SCENARIOS: &[Scenario] = &[
    ("qos-each-way", |talk| {
        Box::pin(scenarios::qos_each_way(talk))
    }),
    ("wildcards", |talk| Box::pin(scenarios::wildcards(talk))),
    ("retained", |talk| Box::pin(scenarios::retained(talk))),
    ("will-on-cut", |talk| Box::pin(scenarios::will_on_cut(talk))),
    ("no-will-after-disconnect", |talk| {
        Box::pin(scenarios::no_will_after_disconnect(talk))
    }),
    ("resume-queued", |talk| {
        Box::pin(scenarios::resume_queued(talk))
    }),
    ("resume-amid-delivery", |talk| {
        Box::pin(scenarios::resume_amid_delivery(talk))
    }),
    ("take-over", |talk| Box::pin(scenarios::take_over(talk))),
    ("shared-subscription", |talk| {
        Box::pin(scenarios::shared_subscription(talk))
    }),
    ("large-payload", |talk| {
        Box::pin(scenarios::large_payload(talk))
    }),
    ("hundred-clients", |talk| {
        Box::pin(scenarios::hundred_clients(talk))
    }),
    ("empty-payload", |talk| {
        Box::pin(scenarios::empty_payload(talk))
    }),
    ("utf-8-topics", |talk| {
        Box::pin(scenarios::utf_8_topics(talk))
    }),
    ("burst-qos-0", |talk| Box::pin(scenarios::burst(talk, 0))),
    ("burst-qos-1", |talk| Box::pin(scenarios::burst(talk, 1))),
    ("burst-qos-2", |talk| Box::pin(scenarios::burst(talk, 2))),
];

/// What was asked for.
#[derive(Debug)]
struct Arguments {
    host: String,
    port: u16,
    tls: Option<Tls>,
    refusals: bool,
    only: String,
    known: String,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut parsed = Self {
            host: "127.0.0.1".to_owned(),
            port: 1883,
            tls: None,
            refusals: false,
            only: String::new(),
            known: String::new(),
        };
        let mut certificate = None;
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            if flag == "--refusals" {
                parsed.refusals = true;
                continue;
            }
            let value = arguments
                .next()
                .with_context(|| format!("`{flag}` takes a value"))?;
            match flag.as_str() {
                "--host" => parsed.host = value,
                "--port" => parsed.port = value.parse()?,
                "--ws-port" => {} // Every conversation takes it; this one speaks over TCP.
                "--tls" => {
                    parsed.tls = Some(Tls {
                        folder: PathBuf::from(value),
                        authority: "authority".to_owned(),
                        certificate: None,
                    });
                }
                "--certificate" => certificate = Some(value),
                "--only" => parsed.only = value,
                "--known" => parsed.known = value,
                _ => bail!("unexpected argument `{flag}`"),
            }
        }
        if let Some(tls) = &mut parsed.tls {
            tls.certificate = certificate;
        }
        Ok(parsed)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse()?;
    let scenarios = if arguments.refusals {
        refusals::SCENARIOS
    } else {
        SCENARIOS
    };
    let mut failed = false;
    for v5 in [false, true] {
        let version = if v5 { "5" } else { "3.1.1" };
        let chosen = scenarios
            .iter()
            .filter(|(name, _)| name.contains(&arguments.only));
        for (name, scenario) in chosen {
            let talk = Talk {
                host: arguments.host.clone(),
                port: arguments.port,
                tls: arguments.tls.clone(),
                v5,
                token: std::process::id(),
                scenario: name,
            };
            match scenario(&talk).await {
                Ok(()) => println!("ok {name} {version}"),
                Err(error) if arguments.known.split(',').any(|known| known == *name) => {
                    println!("known {name} {version}: {error:#}");
                }
                Err(error) => {
                    failed = true;
                    println!("FAIL {name} {version}: {error:#}");
                }
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
