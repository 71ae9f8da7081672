"""The scripted conversation, held by paho-mqtt. README.md of this folder says what each scenario means."""

import itertools
import socket
import struct
import sys
import time

from conversation import DEADLINE_S, Talk, check, converse, equal, parser, refusals, shorten
from paho.mqtt import client as mqtt
from paho.mqtt.client import SubscribeOptions
from paho.mqtt.packettypes import PacketTypes
from paho_peer import Peer, properties

BURST = 1_000


def payloads(messages):
    return [message.payload for message in messages]


def numbered(count):
    return [b"%d" % number for number in range(count)]


def qos_each_way(talk):
    subscriber, publisher = Peer(talk, "subscriber"), Peer(talk, "publisher")
    for granted, sent in itertools.product(range(3), range(3)):
        topic = f"{talk.name('t')}/{granted}/{sent}"
        equal(subscriber.subscribe((topic, granted)), [granted], "granted QoS")
        publisher.publish(topic, b"hello", sent)
        [message] = subscriber.take(1)
        equal((message.topic, message.payload), (topic, b"hello"), "message")
        equal(message.qos, min(granted, sent), f"QoS of a message sent with {sent} to a subscription with {granted}")
        check(not message.retain, "a live message has the RETAIN flag")


def wildcards(talk):
    root = talk.name("t")
    subscriber, publisher = Peer(talk, "subscriber"), Peer(talk, "publisher")
    cases = {
        f"{root}/+/c": [f"{root}/b/c"],
        f"{root}/#": [root, f"{root}/", f"{root}/b", f"{root}/b/c", f"{root}/b/c/d"],
        f"+/b/{root}": [f"x/b/{root}"],
        f"{root}/+": [f"{root}/b", f"{root}/"],
    }
    topics = sorted({topic for matching in cases.values() for topic in matching} | {f"{root}x/b"})
    for text, matching in cases.items():
        equal(subscriber.subscribe((text, 1)), [1], f"SUBACK of {text}")
        for topic in topics:
            publisher.publish(topic, b"x", 1)
        subscriber.fence()
        equal(sorted(m.topic for m in subscriber.take(len(matching))), sorted(matching), f"topics that match {text}")
        subscriber.unsubscribe(text)


def retained(talk):
    root = talk.name("t")
    publisher, live = Peer(talk, "publisher"), Peer(talk, "live")
    live.subscribe((f"{root}/#", 1))
    publisher.publish(f"{root}/a", b"first", 1, retain=True)
    publisher.publish(f"{root}/a", b"second", 1, retain=True)
    publisher.publish(f"{root}/b", b"other", 0, retain=True)
    check(not any(m.retain for m in live.take(3)), "a message to an existing subscription has the RETAIN flag")
    late = Peer(talk, "late")
    late.subscribe((f"{root}/+", 1))
    found = {m.topic: (m.payload, m.retain) for m in late.take(2)}
    equal(found, {f"{root}/a": (b"second", True), f"{root}/b": (b"other", True)}, "retained messages")
    publisher.publish(f"{root}/a", b"", 1, retain=True)
    publisher.publish(f"{root}/b", b"", 1, retain=True)
    later = Peer(talk, "later")
    later.subscribe((f"{root}/#", 1))
    later.nothing_came()


def will_on_cut(talk):
    topic = f"{talk.name('t')}/will"
    watcher = Peer(talk, "watcher")
    watcher.subscribe((topic, 2))
    Peer(talk, "mortal", will=(topic, b"gone", 1, False)).cut()
    [message] = watcher.take(1)
    equal((message.payload, message.qos), (b"gone", 1), "will")


def no_will_after_disconnect(talk):
    topic = f"{talk.name('t')}/will"
    watcher = Peer(talk, "watcher")
    watcher.subscribe((topic, 2))
    Peer(talk, "mortal", will=(topic, b"gone", 1, False)).disconnect()
    watcher.nothing_came()


def resume_queued(talk):
    root = talk.name("t")
    subscriber, publisher = Peer(talk, "subscriber", durable=True), Peer(talk, "publisher")
    equal(subscriber.subscribe((f"{root}/+", 2)), [2], "SUBACK")
    subscriber.cut()
    for number in range(100):
        publisher.publish(f"{root}/{number % 2 + 1}", b"%d" % number, number % 2 + 1)
    check(subscriber.connect(), "Session Present is 0 after a cut")
    messages = subscriber.take(100)
    for qos in (1, 2):
        wanted = [b"%d" % number for number in range(100) if number % 2 + 1 == qos]
        equal(payloads(m for m in messages if m.qos == qos), wanted, f"QoS {qos} messages that waited")
    subscriber.nothing_came()


