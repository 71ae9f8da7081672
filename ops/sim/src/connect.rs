//! How clients come and go: CONNECT, DISCONNECT, lost connections, and what that means for the session in the model.

use edge_proto::packet::{Connect, Disconnect, Packet, PublishProperties, QoS, Version, Will};
use edge_proto::reason::ReasonCode;

use crate::client::{Connection, Existence};
use crate::oracle::{Published, is_shared};
use crate::plan::Plan;
use crate::random::Random;
use crate::run::Run;
use crate::speak::TOPICS;
use crate::wire::Wire;
use crate::world::World;

/// Longest session expiry that is sure not to end during a run, in seconds.
const LONG_S: u32 = 100_000;

impl Run {
    /// CONNECT on a new connection. `clean` overrides what is drawn.
    pub(crate) fn connect(&mut self, at: usize, clean: Option<bool>) {
        let plan = self.world.plan.clone();
        let Some(core) = self.any_core() else { return };
        let wire = self.world.open(at, core);
        let drawn = clean.is_none();
        let durable = self.random.percent(plan.durable_percent);
        let client = &mut self.clients[at];
        let v5 = client.version == Version::V5;
        let wants_clean = clean.unwrap_or_else(|| self.random.percent(plan.clean_percent));
        let clean_start = client.needs_clean || wants_clean || (!v5 && !durable && drawn);
        let expiry_s = drawn_expiry(&mut self.random, &plan, v5, durable, clean_start, drawn);
        if v5 {
            client.draw_limits(&mut self.random, plan.keeps_what_is_owed());
        }
        let keep_alive_s = if self.random.percent(plan.keep_alive_percent) {
            self.random.between(4, 20) as u16
        } else {
            0
        };
        client.haunted = is_haunted(&self.world, at, wire, &client.name);
        if clean_start || client.existence == Existence::Live {
            lose_shares(&mut self.oracle, client);
            client.end_session();
        }
        client.needs_clean |= clean_start;
        client.smallest_maximum = client
            .smallest_maximum
            .min(client.maximum_packet_size.unwrap_or(u32::MAX));
        let name = client.name.clone();
        let mut connect = Connect::new(client.version, &name);
        connect.clean_start = clean_start;
        connect.session_expiry_s =
            (v5 && (expiry_s > 0 || self.random.percent(50))).then_some(expiry_s);
        connect.receive_maximum = client.receive_maximum;
        connect.topic_alias_maximum = client.alias_maximum;
        connect.maximum_packet_size = client.maximum_packet_size;
        connect.keep_alive_s = keep_alive_s;
        self.next_connection += 1;
        let connection = Connection::new(
            wire,
            self.next_connection,
            clean_start,
            expiry_s,
            keep_alive_s,
        );
        let (version, epoch) = (client.version, client.epoch);
        client.connection = Some(connection);
        let will = self.random.percent(plan.will_percent) && drawn;
        let payload;
        if will {
            let (number, topic, qos) = self.will(at, epoch);
            payload = number.to_be_bytes();
            let properties = PublishProperties::default();
            let delays_s: &[u32] = if version == Version::V5 {
                &[0, 0, 1, 20]
            } else {
                &[0]
            };
            let delay_s = *self.random.pick(delays_s);
            connect.will = Some(Will {
                topic,
                payload: &payload,
                qos,
                retain: false,
                delay_s,
                properties,
            });
        }
        self.note(at, || format!("CONNECT clean {clean_start} expiry {expiry_s} keep-alive {keep_alive_s} to core {core}, wire {wire}"));
        self.send(at, &Packet::Connect(Box::new(connect)));
    }

    /// Where to connect to; `None` when all nodes are down.
    fn any_core(&mut self) -> Option<usize> {
        let cores = self.world.open_cores();
        (!cores.is_empty()).then(|| *self.random.pick(&cores))
    }

    /// Draws a will and notes it as a message.
    fn will(&mut self, at: usize, epoch: u64) -> (u64, &'static str, QoS) {
        let topic = TOPICS[self.random.below(self.world.plan.topics)];
        let qos = *self
            .random
            .pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let message = Published {
            will: true,
            ..self.published(at, epoch, topic, qos)
        };
        (self.oracle.publish(message), topic, qos)
    }

    /// Leaves a connection behind without closing it, and watches how the server ends it.
    pub(crate) fn abandon(&mut self, at: usize) {
        let Some(connection) = self
            .drop_connection(at)
            .filter(|connection| connection.told.is_none())
        else {
            return;
        };
        let wire = &mut self.world.wires[connection.wire];
        wire.to_client.splice(0..0, connection.input);
        self.clients[at].zombies.push(connection.wire);
    }

    /// The connection breaks: what is on its way is lost, but for a prefix of what the client wrote.
    pub(crate) fn cut(&mut self, at: usize) {
        let Some(connection) = self.drop_connection(at) else {
            return;
        };
        let kept = self
            .random
            .below(self.world.wires[connection.wire].to_server.len() + 1);
        let fin = self.random.percent(30);
        let wire = &mut self.world.wires[connection.wire];
        if fin {
            wire.finished = true;
        } else {
            wire.to_server.truncate(kept);
            wire.to_client.clear();
            wire.broken = true;
        }
        self.note(at, || {
            format!("loses its connection, fin {fin}, {kept} bytes still arrive")
        });
    }

