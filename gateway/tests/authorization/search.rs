//! A search for privileges: clients try everything at random, under rules that change, and whatever reaches one of them must be a
//! message that the rules let its publisher publish and its receiver read.

use std::collections::BTreeMap;

use edge_proto::packet::{Connect, PublishProperties, QoS, Will};
use edge_proto::topic::TopicName;
use gateway::access::rules::Rules;
use gateway::access::{Identity, Who};
use gateway::shard::Arrival;
use reactor::driver::ConnectionId;

use crate::world::{Heard, World, claims, local, strict, token, tokens, with_password};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn path(&mut self, levels: &[&str], longest: usize) -> String {
        let length = 1 + self.below(longest);
        let parts: Vec<&str> = (0..length).map(|_| self.of(levels)).collect();
        parts.join("/")
    }

    fn rules(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..2 + self.below(5) {
            let verb = self.of(&["allow", "allow", "deny"]);
            let actions = self.of(&["\"publish\"", "\"subscribe\"", "\"publish\", \"subscribe\""]);
            let mut topic = self.path(&["a", "b", "%u", "%c", "%g", "+", "+", "x%u"], 2);
            match self.below(4) {
                0 | 1 => topic += "/#",
                2 if verb == "allow" => topic = "#".to_owned(),
                _ => {}
            }
            text += &format!("[[rule]]\n{verb} = [{actions}]\ntopics = [\"{topic}\"]\n");
            if self.below(4) == 0 {
                text += "users = [\"a\", \"b*\"]\n";
            }
            if verb == "allow" && self.below(4) == 0 {
                text += "retain = false\n";
            }
        }
        text
    }
}

/// The clients, by number: user, client identifier, groups.
const CLIENTS: [(&str, &str, &[&str]); 4] = [
    ("a", "b", &["a"]),
    ("b", "a", &[]),
    ("a/b", "+", &["#", "b"]),
    ("+", "x", &["a/b", "+"]),
];
/// Names that wildcards, placeholders and names have in common.
const LEVELS: [&str; 4] = ["a", "b", "xa", "x"];

struct Search {
    world: World,
    random: Random,
    rules: Rules,
    connections: BTreeMap<usize, ConnectionId>,
    sent: usize,
    received: usize,
}