def resume_amid_delivery(talk):
    for qos in (1, 2):
        topic = f"{talk.name('t')}/{qos}"
        subscriber, publisher = Peer(talk, f"subscriber{qos}", durable=True), Peer(talk, f"publisher{qos}")
        subscriber.subscribe((topic, qos))
        sent = [publisher.send(topic, payload, qos) for payload in numbered(300)]
        subscriber.wait_messages(50)
        subscriber.cut()
        publisher.finish(sent)
        check(subscriber.connect(), "Session Present is 0 after a cut")
        last = numbered(300)[-1]
        talk.signal.wait(lambda: any(m.payload == last for m in subscriber.messages), "the last message")
        subscriber.fence()
        got = payloads(subscriber.messages)
        if qos == 1:
            got = list(dict.fromkeys(got))  # a repeated one is allowed; its first coming is in order
        equal(got, numbered(300), f"QoS {qos} messages across the cut")


def publisher_resumes(talk):
    # As many as paho keeps in flight: when it resumes it sends all it has at once, whatever Receive Maximum the server set.
    count = 100
    for qos in (1, 2):
        topic = f"{talk.name('t')}/{qos}"
        subscriber, publisher = Peer(talk, f"subscriber{qos}"), Peer(talk, f"publisher{qos}", durable=True)
        subscriber.subscribe((topic, qos))
        sent = [publisher.send(topic, payload, qos) for payload in numbered(count)]
        subscriber.wait_messages(20)
        publisher.cut()
        check(publisher.connect(), "Session Present is 0 after a cut")
        publisher.finish(sent)
        missing = lambda: sorted(set(numbered(count)) - set(payloads(subscriber.messages)), key=int)
        talk.signal.wait(lambda: not missing(), lambda: f"QoS {qos} messages {shorten(missing())} at the subscriber")
        subscriber.fence()
        got = payloads(subscriber.messages)
        if qos == 1:
            got = list(dict.fromkeys(got))
        equal(sorted(got, key=int), numbered(count), f"QoS {qos} messages of a publisher that was cut")


def clean_start_forgets(talk):
    topic = f"{talk.name('t')}/x"
    subscriber, publisher = Peer(talk, "subscriber", durable=True), Peer(talk, "publisher")
    subscriber.subscribe((topic, 1))
    subscriber.disconnect()
    publisher.publish(topic, b"lost", 1)
    fresh = Peer(talk, "", client_id=subscriber.client_id)
    check(not fresh.connack[0].session_present, "Session Present is 1 after a clean start")
    publisher.publish(topic, b"lost too", 1)
    fresh.nothing_came()
    fresh.disconnect()


def take_over(talk):
    topic = f"{talk.name('t')}/x"
    older = Peer(talk, "twin")
    older.subscribe((topic, 1))
    newer = Peer(talk, "twin")
    older.wait_closed()
    newer.subscribe((topic, 1))
    newer.publish(topic, b"mine", 1)
    equal(payloads(newer.take(1)), [b"mine"], "message")
    check(not older.messages, "the older connection got a message")


def take_over_reason(talk):
    older = Peer(talk, "twin")
    Peer(talk, "twin")
    older.wait_closed()
    equal(older.disconnect_reason, 0x8E, "reason that the older connection is told")


def shared_subscription(talk):
    root = talk.name("t")
    members = [Peer(talk, f"member{number}") for number in range(2)]
    for member in members:
        member.subscribe((f"$share/{talk.name('g')}/{root}/+", 1))
    ordinary, publisher = Peer(talk, "ordinary"), Peer(talk, "publisher")
    ordinary.subscribe((f"{root}/#", 1))
    publisher.finish([publisher.send(f"{root}/{n % 7}", b"%d" % n, 1) for n in range(200)])
    ordinary.take(200)
    talk.signal.wait(lambda: sum(len(member.messages) for member in members) >= 200, "200 messages at the two members")
    for member in members:
        member.fence()
    got = [payloads(member.messages) for member in members]
    equal(sorted(got[0] + got[1], key=int), numbered(200), "messages of the two members together")
    check(all(got), f"one member got everything: {[len(one) for one in got]}")


def large_payload(talk):
    topic = f"{talk.name('t')}/x"
    payload = bytes(range(256)) * 800
    subscriber, publisher = Peer(talk, "subscriber"), Peer(talk, "publisher")
    subscriber.subscribe((topic, 2))
    for qos in range(3):
        publisher.publish(topic, payload, qos)
        [message] = subscriber.take(1)
        check(message.payload == payload, f"a payload of {len(payload)} bytes was changed")


