"""A node for a while, and some clients that give it a little of everything to do: so that every metric moves."""

import contextlib
import os
import pathlib
import ssl
import subprocess
import threading
import urllib.request

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes

from common import NODE, SCRATCH, free_ports, started, until

CERTIFICATES = pathlib.Path(os.environ.get("CHART_CERTIFICATES", "."))
CONFIGURATION = """
[node]
cores = 2
[io]
backend = "{backend}"
[listeners]
tcp = ["127.0.0.1:{tcp}"]
websocket = ["127.0.0.1:{websocket}"]
tls = ["127.0.0.1:{tls}"]
websocket_tls = ["127.0.0.1:{websocket_tls}"]
quic = ["127.0.0.1:{tls}"]
[tls]
certificates = ["{certificates}/server.pem"]
keys = ["{certificates}/server.key"]
[access]
methods = ["password", "token"]
password_file = "{folder}/users"
[token]
jwks_url = "http://localhost:9/keys"
[admin]
address = "127.0.0.1:{admin}"
monitoring_address = "127.0.0.1:{monitoring}"
[engine]
path = "{folder}/data"
"""


def configured(name, backend, again):
    """A folder with a configuration, and the ports in it. `again`: on the store that was there before."""
    folder = SCRATCH / name
    if not again:
        subprocess.run(["rm", "-rf", folder], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("tcp", "websocket", "tls", "websocket_tls", "admin", "monitoring")
    ports = dict(zip(names, free_ports(len(names))))
    subprocess.run([NODE, "passwd", folder / "users", "alice"], input="secret\n", text=True, check=True, capture_output=True)
    text = CONFIGURATION.format(**ports, certificates=CERTIFICATES, folder=folder, backend=backend)
    (folder / "roadstead.toml").write_text(text)
    return folder / "roadstead.toml", ports


def answers(address):
    """True when something answers 200 there."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return answer.status == 200
    return False


@contextlib.contextmanager
def node(name, backend="auto", again=False, **options):
    """A node, its ports and its log."""
    config, ports = configured(name, backend, again)
    with started(name, NODE, "--config", config, **options) as (child, log):

        def ready():
            if child.poll() is not None:
                raise SystemExit(f"{name} ended with {child.returncode}: {log.read_text()}")
            return answers(f"http://127.0.0.1:{ports['monitoring']}/readyz")

        until(ready, 30, f"{name} is ready")
        yield child, ports, log


def client(port, name, version=paho.MQTTv5, secure=False, websocket=False, expiry=0):
    """A client that is connected; `received` counts its messages."""
    transport = "websockets" if websocket else "tcp"
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=version, transport=transport)
    if websocket:
        # A browser has an origin, and a page of elsewhere may not come in from this machine; we are no browser.
        made.ws_set_options("/mqtt", lambda headers: {key: value for key, value in headers.items() if key != "Origin"})
    if secure:
        made.tls_set_context(ssl.create_default_context(cafile=CERTIFICATES / "authority.pem"))
        made.username_pw_set("alice", "secret")
    made.received = 0

    def on_message(*_):
        made.received += 1

    made.on_message = on_message
    options = {}
    if version == paho.MQTTv5:
        options["properties"] = Properties(PacketTypes.CONNECT)
        options["properties"].SessionExpiryInterval = expiry
        options["clean_start"] = False
    made.connect("localhost" if secure else "127.0.0.1", port, **options)
    made.loop_start()
    until(made.is_connected, 10, f"{name} is connected")
    return made


@contextlib.contextmanager
def crowd(ports):
    """Clients of each kind that publish to each other until the end of this. Yields how to see how much came through."""
    clients = [
        client(ports["tcp"], "plain"),
        client(ports["tcp"], "older", version=paho.MQTTv311),
        client(ports["tcp"], "durable", expiry=3600),
        client(ports["websocket"], "page", websocket=True),
        client(ports["tls"], "secure", secure=True),
        client(ports["websocket_tls"], "secure-page", secure=True, websocket=True),
    ]
    subscribed = threading.Semaphore(0)
    for each in clients:
        each.on_subscribe = lambda *_: subscribed.release()
        each.subscribe("chart/load/#", qos=2)
    assert all(subscribed.acquire(timeout=10) for _ in clients), "a subscription was not answered"
    away = client(ports["tcp"], "away", expiry=3600)
    away.subscribe("chart/load/#", qos=1)
    end = threading.Event()

    def publish():
        number = 0
        while not end.wait(0.01):
            for at, each in enumerate(clients):
                each.publish(f"chart/load/{at}", f"message {number}", qos=number % 3, retain=number % 10 == 0)
            number += 1

    worker = threading.Thread(target=publish, daemon=True)
    worker.start()
    until(lambda: away.received > 5, 20, "messages arrive")
    away.disconnect()
    away.loop_stop()
    try:
        yield clients
    finally:
        end.set()
        worker.join()
        for each in clients:
            each.disconnect()
            each.loop_stop()
