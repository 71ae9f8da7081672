//! One topic: few publishers and many subscribers, or many publishers and few subscribers.

use anyhow::Result;
use serde_json::json;

use super::bench::{Bench, Clients};
use super::compare::{Comparison, RUNS};
use crate::arguments::{Fanin, Fanout, LoadArguments, qos};
use crate::figures::Figures;
use crate::generator::{Load, Target, Topics};
use crate::machine::Cores;

/// Of a fan-out: they share the rate.
const PUBLISHERS: u32 = 2;
/// Messages of a fan-out on their way when there is no rate: one is being delivered while the next one arrives.
const FANOUT_WINDOW: u32 = 2;
/// Messages of a fan-in on their way when there is no rate.
const FANIN_WINDOW: u32 = 256;

pub(super) fn out(arguments: &Fanout) -> Result<()> {
    let fan = Fan {
        publishers: PUBLISHERS,
        subscribers: arguments.subscribers,
        window: FANOUT_WINDOW,
        rate: arguments.rate,
    };
    let comparison = fan.comparison("fanout", &arguments.common, &arguments.load);
    comparison.run(|bench, figures| fan.once(&arguments.load, bench, figures))
}

pub(super) fn inward(arguments: &Fanin) -> Result<()> {
    let fan = Fan {
        publishers: arguments.publishers,
        subscribers: arguments.subscribers,
        window: FANIN_WINDOW,
        rate: arguments.rate,
    };
    let comparison = fan.comparison("fanin", &arguments.common, &arguments.load);
    comparison.run(|bench, figures| fan.once(&arguments.load, bench, figures))
}

struct Fan {
    publishers: u32,
    subscribers: u32,
    window: u32,
    rate: u32,
}

impl Fan {
    fn comparison<'a>(
        &self,
        name: &'static str,
        common: &'a crate::arguments::Common,
        load: &LoadArguments,
    ) -> Comparison<'a> {
        let topics = Topics::Shared {
            publishers: self.publishers,
        };
        let count = self.publishers + self.subscribers;
        Comparison {
            name,
            common,
            clients: Clients::new(count, topics, qos(load.qos), load.payload),
            cores: Cores::One,
            limit: false,
            runs: RUNS,
            settings: json!({
                "publishers": self.publishers, "subscribers": self.subscribers, "rate": self.rate, "window": self.window,
                "qos": load.qos, "payload_bytes": load.payload, "warm_up_s": load.warm_up.as_secs_f64(),
                "seconds": load.duration.as_secs_f64(),
            }),
        }
    }

    fn once(&self, load: &LoadArguments, bench: &Bench, figures: &mut Figures) -> Result<()> {
        let count = self.publishers + self.subscribers;
        bench.generator.open(&bench.server, 0..count, 0)?;
        figures.count("sessions", u64::from(count));
        let target = Target::Shared {
            audience: self.subscribers,
            window: self.window,
        };
        let rate = f64::from(self.rate);
        bench
            .generator
            .load(Load::endless(target, 0..self.publishers, rate));
        let copies = u64::from(self.subscribers);
        bench.measure_all(load, copies, figures)?.messages(figures);
        Ok(())
    }
}
