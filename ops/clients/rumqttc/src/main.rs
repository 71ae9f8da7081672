//! The scripted conversation of `ops/clients`, held by rumqttc in both protocol versions. Prints a line per scenario; exit
//! code 1 when one fails.

mod peer;
mod scenarios;

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::peer::Talk;

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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let (mut host, mut port, mut only, mut known) =
        ("127.0.0.1".to_owned(), 1883, String::new(), String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("`{flag}` takes a value"))?;
        match flag.as_str() {
            "--host" => host = value,
            "--port" => port = value.parse()?,
            "--ws-port" => {} // Every conversation takes it; this one speaks over TCP.
            "--only" => only = value,
            "--known" => known = value,
            _ => bail!("unexpected argument `{flag}`"),
        }
    }
    let mut failed = false;
    for v5 in [false, true] {
        let version = if v5 { "5" } else { "3.1.1" };
        for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| name.contains(&only)) {
            let talk = Talk {
                host: host.clone(),
                port,
                v5,
                token: std::process::id(),
                scenario: name,
            };
            match scenario(&talk).await {
                Ok(()) => println!("ok {name} {version}"),
                Err(error) if known.split(',').any(|known| known == *name) => {
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
