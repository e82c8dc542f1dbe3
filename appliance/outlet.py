"""What replay and run share on the way out: the rules, the publication, and the way to the sink.

Contract: what stands in the way of every upload stops the start (Refusal), with the rule or variable that
cures it; what is withheld because the user said so is said once.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from appliance import plugin
from appliance.ledger import Ledger
from appliance.message import Messages
from appliance.model import NANOSECONDS
from appliance.pipeline import OwnUploads, Publication
from appliance.policy import obstacles, rules_from
from appliance.rules.engine import Rules
from appliance.rules.grammar import RuleSet
from appliance.settings import Settings
from appliance.ship.carrier import Carrier
from appliance.ship.outside import Outside
from appliance.ship.spool import Spool, SpoolError, set_aside
from appliance.sinks.base import ROLL_SIZE, SinkOptions, Traits

AGENT: Final = "Resurface/3.3.2"  # the version of the protocol, as the predecessor's library has it
PRODUCT: Final = f"{AGENT} (vpc-mirror-appliance "
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
BUNDLE_WAIT: Final = NANOSECONDS  # as the predecessor: a call waits for others a second at most
NEEDS_URL: Final = "resurface"
PATIENCE: Final = 4.0  # seconds that a worker whose supervisor was killed may still have a spool


class Refusal(Exception):  # noqa: N818  # not a fault of ours
    """What was asked for cannot be done with these settings; one line for each reason."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def say(text: str) -> None:
    with suppress(OSError, ValueError):  # a log that cannot be written stops nothing
        sys.stderr.write(f"appliance: {text}\n")


def rules(settings: Settings) -> RuleSet:
    """Raises PolicyError."""
    found, notes = rules_from(settings.rules)
    for note in notes:
        say(note)
    return found


def engine(found: RuleSet, ledger: Ledger) -> Rules:
    return Rules(found, ledger, secrets.randbelow, time.perf_counter)


def agent() -> str:
    """User-Agent of our uploads; the number tells them from everybody else's."""
    return f"{PRODUCT}{secrets.token_hex(8)})"


def own_uploads(settings: Settings, name: str) -> OwnUploads:
    url = urlsplit(settings.url)
    port = url.port or DEFAULT_PORTS.get(url.scheme, 0)
    host = url.netloc.rpartition("@")[2].lower().removesuffix(f":{port}")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return OwnUploads(name.encode(), PRODUCT.encode(), host.encode(), port, path.encode())


def publication(settings: Settings, found: RuleSet, ledger: Ledger, name: str) -> Publication:
    """``name``: the agent's."""
    return Publication(
        Messages(settings.messages()),
        engine(found, ledger),
        ledger,
        settings.host(),
        own_uploads(settings, name),
    )


def withheld(settings: Settings, found: RuleSet, sinks: Sequence[str]) -> bool:
    """Whether the user said that nothing is to be sent. Raises Refusal where nothing could be."""
    if not settings.disable and NEEDS_URL in sinks:
        stops = obstacles(settings.url, found, settings.certificates)
        if stops:
            raise Refusal(stops)
    if settings.disable or found.has("skip_submission"):
        why = "USAGE_LOGGERS_DISABLE is set" if settings.disable else "the rule skip_submission is set"
        say(f"nothing is sent: {why}")
        return True
    return False


def prepare(settings: Settings, found: RuleSet, sinks: Sequence[str]) -> None:
    """What can be seen to fail before anything starts. Raises Refusal."""
    for sink in sinks:
        check = getattr(plugin.find("appliance.sinks", sink), "check", None)
        wrong = check(_sink_options(settings, found, "", say)) if check else ""
        if wrong:
            raise Refusal([wrong])


def spool(settings: Settings, sink: str, place: str, shares: int = 1) -> Spool | None:
    """Where one is wanted, with its share of the space; ``place``: whose it is. Raises SpoolError."""
    if not settings.spool_dir:
        return None
    return Spool(Path(settings.spool_dir) / f"{sink}-{place}.db", settings.spool_max // shares)


def prepared(open_it: Callable[[], Spool | None], sink: str) -> Spool | None:
    """What stands in its way and is not the user's to mend before the start does not stop it. SpoolError."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return open_it()
        except SpoolError as error:
            if error.full:  # capture goes on, and the sink may be well
                say(f"{error}; calls that {sink} does not take are shed")
                return None
            if error.damaged and error.path is not None:
                say(f"{error}; set aside as {set_aside(error.path)}: what it holds is not sent")
                continue
            if not error.busy or time.monotonic() >= until:
                raise
        time.sleep(0.1)


def carrier(  # noqa: PLR0913  # the parts
    settings: Settings,
    found: RuleSet,
    sinks: Sequence[str],
    name: str,
    report: Callable[[str], None],
    spools: Mapping[str, Spool | None],
) -> Carrier:
    # Loaded only here: aiohttp takes a quarter of a second.
    carriage = plugin.find("appliance.ship", "carrier")
    shipping = plugin.find("appliance.ship", "shipper")
    routes = []
    for sink in sinks:
        module = plugin.find("appliance.sinks", sink)
        traits = getattr(module, "TRAITS", Traits())
        say_of = _of(sink, report)
        routes.append(
            carriage.Route(
                sink,
                module.build(_sink_options(settings, found, name, say_of, spools.get(sink))),
                shipping.ShipperOptions(
                    settings.bundle_queue, in_flight=traits.in_flight, ahead=traits.keeps
                ),
                Outside(time.monotonic, random.random, asyncio.sleep, say_of),
                spools.get(sink),
            )
        )
    made: Carrier = carriage.Carrier(routes)
    return made


def _of(sink: str, report: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: report(f"{sink}: {text}")


def _sink_options(
    settings: Settings,
    found: RuleSet,
    name: str,
    report: Callable[[str], None],
    spool: Spool | None = None,
) -> SinkOptions:
    return SinkOptions(
        url=settings.url,
        compress=not found.has("skip_compression"),
        agent=name,
        say=report,
        lake_url=settings.lake_url,
        roll_size=min(ROLL_SIZE, spool.limit // 2) if spool else ROLL_SIZE,  # the spool has it meanwhile
        roll_age=float(settings.lake_seconds),
        lake_max=settings.lake_max,
        lake_days=settings.lake_days,
        lake_reserve=settings.lake_reserve,
    )
