"""What the Python conversations share: the list of scenarios with its runner, and waiting.

Nothing here sleeps to let something happen: a wait has a condition and a deadline, and says what it waited for.
"""

import argparse
import os
import ssl
import sys
import threading
import time
import traceback
from typing import NamedTuple

DEADLINE_S = 15.0


class Failure(Exception):
    """The server did something else than the scenario says."""


def check(condition, message):
    """Fails the scenario with `message` unless the condition holds."""
    if not condition:
        raise Failure(message)


def equal(got, wanted, what):
    """Fails the scenario unless both are equal."""
    if got != wanted:
        raise Failure(f"{what}: got {shorten(got)}, not {shorten(wanted)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:120]}… ({len(text)} characters)"


class Signal:
    """A condition variable that is told of every change, and waited on with a predicate."""

    def __init__(self):
        self._condition = threading.Condition()

    def __enter__(self):
        return self._condition.__enter__()

    def __exit__(self, *exception):
        return self._condition.__exit__(*exception)

    def changed(self):
        """To be called with the signal held."""
        self._condition.notify_all()

    def wait(self, predicate, what, deadline_s=DEADLINE_S):
        """Returns once the predicate holds; fails the scenario after the deadline."""
        with self._condition:
            if not self._condition.wait_for(predicate, deadline_s):
                found = what() if callable(what) else what
                raise Failure(f"waited {deadline_s:g} s for {found}")


class Tls(NamedTuple):
    """What a client over TLS trusts and shows: names of files in a folder, without their endings."""

    folder: str
    authority: str = "authority"
    certificate: str | None = None

    def file(self, name):
        return os.path.join(self.folder, name)

    def authority_file(self):
        return self.file(f"{self.authority}.pem")

    def certificate_files(self):
        """Certificate and key, or nothing."""
        name = self.certificate
        return (self.file(f"{name}.pem"), self.file(f"{name}.key")) if name else ()

    def context(self):
        context = ssl.create_default_context(cafile=self.authority_file())
        if self.certificate:
            context.load_cert_chain(*self.certificate_files())
        return context


class Talk:
    """Where the server is, and names that no other run or scenario uses."""

    def __init__(self, arguments):
        self.host = arguments.host
        self.port = arguments.port
        self.tls = Tls(arguments.tls, certificate=arguments.certificate) if arguments.tls else None
        self.token = os.urandom(4).hex()
        self.scenario = ""
        self.signal = Signal()
        self._closers = []

    def name(self, suffix):
        """A client identifier or first level of a topic of this scenario."""
        return f"{self.scenario}-{self.token}-{suffix}"

    def later(self, closer):
        """Something to do at the end of the scenario, whatever becomes of it."""
        self._closers.append(closer)

    def close(self):
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:  # a closer that fails must not hide the result
                print(f"  (closing: {error!r})", file=sys.stderr)


def parser(description):
    """The arguments that every conversation takes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=1883)
    arguments.add_argument("--ws-port", type=int, help="for clients that speak over WebSocket; others ignore it")
    arguments.add_argument("--tls", metavar="FOLDER", help="speak TLS; the folder is what `certificates` has made")
    arguments.add_argument("--certificate", metavar="NAME", help="show this certificate of the folder")
    arguments.add_argument("--refusals", action="store_true", help="instead of the conversation: who must not get in")
    arguments.add_argument("--only", default="", help="scenarios whose name contains this")
    arguments.add_argument("--known", default="", help="scenarios, with commas between, that this server is known to fail")
    return arguments


def converse(scenarios, talk, arguments):
    """Runs the scenarios, prints a line for each, returns the exit code."""
    known = arguments.known.split(",")
    failed = 0
    for scenario in scenarios:
        name = scenario.__name__.replace("_", "-")
        if arguments.only not in name:
            continue
        talk.scenario = name
        start = time.monotonic()
        try:
            scenario(talk)
            print(f"ok {name} ({time.monotonic() - start:.2f} s)", flush=True)
        except Failure as failure:
            failed += name not in known
            print(f"{'known' if name in known else 'FAIL'} {name}: {failure}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL {name}: {error!r}", flush=True)
            traceback.print_exc()
        finally:
            talk.close()
    return 1 if failed else 0


class Refusal(NamedTuple):
    """A client that must not get in: where it connects, what it trusts and shows, and what it says when it fails."""

    name: str
    host: str
    authority: str
    certificate: str | None
    says: str


# The server asks for a certificate. It has two of its own: as `localhost` a good one, and as 127.0.0.1 one that has expired.
# The first two clients have to leave by themselves; the others are told by an alert.
REFUSALS = [
    Refusal("server-of-another-authority", "localhost", "stranger", "client", "certificate verify failed"),
    Refusal("server-expired", "127.0.0.1", "authority", "client", "certificate verify failed"),
    Refusal("client-without-certificate", "localhost", "authority", None, "alert certificate required"),
    Refusal("client-of-another-authority", "localhost", "authority", "strange-client", "alert unknown ca"),
    Refusal("client-expired", "localhost", "authority", "expired-client", "alert certificate expired"),
    Refusal("client-revoked", "localhost", "authority", "revoked-client", "alert certificate revoked"),
]


def refusals(attempt):
    """Scenarios in which `attempt(talk, host, tls)` fails; what it returns has to hold what the refusal says."""

    def scenario_of(refusal):
        def scenario(talk):
            said = attempt(talk, refusal.host, talk.tls._replace(authority=refusal.authority, certificate=refusal.certificate))
            words = said.lower().replace("_", " ")
            check(refusal.says in words, f"the client does not say “{refusal.says}”, but: {shorten(said)}")

        scenario.__name__ = refusal.name
        return scenario

    return [scenario_of(refusal) for refusal in REFUSALS]
