"""A database that is gone and comes back: every request of nginx's log is in it, and nothing is shed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.e2e.lab import Call, Lab, heard
from tests.e2e.test_mirror import settle, told

Build = Callable[..., Lab]


def stored(path: Path) -> Counter[Call]:
    whole = path.read_text().rpartition("\n")[0]  # the last line may be half written
    lines = [line for line in whole.split("\n") if line.startswith("[[")]
    return Counter(heard(dict(json.loads(line))) for line in lines)


def settings(folder: Path, **more: str) -> dict[str, str]:
    return {
        "SNIFFER_SINKS": "resurface",
        "USAGE_LOGGERS_URL": "http://127.0.0.1:7701/message",
        "USAGE_LOGGERS_RULES": "include debug\nallow_http_url",
        "USAGE_LOGGERS_BUNDLE_SIZE": "64k",
        "USAGE_LOGGERS_BUNDLE_QUEUE_SIZE": "2",
        "SNIFFER_SPOOL_DIR": str(folder / "spool"),
        "SNIFFER_DRAIN_SECONDS": "1",
    } | more


def test_a_database_that_is_gone_at_the_start_gets_all_from_the_next_run(lab: Build, tmp_path: Path) -> None:
    one = lab()
    with one.appliance(**settings(tmp_path)) as appliance:
        one.wrk("http://10.66.1.2", "page", 2)
        settle()
        said = appliance.stop()
    assert appliance.ended == 0, said
    assert "the ledger adds up" in said
    assert appliance.count("message_spooled") == sum(told(one).values()) > 500
    assert appliance.count("message_shed") == 0
    # With fewer workers than before: what the second one left is for the first.
    later = settings(tmp_path, SNIFFER_WORKERS="1", SNIFFER_DRAIN_SECONDS="20")
    with one.database() as database, one.appliance(**later) as appliance:
        one.curl("http://10.66.1.2/small?n=new")
        until = time.monotonic() + 30
        while stored(database) != told(one) and time.monotonic() < until:
            time.sleep(0.2)
        said = appliance.stop()
        assert stored(database) == told(one)
    assert "worker-1.db" in said
    assert appliance.count("message_delivered") == sum(told(one).values())
    assert appliance.count("message_restored") == sum(told(one).values()) - 1
    assert "the ledger adds up" in said


def test_what_was_on_disk_survives_kill_9_of_everything(lab: Build, tmp_path: Path) -> None:
    one = lab()
    with one.appliance(**settings(tmp_path)) as appliance:
        one.wrk("http://10.66.1.2", "page", 2)
        time.sleep(2)  # all but what the queue holds is on disk
        for pid in [*appliance.workers(), appliance.pid]:
            os.kill(pid, signal.SIGKILL)
        appliance.process.wait(10)
    with one.database() as database, one.appliance(**settings(tmp_path, SNIFFER_DRAIN_SECONDS="20")) as again:
        waiting = int(next(line for line in again.said().splitlines() if "wait in" in line).split()[1])
        until = time.monotonic() + 30
        while sum(stored(database).values()) < waiting and time.monotonic() < until:
            time.sleep(0.2)
        again.stop()
        found = stored(database)
    assert sum(found.values()) == waiting > 100
    assert not found - told(one)  # nothing invented, nothing twice
    assert again.count("message_delivered") == again.count("message_restored") == waiting


def test_a_worker_that_is_killed_finds_its_spool_again(lab: Build, tmp_path: Path) -> None:
    one = lab()
    with one.appliance(**settings(tmp_path, SNIFFER_DRAIN_SECONDS="20")) as appliance:
        one.wrk("http://10.66.1.2", "page", 2)
        time.sleep(2)
        os.kill(appliance.workers()[0], signal.SIGKILL)
        appliance.wait_for("was killed by SIGKILL")
        with one.database() as database:
            one.curl("http://10.66.1.2/small?n=new")
            settle()
            said = appliance.stop()
            found = stored(database)
    assert "the ledger adds up" in said
    assert not found - told(one)
    delivered, spooled = appliance.count("message_delivered"), appliance.count("message_spooled")
    assert sum(found.values()) >= delivered > 0  # more: what was under way at the end will be sent again
    assert delivered + spooled + appliance.count("message_worker_lost") == sum(told(one).values())