def hundred_clients(talk):
    root = talk.name("t")
    peers = [Peer(talk, f"c{number}") for number in range(100)]
    for number, peer in enumerate(peers):
        peer.subscribe((f"{root}/{number}", 1), (f"{root}/all", 1))
    sent = [(peer, peer.send(f"{root}/{(number + 1) % 100}", b"%d" % number, 1)) for number, peer in enumerate(peers)]
    for peer, info in sent:
        peer.finish([info])
    peers[0].publish(f"{root}/all", b"all", 1)
    for number, peer in enumerate(peers):
        equal(sorted(payloads(peer.take(2))), sorted([b"%d" % ((number - 1) % 100), b"all"]), "messages")


def connection(talk):
    """A connection of nobody's library."""
    plain = socket.create_connection((talk.host, talk.port), 10)
    return talk.tls.context().wrap_socket(plain, server_hostname=talk.host) if talk.tls else plain


def keep_alive(talk):
    patient = Peer(talk, "patient", keepalive=1)
    body = struct.pack("!H4sBBH", 4, b"MQTT", 4, 2, 1)
    identifier = talk.name("mute").encode()
    body += struct.pack("!H", len(identifier)) + identifier
    start = time.monotonic()
    with connection(talk) as mute:
        mute.sendall(bytes([0x10, len(body)]) + body)
        equal(mute.recv(4), b"\x20\x02\x00\x00", "CONNACK")
        equal(mute.recv(1), b"", "what a client that never pings reads after its keep-alive time")
    took = time.monotonic() - start
    check(1.4 <= took <= 8, f"a client that never pings was closed after {took:.1f} s, not 1.5 times its 1 s")
    patient.nothing_came()
    check(patient.connected, "a client that pings was disconnected")


def empty_payload(talk):
    topic = f"{talk.name('t')}/x"
    peer = Peer(talk, "peer")
    peer.subscribe((topic, 2))
    for qos in range(3):
        peer.publish(topic, b"", qos)
    equal(payloads(peer.take(3)), [b"", b"", b""], "payloads")


def utf_8_topics(talk):
    peer = Peer(talk, "jürgen-工-🚢")
    for text in ("straße/größe", "路/岸", "🚢/⚓", "space in/topic", "ﷺ/\u0301", "\ufeffbom/x"):
        topic = f"{talk.name('t')}/{text}"
        peer.subscribe((topic, 1))
        peer.publish(topic, text.encode(), 1)
        [message] = peer.take(1)
        equal((message.topic, message.payload), (topic, text.encode()), "message")


def burst(talk, qos):
    topic = f"{talk.name('t')}/x"
    subscriber, publisher = Peer(talk, "subscriber"), Peer(talk, "publisher")
    subscriber.subscribe((topic, qos))
    sent = [publisher.send(topic, payload, qos) for payload in numbered(BURST)]
    equal(payloads(subscriber.take(BURST)), numbered(BURST), "messages in order")
    publisher.finish(sent)


def burst_qos_0(talk):
    burst(talk, 0)


def burst_qos_1(talk):
    burst(talk, 1)


def burst_qos_2(talk):
    burst(talk, 2)


def user_properties(talk):
    topic = f"{talk.name('t')}/x"
    peer = Peer(talk, "peer")
    peer.subscribe((topic, 1))
    pairs = [("key", "one"), ("key", "two"), ("ü", "🚢"), ("", "")]
    peer.publish(topic, b"x", 1, UserProperty=pairs, ContentType="text/plain", PayloadFormatIndicator=1)
    [message] = peer.take(1)
    equal(message.properties.UserProperty, pairs, "user properties")
    equal(message.properties.ContentType, "text/plain", "content type")
    equal(message.properties.PayloadFormatIndicator, 1, "payload format indicator")


def request_response(talk):
    root = talk.name("t")
    asker, server = Peer(talk, "asker"), Peer(talk, "server")
    asker.subscribe((f"{root}/answers", 1))
    server.subscribe((f"{root}/questions", 1))
    asker.publish(f"{root}/questions", b"?", 1, ResponseTopic=f"{root}/answers", CorrelationData=b"\x00\xff42")
    [question] = server.take(1)
    asked = question.properties
    server.publish(asked.ResponseTopic, b"!", 1, CorrelationData=asked.CorrelationData)
    [answer] = asker.take(1)
    equal((answer.payload, answer.properties.CorrelationData), (b"!", b"\x00\xff42"), "answer")


