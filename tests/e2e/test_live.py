"""Capturing from interfaces end to end, beside the server whose log is the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import Lab
from tests.e2e.test_mirror import settle, told

Build = Callable[..., Lab]
NET_RAW = "net_raw"


@pytest.mark.parametrize("devices", ["eth0", "eth*,lo", "10.66.1.2"])
def test_every_request_is_one_call(lab: Build, devices: str) -> None:
    one = lab("--offload", "host")
    with one.appliance(
        where="server1", SNIFFER_ENGINE="live", NET_DEVICE=devices, APP_PORTS="80"
    ) as appliance:
        one.curl("http://10.66.1.2/large?n=1", "http://[fd66:1::2]/page?n=2")
        one.wrk("http://10.66.1.2", "page", 2, connections=4)
        settle()
        said = appliance.stop()
    assert appliance.heard() == told(one)
    assert sum(appliance.heard().values()) > 500
    assert appliance.count("frame_kernel_dropped") == 0
    assert "the ledger adds up" in said
    assert appliance.ended == 0


def test_net_raw_is_enough_and_without_it_one_line_says_so(lab: Build) -> None:
    one = lab()
    settings = {"SNIFFER_ENGINE": "live", "NET_DEVICE": "eth0", "SNIFFER_PROMISC_ENABLED": "true"}
    with one.appliance(user="65534", capability=NET_RAW, where="server1", **settings) as appliance:
        status = Path(f"/proc/{appliance.pid}/status").read_text()
        assert "CapEff:\t0000000000002000" in status
        one.curl("http://10.66.1.2/page?n=1")
        settle()
        appliance.stop()
    assert appliance.heard() == told(one)
    with (
        pytest.raises(AssertionError, match="needs the capability CAP_NET_RAW"),
        one.appliance(user="65534", where="server1", **settings),
    ):
        pass


def test_an_unknown_interface_is_an_error_that_lists_those_there_are(lab: Build) -> None:
    one = lab()
    with (
        pytest.raises(AssertionError, match=r"no interface is meant by 'eth9'; there are: lo, .*eth0"),
        one.appliance(where="server1", SNIFFER_ENGINE="live", NET_DEVICE="eth9"),
    ):
        pass


def test_an_interface_that_appears_is_captured(lab: Build) -> None:
    one = lab()
    with one.appliance(where="server1", SNIFFER_ENGINE="live", NET_DEVICE="eth*") as appliance:
        one.run("server1", "ip", "link", "add", "eth7", "type", "veth", "peer", "name", "other", "netns",
                f"{one.name}-client")  # fmt: skip
        one.run("server1", "ip", "addr", "add", "10.99.0.2/24", "dev", "eth7")
        one.run("server1", "ip", "link", "set", "eth7", "up")
        one.run("client", "ip", "addr", "add", "10.99.0.1/24", "dev", "other")
        one.run("client", "ip", "link", "set", "other", "up")
        appliance.wait_for("eth7 appeared")
        one.curl("http://10.99.0.2/page?n=1")
        settle()
        one.run("server1", "ip", "link", "del", "eth7")
        appliance.wait_for("eth7 vanished")
        appliance.stop()
    assert appliance.heard() == told(one)
    assert sum(appliance.heard().values()) == 1
