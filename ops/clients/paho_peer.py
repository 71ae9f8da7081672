"""One paho client as the scenarios need it: calls that return when the server has answered."""

import socket

from conversation import DEADLINE_S, Failure, check
from paho.mqtt import client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

EXPIRY_S = 120


def properties(packet, **values):
    """Properties of one packet type; several values of a name are given as a list."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Peer:
    """A client that connects when made, and is closed when the scenario ends."""

    def __init__(self, talk, name, *, durable=False, keepalive=30, will=None, connect=None, manual_ack=False, client_id=None):
        self.talk = talk
        self.durable = durable
        self.keepalive = keepalive
        self.connect_properties = dict(connect or {})
        self.client_id = talk.name(name) if client_id is None else client_id
        self.signal = talk.signal
        self.messages = []
        self.connack = None
        self.connected = False
        self.disconnect_reason = None
        self.answers = {}
        settings = {} if talk.v5 else {"clean_session": not durable}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=mqtt.MQTTv5 if talk.v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=manual_ack,
            **settings,
        )
        if talk.tls:
            self.client.tls_set_context(talk.tls.context())
        self.client.max_inflight_messages_set(100)
        self.client.max_queued_messages_set(0)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_answer
        self.client.on_unsubscribe = self._on_answer
        if will is not None:
            self.client.will_set(*will)
        talk.later(self.close)
        self.connect()

    def connect(self, *, clean=None):
        """Connects, or connects again with the state that the client has. Returns Session Present."""
        arguments = {}
        if self.talk.v5:
            values = dict(self.connect_properties)
            if self.durable:
                values.setdefault("SessionExpiryInterval", EXPIRY_S)
            arguments["clean_start"] = (not self.durable) if clean is None else clean
            arguments["properties"] = properties(PacketTypes.CONNECT, **values)
        self.connack = None
        self.disconnect_reason = None
        self.client.connect(self.talk.host, self.talk.port, self.keepalive, **arguments)
        self.client.loop_start()
        self.signal.wait(lambda: self.connack is not None, f"the CONNACK of {self.client_id}")
        flags, reason, _ = self.connack
        check(not reason.is_failure, f"CONNACK of {self.client_id}: {reason}")
        return flags.session_present

    def cut(self):
        """Ends the connection without DISCONNECT."""
        self.client.socket().shutdown(socket.SHUT_RDWR)
        self.wait_closed()

    def wait_closed(self, deadline_s=DEADLINE_S):
        """Waits for the end of the connection, whoever ends it."""
        self.signal.wait(lambda: not self.connected, f"the end of {self.client_id}'s connection", deadline_s)
        self.client.loop_stop()

    def disconnect(self):
        """DISCONNECT, normal."""
        self.client.disconnect()
        self.wait_closed()

    def close(self):
        """At the end of a scenario: leaves nothing behind, no session either."""
        if self.connected:
            self.disconnect()
        if self.durable:
            self.durable = False
            self.connect_properties.pop("SessionExpiryInterval", None)
            if not self.talk.v5:
                self.client._clean_session = True
            self.connect(clean=True)
            self.disconnect()

    def subscribe(self, *filters, properties=None):
        """Each filter is (text, QoS or SubscribeOptions). Returns the reason codes as numbers."""
        if self.talk.v5:
            filters = [
                (text, option if isinstance(option, mqtt.SubscribeOptions) else mqtt.SubscribeOptions(qos=option))
                for text, option in filters
            ]
        result, mid = self.client.subscribe(list(filters), properties=properties)
        check(result == mqtt.MQTT_ERR_SUCCESS, f"subscribe says {mqtt.error_string(result)}")
        return self._answer(mid, "SUBACK")

    def unsubscribe(self, *filters):
        """Returns the reason codes as numbers."""
        result, mid = self.client.unsubscribe(list(filters))
        check(result == mqtt.MQTT_ERR_SUCCESS, f"unsubscribe says {mqtt.error_string(result)}")
        return self._answer(mid, "UNSUBACK")

    def send(self, topic, payload, qos=0, retain=False, **values):
        """Publishes without waiting; the rest are properties."""
        made = properties(PacketTypes.PUBLISH, **values) if self.talk.v5 and values else None
        return self.client.publish(topic, payload, qos, retain, properties=made)

    def publish(self, topic, payload, qos=0, retain=False, **values):
        """Publishes and waits for the acknowledgement that the QoS has."""
        self.finish([self.send(topic, payload, qos, retain, **values)])

    def finish(self, sent, deadline_s=DEADLINE_S):
        """Waits until everything sent is acknowledged."""
        for info in sent:
            info.wait_for_publish(deadline_s)
            if not info.is_published():
                raise Failure(f"waited {deadline_s:g} s for the acknowledgement of message {info.mid}")

    def wait_messages(self, count, deadline_s=DEADLINE_S):
        """Waits for so many messages since the last `take`."""
        self.signal.wait(
            lambda: len(self.messages) >= count,
            lambda: f"{count} messages at {self.client_id}; {len(self.messages)} came",
            deadline_s,
        )

    def take(self, count, deadline_s=DEADLINE_S):
        """Waits for the messages, fails when there are more by then, and forgets them."""
        self.wait_messages(count, deadline_s)
        with self.signal:
            messages, self.messages = self.messages, []
        check(len(messages) == count, f"{len(messages)} messages at {self.client_id}, not {count}")
        return messages

    def fence(self):
        """Returns when whatever the server had sent us before is here: a message to ourselves has come after it."""
        topic = f"{self.talk.name('fence')}/{self.client_id}"
        self.subscribe((topic, 1))
        self.publish(topic, b"fence", 1)
        self.signal.wait(lambda: any(m.topic == topic for m in self.messages), "our own message")
        self.unsubscribe(topic)
        with self.signal:
            self.messages = [m for m in self.messages if m.topic != topic]

    def nothing_came(self):
        """Fails when anything is here, or on its way."""
        self.fence()
        check(not self.messages, f"{self.client_id} got {[(m.topic, m.payload[:20]) for m in self.messages]}")

    def _answer(self, mid, what):
        self.signal.wait(lambda: mid in self.answers, f"the {what} of {self.client_id}")
        return [code.value for code in self.answers.pop(mid)]

    def _on_connect(self, _client, _data, flags, reason, answer):
        with self.signal:
            self.connack = (flags, reason, answer)
            self.connected = not reason.is_failure
            self.signal.changed()

    def _on_disconnect(self, _client, _data, _flags, reason, _properties):
        with self.signal:
            self.connected = False
            if self.disconnect_reason is None:  # what a DISCONNECT of the server said, not the end of the socket after it
                self.disconnect_reason = reason.value
            self.signal.changed()

    def _on_message(self, _client, _data, message):
        with self.signal:
            self.messages.append(message)
            self.signal.changed()

    def _on_answer(self, _client, _data, mid, reasons, _properties):
        with self.signal:
            self.answers[mid] = reasons
            self.signal.changed()