def message_expiry(talk):
    topic = f"{talk.name('t')}/x"
    subscriber, publisher = Peer(talk, "subscriber", durable=True), Peer(talk, "publisher")
    subscriber.subscribe((topic, 1))
    publisher.publish(topic, b"live", 1, MessageExpiryInterval=100)
    [live] = subscriber.take(1)
    check(95 <= live.properties.MessageExpiryInterval <= 100, "the interval of a live message is not what was sent")
    subscriber.fence()  # paho hands a message over before it acknowledges it; one that is not acknowledged comes again
    subscriber.cut()
    publisher.publish(topic, b"short", 1, MessageExpiryInterval=1)
    publisher.publish(topic, b"long", 1, MessageExpiryInterval=100)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:  # what has to happen here is that time passes; the server is kept busy meanwhile
        publisher.fence()
    subscriber.connect()
    [message] = subscriber.take(1)
    equal(message.payload, b"long", "the message that did not expire")
    rest = message.properties.MessageExpiryInterval
    check(90 <= rest <= 98, f"an interval of 100 s is {rest} s after more than 2 s in the queue")
    subscriber.nothing_came()


def topic_alias(talk):
    root = talk.name("t")
    publisher = Peer(talk, "publisher")
    allowed = getattr(publisher.connack[2], "TopicAliasMaximum", 0)
    check(allowed > 0, "the server allows no topic aliases")
    for most in (0, 5):
        subscriber = Peer(talk, f"subscriber{most}", connect={"TopicAliasMaximum": most} if most else None)
        subscriber.subscribe((f"{root}/#", 1))
        publisher.publish(f"{root}/a", b"1", 1, TopicAlias=1)
        publisher.publish("", b"2", 1, TopicAlias=1)
        publisher.publish(f"{root}/b", b"3", 1, TopicAlias=1)
        publisher.publish("", b"4", 1, TopicAlias=1)
        aliases = {}
        got = []
        for message in subscriber.take(4):
            alias = getattr(message.properties, "TopicAlias", None)
            check(alias is None or 1 <= alias <= most, f"alias {alias} to a client that allows {most}")
            topic = message.topic or aliases[alias]
            aliases[alias] = topic
            got.append((topic, message.payload))
        wanted = [(f"{root}/a", b"1"), (f"{root}/a", b"2"), (f"{root}/b", b"3"), (f"{root}/b", b"4")]
        equal(got, wanted, "topics and payloads")
        subscriber.disconnect()


def subscription_identifiers(talk):
    root = talk.name("t")
    peer = Peer(talk, "peer")
    for identifier, text in ((1, f"{root}/a"), (268_435_455, f"{root}/+")):
        made = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier)
        peer.subscribe((text, 1), properties=made)
    peer.publish(f"{root}/b", b"x", 1)
    [message] = peer.take(1)
    equal(message.properties.SubscriptionIdentifier, [268_435_455], "identifiers of one match")
    peer.publish(f"{root}/a", b"x", 1)
    peer.fence()
    found = [i for m in peer.messages for i in m.properties.SubscriptionIdentifier]
    equal(sorted(found), [1, 268_435_455], "identifiers of two matches, in one message or two")


def reason_codes(talk):
    root = talk.name("t")
    peer = Peer(talk, "peer")
    equal(peer.subscribe((f"{root}/0", 0), (f"{root}/1", 1), (f"{root}/2", 2)), [0, 1, 2], "SUBACK")
    equal(peer.unsubscribe(f"{root}/1", f"{root}/never"), [0, 0x11], "UNSUBACK")


def assigned_client_id(talk):
    first, second = Peer(talk, "", client_id=""), Peer(talk, "", client_id="")
    names = [peer.connack[2].AssignedClientIdentifier for peer in (first, second)]
    check(all(names) and names[0] != names[1], f"assigned client identifiers {names}")


def receive_maximum(talk):
    topic = f"{talk.name('t')}/x"
    subscriber = Peer(talk, "subscriber", connect={"ReceiveMaximum": 5}, manual_ack=True)
    publisher = Peer(talk, "publisher")
    subscriber.subscribe((topic, 1))
    publisher.finish([publisher.send(topic, payload, 1) for payload in numbered(50)])
    for acknowledged in range(50):
        wanted = min(acknowledged + 5, 50)
        subscriber.wait_messages(wanted)
        subscriber.unsubscribe(talk.name("barrier"))  # its answer comes after whatever was sent too early
        equal(len(subscriber.messages), wanted, f"messages sent when {acknowledged} are acknowledged")
        message = subscriber.messages[acknowledged]
        subscriber.client.ack(message.mid, message.qos)
    equal(payloads(subscriber.take(50)), numbered(50), "messages in order")


