//! Who takes part in a cluster run: publishers and subscribers of both versions, with every kind of filter, spread over the nodes.

use edge_proto::packet::{QoS, Version};

use crate::crash::ledger::Ledger;
use crate::crash::publisher::Publisher;
use crate::crash::subscriber::{Manner, Subscriber};

const V311: Version = Version::V311;
const V5: Version = Version::V5;
const ONE: QoS = QoS::AtLeastOnce;
const TWO: QoS = QoS::ExactlyOnce;

const fn manner(version: Version, durable: bool, toggles: bool) -> Manner {
    Manner {
        version,
        durable,
        toggles,
    }
}

const DURABLE: Manner = manner(V5, true, false);
const DURABLE_311: Manner = manner(V311, true, false);
const LIVE: Manner = manner(V5, false, false);
const LIVE_311: Manner = manner(V311, false, false);
const TOGGLES: Manner = manner(V5, true, true);

/// The publishers.
pub(crate) fn publishers() -> Vec<Publisher> {
    let roots = [
        "a/x", "b/x", "c/y", "d/y", "e/x", "f/y", "s/jobs", "s/light",
    ];
    let topics: Vec<String> = roots
        .iter()
        .flat_map(|root| (0..2).map(move |leaf| format!("{root}/t{leaf}")))
        .chain(["u/dev0/in".into(), "u/dev1/in".into()])
        .collect();
    [
        (V5, true, &[TWO][..]),
        (V311, true, &[TWO]),
        (V5, true, &[ONE]),
        (V311, true, &[ONE, TWO]),
        (V5, false, &[ONE, TWO]),
        (V5, true, &[ONE, TWO]),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (version, durable, qos))| {
        Publisher::new(index, version, durable, qos, &topics, false)
    })
    .collect()
}

/// True for the name of a subscriber whose session ends with its connection.
pub(crate) fn is_live(name: &str) -> bool {
    name.starts_with("live")
}

/// The subscribers, and what they are owed.
pub(crate) fn subscribers(ledger: &mut Ledger) -> Vec<Subscriber> {
    let mut all = Vec::new();
    for (name, manner, qos, filters) in [
        ("rooted2", DURABLE, TWO, &["a/x/#"][..]),
        ("rooted2-311", DURABLE_311, TWO, &["b/x/#"]),
        ("rooted1", DURABLE, ONE, &["a/x/#"]),
        ("rooted1-311", DURABLE_311, ONE, &["c/y/+"]),
        ("broad2", DURABLE, TWO, &["+/x/#"]),
        ("broad1-311", DURABLE_311, ONE, &["+/y/#"]),
        ("dev0", DURABLE, TWO, &["u/dev0/#"]),
        ("dev1", DURABLE_311, ONE, &["u/dev1/#"]),
        ("many2", DURABLE, TWO, &["d/y/#", "e/x/#", "f/y/t0"]),
        ("toggles2", TOGGLES, TWO, &["b/x/#"]),
        ("live2", LIVE, TWO, &["a/x/#", "d/y/#"]),
        ("live1-311", LIVE_311, ONE, &["c/y/#", "e/x/#"]),
        ("live2-broad", LIVE, TWO, &["+/y/#"]),
    ] {
        let reader = ledger.reader(name, manner.durable, false, qos, filters);
        all.push(Subscriber::new(name, reader, manner, qos, filters));
    }
    for (group, qos, filter, members) in [
        (
            "work",
            TWO,
            "$share/crew/s/jobs/#",
            &[DURABLE, DURABLE_311, DURABLE][..],
        ),
        (
            "light",
            ONE,
            "$share/light/s/light/#",
            &[DURABLE_311, DURABLE],
        ),
    ] {
        let reader = ledger.reader(&format!("group {group}"), true, true, qos, &[filter]);
        for (member, manner) in members.iter().enumerate() {
            let name = format!("{group}{member}");
            all.push(Subscriber::new(&name, reader, *manner, qos, &[filter]));
        }
    }
    all
}
