//! Who takes part in a crash run: publishers and subscribers of both versions, with every kind of filter.

use edge_proto::packet::{QoS, Version};

use super::ledger::Ledger;
use super::publisher::Publisher;
use super::subscriber::{Manner, Subscriber};

const V311: Version = Version::V311;
const V5: Version = Version::V5;
const ONE: QoS = QoS::AtLeastOnce;
const TWO: QoS = QoS::ExactlyOnce;

const DURABLE: Manner = Manner {
    version: V5,
    durable: true,
    toggles: false,
};
const DURABLE_311: Manner = Manner {
    version: V311,
    durable: true,
    toggles: false,
};
const LIVE: Manner = Manner {
    version: V5,
    durable: false,
    toggles: false,
};
const LIVE_311: Manner = Manner {
    version: V311,
    durable: false,
    toggles: false,
};
const TOGGLES: Manner = Manner {
    version: V5,
    durable: true,
    toggles: true,
};
const TOGGLES_311: Manner = Manner {
    version: V311,
    durable: true,
    toggles: true,
};

/// The publishers.
pub(crate) fn publishers() -> Vec<Publisher> {
    let topics: Vec<String> = ["a/x", "b/x", "c/y", "s/jobs", "s/light"]
        .iter()
        .flat_map(|root| (0..3).map(move |leaf| format!("{root}/t{leaf}")))
        .chain(["u/dev0/in".into(), "u/dev1/in".into(), "a/x".into()])
        .collect();
    // One QoS for each topic: a QoS 1 message that is sent again would replace a newer one of QoS 2, which is not stored twice.
    let retained: Vec<String> = (0..6).map(|key| format!("r/{key}/v")).collect();
    let (retained1, retained2) = retained.split_at(3);
    vec![
        Publisher::new(0, V5, true, &[TWO], &topics, false),
        Publisher::new(1, V311, true, &[TWO], &topics, false),
        Publisher::new(2, V5, true, &[ONE], &topics, false),
        Publisher::new(3, V311, true, &[ONE, TWO], &topics, false),
        Publisher::new(4, V5, true, &[ONE, TWO], &topics, false),
        Publisher::new(5, V5, false, &[ONE, TWO], &topics, false),
        Publisher::new(6, V5, true, &[ONE], retained1, true),
        Publisher::new(7, V311, true, &[TWO], retained2, true),
    ]
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
        ("all2-311", DURABLE_311, TWO, &["#"]),
        ("dev0", DURABLE, TWO, &["u/dev0/#"]),
        ("dev1", DURABLE_311, ONE, &["u/dev1/#"]),
        ("two-filters", DURABLE, ONE, &["a/x/t0", "c/y/#"]),
        ("live2", LIVE, TWO, &["a/x/#"]),
        ("live1-311", LIVE_311, ONE, &["+/x/#"]),
        ("toggles2", TOGGLES, TWO, &["b/x/#"]),
        ("toggles1-broad", TOGGLES_311, ONE, &["+/y/#"]),
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
            all.push(Subscriber::new(
                &format!("{group}{member}"),
                reader,
                *manner,
                qos,
                &[filter],
            ));
        }
    }
    all
}