def no_local(talk):
    topic = f"{talk.name('t')}/x"
    peer, other = Peer(talk, "peer"), Peer(talk, "other")
    peer.subscribe((topic, SubscribeOptions(qos=1, noLocal=True)))
    peer.publish(topic, b"own", 1)
    other.publish(topic, b"other's", 1)
    equal(payloads(peer.take(1)), [b"other's"], "messages")
    peer.nothing_came()


def retain_handling(talk):
    topic = f"{talk.name('t')}/x"
    peer = Peer(talk, "peer")
    peer.publish(topic, b"kept", 1, retain=True)
    talk.later(lambda: Peer(talk, "cleaner").publish(topic, b"", 1, retain=True))
    peer.subscribe((topic, SubscribeOptions(qos=1, retainHandling=2)))
    peer.nothing_came()
    peer.subscribe((topic, SubscribeOptions(qos=1, retainHandling=1)))
    peer.nothing_came()
    peer.subscribe((topic, SubscribeOptions(qos=1, retainHandling=0)))
    [kept] = peer.take(1)
    equal((kept.payload, kept.retain), (b"kept", True), "retained message of a repeated subscription")
    peer.unsubscribe(topic)
    peer.subscribe((topic, SubscribeOptions(qos=1, retainHandling=1, retainAsPublished=True)))
    [kept] = peer.take(1)
    equal((kept.payload, kept.retain), (b"kept", True), "retained message of a new subscription")
    peer.publish(topic, b"new", 1, retain=True)
    [new] = peer.take(1)
    check(new.retain, "Retain As Published lost the RETAIN flag")


def session_expiry(talk):
    peer = Peer(talk, "peer", durable=True, connect={"SessionExpiryInterval": 1})
    peer.subscribe((f"{talk.name('t')}/x", 1))
    peer.cut()
    check(peer.connect(), "the session is gone before its expiry interval")
    peer.cut()
    other = Peer(talk, "other")
    end = time.monotonic() + 3
    while time.monotonic() < end:  # time has to pass
        other.fence()
    check(not peer.connect(), "the session is still there 3 s after a connection with an expiry interval of 1 s")


def will_delay(talk):
    topic = f"{talk.name('t')}/will"
    watcher = Peer(talk, "watcher")
    watcher.subscribe((topic, 1))
    late = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1)
    mortal = Peer(talk, "mortal", durable=True, will=(topic, b"gone", 1, False, late))
    mortal.cut()
    mortal.connect()
    end = time.monotonic() + 2
    while time.monotonic() < end:  # time has to pass
        watcher.nothing_came()
    mortal.cut()
    equal(payloads(watcher.take(1)), [b"gone"], "will after its delay")


def attempt(talk, host, tls):
    """A client that must not get in; returns what it says."""
    said = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=talk.name("refused"), reconnect_on_failure=False)
    client.tls_set_context(tls.context())
    client.on_log = lambda _client, _data, _level, text: said.append(text)
    try:
        client.connect(host, talk.port)
        end = time.monotonic() + DEADLINE_S
        while client.loop(0.1) == mqtt.MQTT_ERR_SUCCESS:
            check(not client.is_connected(), "the client was let in")
            check(time.monotonic() < end, "the client was not told that it is refused")
    except OSError as error:
        said.append(str(error))
    return "; ".join(said)


def welcome(talk):
    """The server is unharmed."""
    qos_each_way(talk)


BOTH = [
    qos_each_way, wildcards, retained, will_on_cut, no_will_after_disconnect, resume_queued, resume_amid_delivery,
    publisher_resumes, clean_start_forgets, take_over, shared_subscription, large_payload, hundred_clients, keep_alive,
    empty_payload, utf_8_topics, burst_qos_0, burst_qos_1, burst_qos_2,
]  # fmt: skip
ONLY_5 = [
    take_over_reason, user_properties, request_response, message_expiry, topic_alias, subscription_identifiers, reason_codes,
    assigned_client_id, receive_maximum, no_local, retain_handling, session_expiry, will_delay,
]  # fmt: skip


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--protocol", choices=["311", "5"], default="5")
    arguments = arguments.parse_args()
    talk = Talk(arguments)
    talk.v5 = arguments.protocol == "5"
    scenarios = [*refusals(attempt), welcome] if arguments.refusals else BOTH + (ONLY_5 if talk.v5 else [])
    return converse(scenarios, talk, arguments)


if __name__ == "__main__":
    sys.exit(main())