    pub(crate) fn disconnect(&mut self, at: usize) {
        let client = &self.clients[at];
        let v5 = client.version == Version::V5;
        let mut packet = Disconnect::new(ReasonCode::Success);
        if v5 && self.random.percent(20) {
            packet.reason = ReasonCode::DisconnectWithWill;
        }
        let expiry_s = client
            .connection
            .as_ref()
            .map_or(0, |connection| connection.expiry_s);
        if v5 && expiry_s > 0 && self.random.percent(20) {
            let ends = *self.random.pick(&[0, LONG_S]);
            packet.session_expiry_s = (!self.world.plan.keeps_what_is_owed()).then_some(ends);
        }
        self.note(at, || {
            format!(
                "DISCONNECT {:?} expiry {:?}",
                packet.reason, packet.session_expiry_s
            )
        });
        self.send(at, &Packet::Disconnect(packet.clone()));
        let wire = client_wire(&self.clients[at]);
        self.drop_connection(at);
        if let Some(wire) = wire {
            self.world.wires[wire].finished = true;
        }
        if packet.session_expiry_s == Some(0) {
            // Whether it arrives is not known, so the next CONNECT asks for a clean start.
            let client = &mut self.clients[at];
            lose_shares(&mut self.oracle, client);
            client.end_session();
            client.needs_clean = true;
        }
    }

    /// The client forgets its connection; its session waits or ends.
    pub(crate) fn drop_connection(&mut self, at: usize) -> Option<Connection> {
        let now_ms = self.world.now.mono_ms;
        let client = &mut self.clients[at];
        let connection = client.connection.take()?;
        if client.haunted {
            lose_shares(&mut self.oracle, client);
            client.end_session();
            client.needs_clean = true;
            return Some(connection);
        }
        match &mut client.existence {
            Existence::Durable { expiry_s: 0, .. } => {
                lose_shares(&mut self.oracle, client);
                client.end_session();
                client.needs_clean = true;
            }
            Existence::Durable { since_ms, expiry_s } if !connection.live => {
                // Whether the new expiry holds is not known, nor whether a session that had expired was made anew.
                let gone_ms = since_ms.map_or(0, |since_ms| now_ms - since_ms);
                let expired = gone_ms >= u64::from(*expiry_s) * 1000;
                *expiry_s = (*expiry_s).min(connection.expiry_s);
                since_ms.get_or_insert(now_ms);
                if connection.expiry_s == 0 || expired {
                    lose_shares(&mut self.oracle, client);
                    client.end_session();
                    client.needs_clean = true;
                }
            }
            Existence::Durable { since_ms, .. } => *since_ms = Some(now_ms),
            Existence::Live => {
                lose_shares(&mut self.oracle, client);
                client.end_session();
            }
            Existence::No => {
                if connection.expiry_s > 0 && !connection.live {
                    client.needs_clean = true;
                }
            }
        }
        Some(connection)
    }
}

fn client_wire(client: &crate::client::Client) -> Option<usize> {
    client.connection.as_ref().map(|connection| connection.wire)
}

/// Notes that shared subscriptions of this client end, with what they hold.
pub(crate) fn lose_shares(oracle: &mut crate::oracle::Oracle, client: &crate::client::Client) {
    for subscription in client
        .subscriptions
        .iter()
        .filter(|subscription| is_shared(&subscription.filter))
    {
        oracle.share_lost.insert(subscription.filter.clone());
    }
}

impl Connection {
    fn new(wire: usize, number: u64, clean: bool, expiry_s: u32, keep_alive_s: u16) -> Self {
        Self {
            wire,
            number,
            live: false,
            clean,
            expiry_s,
            input: Vec::new(),
            aliases: std::collections::BTreeMap::new(),
            acknowledgements: std::collections::VecDeque::new(),
            unacknowledged: std::collections::BTreeMap::new(),
            operations: std::collections::BTreeMap::new(),
            unsubscribing: std::collections::BTreeMap::new(),
            answers: Default::default(),
            server_receive_maximum: 1,
            keep_alive_s,
            silent: false,
            told: None,
        }
    }
}

/// The Session Expiry Interval to ask for; 3.1.1 has but two.
fn drawn_expiry(
    random: &mut Random,
    plan: &Plan,
    v5: bool,
    durable: bool,
    clean_start: bool,
    drawn: bool,
) -> u32 {
    match (v5, durable) {
        (true, true) if random.percent(plan.short_session_percent) && drawn => {
            random.between(2, 60) as u32
        }
        (true, true) => LONG_S,
        (true, false) => 0,
        (false, _) if clean_start => 0,
        (false, _) => LONG_S,
    }
}

/// True when a CONNECT of an earlier connection of this client is still on its way: it may come after the next one.
fn is_haunted(world: &World, at: usize, wire: usize, client_id: &str) -> bool {
    let on_its_way =
        |wire: &Wire| wire.client == at && !wire.gone && !wire.connected && wire.closing.is_none();
    let unanswered = |wire: &Wire| wire.client == at && !wire.connected;
    let wires = &world.wires[..wire];
    wires.iter().any(on_its_way)
        || world.is_attaching(client_id)
        || (!world.is_cluster_at_rest() && wires.iter().any(unanswered))
}