impl Search {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let text = random.rules();
        Self {
            world: World::new(strict([tokens()], &text)),
            rules: Rules::from_toml(&text).expect("valid rules"),
            random,
            connections: BTreeMap::new(),
            sent: 0,
            received: 0,
        }
    }

    fn may_read(&self, client: usize, topic: &str) -> bool {
        let identity = identity_of(client);
        let who = Who {
            identity: &identity,
            client: CLIENTS[client].1,
        };
        self.rules
            .subscribe(&who, topic, QoS::AtMostOnce)
            .is_allowed()
    }

    fn may_write(&self, client: usize, topic: &str, retain: bool) -> bool {
        let identity = identity_of(client);
        let who = Who {
            identity: &identity,
            client: CLIENTS[client].1,
        };
        let topic = TopicName::parse(topic).expect("a topic");
        let judged = self.rules.publish(&who, topic, QoS::AtLeastOnce, retain);
        judged.is_allowed()
    }

    fn connect(&mut self, client: usize) {
        let (user, client_id, groups) = CLIENTS[client];
        let token = token(&claims(user, groups));
        let will_topic = self.random.path(&LEVELS, 2);
        let wants_will = self.random.below(3) == 0;
        let payload = self.stamp(client, &will_topic, false);
        let connect = Connect {
            clean_start: self.random.below(3) == 0,
            session_expiry_s: is_durable(client).then_some(600),
            will: wants_will.then(|| Will {
                topic: &will_topic,
                qos: QoS::AtLeastOnce,
                retain: false,
                payload: payload.as_bytes(),
                delay_s: 0,
                properties: PublishProperties::default(),
            }),
            ..with_password(client_id, "", token.as_bytes())
        };
        let (id, heard) = self
            .world
            .connect_from(Arrival::plain(false, local()), &connect);
        self.check(client, &heard);
        if heard.contains(&Heard::Closed) {
            self.connections.remove(&client);
        } else {
            self.connections.insert(client, id);
        }
    }

    /// A payload that says who published where, whether retained, and whether the rules let him at that time.
    fn stamp(&mut self, client: usize, topic: &str, retain: bool) -> String {
        self.sent += 1;
        format!("{client} {topic} {}", self.may_write(client, topic, retain))
    }

    fn publish(&mut self, client: usize, id: ConnectionId) {
        let topic = self.random.path(&LEVELS, 2);
        let retain = self.random.below(3) == 0;
        let payload = self.stamp(client, &topic, retain);
        let alias = (self.random.below(2) == 0).then_some(1);
        let properties = PublishProperties {
            topic_alias: alias,
            ..PublishProperties::default()
        };
        self.world
            .publish(id, &topic, &payload, properties.clone(), retain);
        if alias.is_some() && self.random.below(2) == 0 {
            let payload = self.stamp(client, &topic, false);
            self.world.publish(id, "", &payload, properties, false);
        }
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS.len());
        let Some(id) = self.connections.get(&client).copied() else {
            return self.connect(client);
        };
        match self.random.below(20) {
            0..8 => self.publish(client, id),
            8..16 => {
                let mut filter = self.random.path(&["a", "b", "+", "x", "xa"], 2);
                match self.random.below(6) {
                    0 => filter += "/#",
                    1 => filter = "#".to_owned(),
                    2 => filter = format!("$share/g/{filter}"),
                    _ => {}
                }
                self.world.subscribe(id, &filter, QoS::AtLeastOnce);
            }
            16 => {
                self.world.leave(id);
                self.connections.remove(&client);
            }
            17 => self.connect(client),
            18 => {
                let text = self.random.rules();
                self.listen(); // What was sent before was sent under the old rules.
                self.rules = Rules::from_toml(&text).expect("valid rules");
                self.world.set_policy(strict([tokens()], &text));
            }
            _ => self.world.pass(1_000),
        }
        self.listen();
    }

    fn listen(&mut self) {
        for (client, id) in self.connections.clone() {
            let heard = self.world.hear(id);
            if heard.contains(&Heard::Closed) {
                self.connections.remove(&client);
            }
            self.check(client, &heard);
        }
    }

    fn check(&mut self, client: usize, heard: &[Heard]) {
        for heard in heard {
            let Heard::Message { topic, payload } = heard else {
                continue;
            };
            self.received += 1;
            let said = payload.split(' ').collect::<Vec<_>>();
            let [_, stamped, allowed] = said[..] else {
                panic!("a message of nobody: {payload}");
            };
            assert_eq!(topic, stamped, "a message in another topic's place");
            assert_eq!(allowed, "true", "{payload} was published against the rules");
            assert!(
                self.may_read(client, topic),
                "client {client} read {topic} against {:?}",
                self.rules
            );
        }
    }
}

/// Half of them are away sometimes and lose nothing.
const fn is_durable(client: usize) -> bool {
    client.is_multiple_of(2)
}

fn identity_of(client: usize) -> Identity {
    let (user, _, groups) = CLIENTS[client];
    Identity {
        groups: groups.iter().map(|group| Box::from(*group)).collect(),
        ..Identity::of_user(user)
    }
}

#[test]
fn no_way_is_found_to_read_or_write_against_the_rules() {
    let (mut sent, mut received) = (0, 0);
    for seed in 0..150 {
        let mut search = Search::new(seed);
        for _ in 0..120 {
            search.step();
        }
        assert!(search.world.conserves(), "seed {seed}");
        sent += search.sent;
        received += search.received;
    }
    assert!(
        sent > 3_000 && received > 500,
        "{sent} sent, {received} received: the search finds nothing to look at"
    );
}

#[test]
fn the_search_would_notice() {
    // A node without rules in place of one with rules: the same steps must find something within a few seeds.
    let found = (0..20).any(|seed| {
        std::panic::catch_unwind(|| {
            let mut search = Search::new(seed);
            search.world = World::new(gateway::access::policy::Policy {
                rules: None,
                unruled: gateway::access::policy::Origins::Everywhere,
                ..strict([tokens()], "")
            });
            for _ in 0..60 {
                search.step();
            }
        })
        .is_err()
    });
    assert!(found);
}
