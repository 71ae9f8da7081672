"""The scripted conversation, held by mosquitto_pub, mosquitto_sub and mosquitto_rr: whole programs, one per client.

README.md of this folder says what each scenario means. Each one is held in both protocol versions.
"""

import json
import os
import shutil
import subprocess
import sys
import threading

from conversation import DEADLINE_S, Failure, Talk, check, converse, equal, parser, refusals

BURST = 1_000


def run(talk, program, *arguments, stdin=b""):
    """Runs a program that ends by itself; returns what it printed."""
    command = talk.command(program, *arguments)
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{program} took more than {DEADLINE_S:g} s") from late
    if done.returncode != 0:
        raise Failure(f"{program} ended with {done.returncode}: {(done.stdout + done.stderr).decode().strip()}")
    return done.stdout


def publish(talk, topic, payload, qos, *arguments):
    """mosquitto_pub; a payload of None is an empty one."""
    content = ("-n",) if payload is None else ("-m", payload)
    run(talk, "mosquitto_pub", "-t", topic, "-q", str(qos), *content, *arguments)


class Subscriber:
    """A mosquitto_sub that runs until the scenario ends. Its messages are what `-F %j` prints."""

    def __init__(self, talk, *filters, qos=1, client_id=None, arguments=(), subacks=1):
        self.talk = talk
        self.messages = []
        self.subacks = 0
        self.ended = False
        topics = [part for text in filters for part in ("-t", text)]
        identity = ("-i", client_id) if client_id else ()
        # Debugging output is the only sign of a SUBACK; unbuffered, so that it is one when it happens.
        command = talk.command("mosquitto_sub", *topics, "-q", str(qos), *identity, "-F", "%j", "-d", *arguments)
        self.process = subprocess.Popen(
            [shutil.which("stdbuf"), "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        talk.later(self.kill)
        talk.signal.wait(lambda: self.subacks >= subacks or self.ended, "the SUBACK of mosquitto_sub")
        check(not self.ended or self.subacks >= subacks, "mosquitto_sub ended before its SUBACK")

    def _read(self):
        for line in self.process.stdout:
            text = line.decode().rstrip("\n")
            with self.talk.signal:
                if text.startswith("{"):
                    self.messages.append(json.loads(text))
                elif text.startswith("Subscribed ") or "received SUBACK" in text:
                    self.subacks += text.startswith("Subscribed ")
                self.talk.signal.changed()
        with self.talk.signal:
            self.ended = True
            self.talk.signal.changed()

    def kill(self):
        """Ends the program at once: the server sees a connection without DISCONNECT end."""
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def terminate(self):
        """Lets the program end by itself, with DISCONNECT."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        self.reader.join()

    def take(self, count):
        """Waits for the messages, fails when there are more by then, and forgets them."""
        self.talk.signal.wait(
            lambda: len(self.messages) >= count, lambda: f"{count} messages; {len(self.messages)} came"
        )
        with self.talk.signal:
            messages, self.messages = self.messages, []
        equal(len(messages), count, "messages at mosquitto_sub")
        return messages

    def nothing_came_before(self, topic):
        """Fails when something else than a message sent now to `topic`, to which it is subscribed, is here."""
        publish(self.talk, topic, "fence", 1)
        [message] = self.take(1)
        equal(message["payload"], "fence", "message")


def qos_each_way(talk):
    for granted in range(3):
        for sent in range(3):
            topic = f"{talk.name('t')}/{granted}/{sent}"
            subscriber = Subscriber(talk, topic, qos=granted)
            publish(talk, topic, "hello", sent)
            [message] = subscriber.take(1)
            equal((message["topic"], message["payload"]), (topic, "hello"), "message")
            equal((message["qos"], message["retain"]), (min(granted, sent), 0), "QoS and RETAIN")
            subscriber.terminate()


def wildcards(talk):
    root = talk.name("t")
    one, all_below = Subscriber(talk, f"{root}/+/c"), Subscriber(talk, f"{root}/#")
    for topic in (root, f"{root}/b", f"{root}/b/c", f"{root}x/b/c", f"{root}/d/c"):
        publish(talk, topic, "x", 1)
    equal([m["topic"] for m in one.take(2)], [f"{root}/b/c", f"{root}/d/c"], "topics")
    got = [m["topic"] for m in all_below.take(4)]
    equal(sorted(got), sorted([root, f"{root}/b", f"{root}/b/c", f"{root}/d/c"]), "topics")


def retained(talk):
    topic = f"{talk.name('t')}/a"
    publish(talk, topic, "first", 1, "-r")
    publish(talk, topic, "second", 1, "-r")
    [message] = Subscriber(talk, topic).take(1)
    equal((message["payload"], message["retain"]), ("second", 1), "retained message")
    publish(talk, topic, None, 1, "-r")
    Subscriber(talk, topic).nothing_came_before(topic)


def will(talk):
    return ("--will-topic", f"{talk.name('w')}/will", "--will-payload", "gone", "--will-qos", "1")


def will_on_cut(talk):
    watcher = Subscriber(talk, f"{talk.name('w')}/will")
    Subscriber(talk, f"{talk.name('t')}/x", arguments=will(talk)).kill()
    [message] = watcher.take(1)
    equal((message["payload"], message["qos"]), ("gone", 1), "will")


def no_will_after_disconnect(talk):
    watcher = Subscriber(talk, f"{talk.name('w')}/will")
    # After so many messages it disconnects normally. Terminated, it would ask for its will with reason 0x04 in version 5.
    mortal = Subscriber(talk, f"{talk.name('t')}/x", arguments=(*will(talk), "-C", "1"))
    publish(talk, f"{talk.name('t')}/x", "x", 1)
    mortal.process.wait(DEADLINE_S)
    watcher.nothing_came_before(f"{talk.name('w')}/will")


def durable(talk):
    """Options of a durable session; it is ended when the scenario is."""
    options = ("-c", "-x", "120") if talk.v5 else ("-c",)

    def forget():
        Subscriber(talk, "forget/it", client_id=talk.name("durable")).terminate()

    talk.later(forget)
    return options


def resume_queued(talk):
    root = talk.name("t")
    options = durable(talk)
    client_id = talk.name("durable")
    Subscriber(talk, f"{root}/+", qos=2, client_id=client_id, arguments=options).kill()
    for qos in (1, 2):
        lines = b"".join(b"%d\n" % number for number in range(50))
        run(talk, "mosquitto_pub", "-t", f"{root}/{qos}", "-q", str(qos), "-l", stdin=lines)
    resumed = Subscriber(talk, f"{root}/+", qos=2, client_id=client_id, arguments=options)
    messages = resumed.take(100)
    for qos in (1, 2):
        got = [m["payload"] for m in messages if m["qos"] == qos]
        equal([int(payload) for payload in got], list(range(50)), f"QoS {qos} messages that waited")
    resumed.nothing_came_before(f"{root}/1")
    resumed.terminate()


def take_over(talk):
    topic = f"{talk.name('t')}/x"
    older = Subscriber(talk, topic, client_id=talk.name("twin"))
    newer = Subscriber(talk, topic, client_id=talk.name("twin"))
    older.process.kill()  # it connects again at once otherwise, and takes over in its turn
    publish(talk, topic, "mine", 1)
    equal([m["payload"] for m in newer.take(1)], ["mine"], "messages")


def shared_subscription(talk):
    root = talk.name("t")
    members = [Subscriber(talk, f"$share/{talk.name('g')}/{root}/+") for _ in range(2)]
    lines = b"".join(b"%d\n" % number for number in range(200))
    run(talk, "mosquitto_pub", "-t", f"{root}/x", "-q", "1", "-l", stdin=lines)
    talk.signal.wait(lambda: sum(len(m.messages) for m in members) >= 200, "200 messages at the two members")
    got = [int(m["payload"]) for member in members for m in member.messages]
    equal(sorted(got), list(range(200)), "messages of the two members together")
    check(all(member.messages for member in members), "one member got everything")


def large_payload(talk):
    topic = f"{talk.name('t')}/x"
    payload = "0123456789abcdef" * 12_800
    subscriber = Subscriber(talk, topic, qos=2)
    for qos in range(3):
        run(talk, "mosquitto_pub", "-t", topic, "-q", str(qos), "-s", stdin=payload.encode())
        [message] = subscriber.take(1)
        check(message["payload"] == payload, f"a payload of {len(payload)} bytes was changed")


def empty_payload(talk):
    topic = f"{talk.name('t')}/x"
    subscriber = Subscriber(talk, topic, qos=2)
    for qos in range(3):
        publish(talk, topic, None, qos)
    equal([m["payloadlen"] for m in subscriber.take(3)], [0, 0, 0], "payload lengths")


def utf_8_topics(talk):
    for text in ("straße/größe", "路/岸", "🚢/⚓", "space in/topic"):
        topic = f"{talk.name('t')}/{text}"
        subscriber = Subscriber(talk, topic)
        publish(talk, topic, text, 1)
        [message] = subscriber.take(1)
        equal((message["topic"], message["payload"]), (topic, text), "message")


def burst(talk, qos):
    topic = f"{talk.name('t')}/x"
    subscriber = Subscriber(talk, topic, qos=qos)
    lines = b"".join(b"%d\n" % number for number in range(BURST))
    run(talk, "mosquitto_pub", "-t", topic, "-q", str(qos), "-l", stdin=lines)
    equal([int(m["payload"]) for m in subscriber.take(BURST)], list(range(BURST)), "messages in order")


def burst_qos_0(talk):
    burst(talk, 0)


def burst_qos_1(talk):
    burst(talk, 1)


def burst_qos_2(talk):
    burst(talk, 2)


def user_properties(talk):
    topic = f"{talk.name('t')}/x"
    subscriber = Subscriber(talk, topic)
    publish(talk, topic, "x", 1, "-D", "publish", "user-property", "key", "ü", "-D", "publish", "content-type", "text/plain")
    [message] = subscriber.take(1)
    found = message["properties"]
    equal((found["user-properties"], found["content-type"]), ({"key": "ü"}, "text/plain"), "properties")


def request_response(talk):
    root = talk.name("t")
    server = Subscriber(talk, f"{root}/questions")
    options = ("-t", f"{root}/questions", "-e", f"{root}/answers", "-m", "?", "-q", "1", "-W", str(int(DEADLINE_S)))
    extra = ("-D", "publish", "correlation-data", "42") if talk.v5 else ()
    asker = subprocess.Popen(talk.command("mosquitto_rr", *options, *extra), stdout=subprocess.PIPE)
    talk.later(asker.kill)
    [question] = server.take(1)
    if talk.v5:
        found = question["properties"]
        equal((found["response-topic"], found["correlation-data"]), (f"{root}/answers", "42"), "properties")
    publish(talk, f"{root}/answers", "!", 1)
    equal(asker.communicate(timeout=DEADLINE_S)[0], b"!\n", "what mosquitto_rr printed")


def message_expiry(talk):
    topic = f"{talk.name('t')}/x"
    subscriber = Subscriber(talk, topic)
    publish(talk, topic, "x", 1, "-D", "publish", "message-expiry-interval", "100")
    [message] = subscriber.take(1)
    rest = message["properties"]["message-expiry-interval"]
    check(95 <= rest <= 100, f"an interval of 100 s arrives as {rest} s")


def attempt(talk, host, tls):
    """A mosquitto_pub that must not get in; returns what it says."""
    options = ("-t", talk.name("t"), "-m", "x", "-q", "1", "-d")
    command = talk.command("mosquitto_pub", *options, host=host, tls=tls)
    try:
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"mosquitto_pub took more than {DEADLINE_S:g} s to see that it is refused") from late
    check(done.returncode != 0, "mosquitto_pub was let in")
    return (done.stdout + done.stderr).decode()


def welcome(talk):
    """The server is unharmed."""
    qos_each_way(talk)


class Programs(Talk):
    """A talk whose clients are programs in a folder."""

    def __init__(self, arguments, v5):
        super().__init__(arguments)
        self.folder = arguments.programs
        self.v5 = v5

    def command(self, program, *arguments, host=None, tls=None):
        version = "mqttv5" if self.v5 else "mqttv311"
        return [
            os.path.join(self.folder, program), "-h", host or self.host, "-p", str(self.port), "-V", version,
            *self.security(tls or self.tls), *arguments,
        ]  # fmt: skip

    def security(self, tls):
        """Both versions of TLS come to be spoken: 1.2 with 3.1.1 of MQTT, and 1.3 with 5."""
        if not tls:
            return []
        options = ["--cafile", tls.authority_file(), "--tls-version", "tlsv1.3" if self.v5 else "tlsv1.2"]
        for option, file in zip(("--cert", "--key"), tls.certificate_files()):
            options += [option, file]
        return options


BOTH = [
    qos_each_way, wildcards, retained, will_on_cut, no_will_after_disconnect, resume_queued, take_over,
    shared_subscription, large_payload, empty_payload, utf_8_topics, burst_qos_0, burst_qos_1, burst_qos_2,
    request_response,
]  # fmt: skip
ONLY_5 = [user_properties, message_expiry]


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--programs", default="/usr/bin", help="folder of mosquitto_pub and the others")
    arguments = arguments.parse_args()
    codes = []
    for v5 in (False, True):
        print("5" if v5 else "3.1.1")
        scenarios = [*refusals(attempt), welcome] if arguments.refusals else BOTH + (ONLY_5 if v5 else [])
        codes.append(converse(scenarios, Programs(arguments, v5), arguments))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
