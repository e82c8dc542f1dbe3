"""A mirror target end to end: each request that nginx answered is exactly one call, or is named as lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.e2e.lab import Call, Lab

Build = Callable[..., Lab]


def _target(message: dict[str, str]) -> str:
    return f"/large?n={message.get('request_param:n', '')}"


def len_of_large(lab: Lab) -> int:
    return (lab.folder / "www" / "large").stat().st_size


def settle() -> None:
    """What the kernel still carries arrives; what waits a second in a bundle is written."""
    time.sleep(0.5)


def told(lab: Lab, sources: int = 1) -> Counter[Call]:
    return Counter(line.call for n in range(1, sources + 1) for line in lab.truth(n))


def test_every_request_of_several_sources_is_one_call_by_both_ip_versions(lab: Build) -> None:
    one = lab(sources=2)
    with one.appliance() as appliance:
        one.curl("http://10.66.1.2/small?n=a", "http://10.66.1.2/page?n=b", "http://10.66.1.2/none?n=c")
        one.curl("http://[fd66:2::2]/large?n=d", "http://[fd66:2::2]/small?n=e")
        one.wrk("http://10.66.1.2", "page", 2)
        one.wrk("http://[fd66:2::2]", "small", 2)
        settle()
        said = appliance.stop()
    expected = told(one, 2)
    assert sum(expected.values()) > 2_000
    assert appliance.heard() == expected
    assert appliance.ended == 0, said
    assert "the ledger adds up" in said
    assert appliance.count("frame_kernel_dropped") == 0
    assert {"VNI 123: the first frames", "VNI 124: the first frames"} <= {
        line[len("appliance: ") :][: len("VNI 123: the first frames")] for line in said.splitlines()
    }


def test_frames_cut_at_the_targets_mtu_are_calls_that_say_so(lab: Build) -> None:
    """AWS truncates jumbo frames to the target's MTU and does not mend what is in them."""
    one = lab("--mtu", "9001", "--truncate", "8951")
    with one.appliance() as appliance:
        for n in range(20):
            one.curl(f"http://10.66.1.2/large?n={n}", f"http://10.66.1.2/small?n=s{n}")
        settle()
        said = appliance.stop()
    expected = told(one)
    assert Counter(call[:3] for call in appliance.heard().elements()) == Counter(
        call[:3] for call in expected.elements()
    )
    large = [message for message in appliance.messages() if "/large" in message["request_url"]]
    assert all("response-truncated" in message["custom_field:flaws"] for message in large), large[0].get(
        "custom_field:flaws"
    )
    assert appliance.count("gap_truncated_bytes") > 0
    assert "the ledger adds up" in said


def test_super_frames_of_64_kib_come_whole(lab: Build) -> None:
    one = lab("--offload", "raw")
    with one.appliance() as appliance:
        one.curl(*(f"http://10.66.1.2/large?n={n}" for n in range(100)))
        settle()
        appliance.stop()
    assert appliance.heard() == told(one)
    assert sum(appliance.heard().values()) == 100
    assert appliance.count("segment_bytes") / appliance.count("segments") > 4_000  # they were large


def test_more_than_it_can_take_is_named(lab: Build) -> None:
    """4 Gbit/s for one worker with a small buffer: what is missing is in the ledger, the rest is right."""
    one = lab("--offload", "raw")
    with one.appliance(SNIFFER_WORKERS="1", SNIFFER_RECEIVE_BUFFER="1mb") as appliance:
        one.wrk("http://10.66.1.2", "large", 2, connections=4)
        settle()
        said = appliance.stop()
    assert appliance.count("frame_kernel_dropped") > 0
    assert appliance.count("gap_acked_bytes") > 0  # as a mirror's own silent drops would show
    assert "the ledger adds up" in said
    truth = {call[:3] for call in told(one)}
    flawed = {"gap", "orphan", "resynchronised", "head", "truncated", "unanswered"}
    flawed |= {"unfinished"}  # wrk resets its connections at its end, in the middle of an answer
    for message in appliance.messages():
        call = (message.get("request_method", ""), _target(message), message.get("response_code", ""))
        flaws = message.get("custom_field:flaws", "")
        whole = call in truth and len(message.get("response_body", "")) == len_of_large(one)
        assert whole or any(name in flaws for name in flawed), (call, flaws)


def test_an_ordinary_user_without_any_capability_can_run_it(lab: Build) -> None:
    one = lab()
    with one.appliance(user="65534") as appliance:
        status = Path(f"/proc/{appliance.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "Uid:\t65534" in status
        one.curl("http://10.66.1.2/page?n=1", "http://10.66.1.2/large?n=2")
        settle()
        said = appliance.stop()
    assert appliance.heard() == told(one)
    assert "sysctl -w net.core.rmem_max=" in said


def test_sigterm_under_load_leaves_nothing_that_was_answered_before(lab: Build) -> None:
    one = lab()
    with one.appliance() as appliance:
        load = one.start("client", *one.wrk_command("http://10.66.1.2", "page", 6))
        time.sleep(3)
        asked = time.time()
        appliance.signal(signal.SIGTERM)
        appliance.ended = appliance.process.wait(30)
        said = appliance.said()
        load.wait(30)
    truth = one.truth()
    before = Counter(line.call for line in truth if line.time < asked - 0.1)
    heard = appliance.heard()
    assert sum(before.values()) > 1_000
    assert not before - heard, f"{sum((before - heard).values())} lost: {said}"
    answered = Counter({call: n for call, n in heard.items() if call[2]})
    assert not answered - Counter(line.call for line in truth)  # nothing invented, nothing twice
    assert "the ledger adds up" in said
    assert appliance.ended == 0


def test_a_worker_that_is_killed_under_load_is_replaced_and_its_loss_is_named(lab: Build) -> None:
    one = lab()
    with one.appliance() as appliance:
        load = one.start("client", *one.wrk_command("http://10.66.1.2", "page", 4))
        time.sleep(2)
        killed = appliance.workers()[0]
        os.kill(killed, signal.SIGKILL)
        load.wait(30)
        appliance.wait_for("was killed by SIGKILL")
        settle()
        during = one.truth()
        one.wrk("http://10.66.1.2", "small", 2)
        settle()
        said = appliance.stop()
        assert killed not in appliance.workers() if appliance.process.poll() is None else True
    truth, heard = told(one), appliance.heard(torn=1)
    after = truth - Counter(line.call for line in during)
    assert sum(after.values()) > 1_000
    assert not after - heard, "a worker that was started again has its share"
    answered = Counter({call: n for call, n in heard.items() if call[0] and call[2]})
    assert {call[:3] for call in answered} <= {call[:3] for call in truth}  # a killed worker cut some bodies
    assert max(answered.values()) == 1  # nothing twice
    assert "the ledger adds up" in said
    assert appliance.count("flow_worker_lost") > 0
    assert appliance.count("frame_kernel_dropped") == 0  # they waited in the socket


def test_workers_whose_supervisor_is_killed_finish_what_they_have_and_free_the_port(lab: Build) -> None:
    one = lab()
    with one.appliance(SNIFFER_DRAIN_SECONDS="5") as appliance:
        load = one.start("client", *one.wrk_command("http://10.66.1.2", "page", 5))
        time.sleep(2)
        workers = appliance.workers()
        killed = time.time()
        appliance.signal(signal.SIGKILL)
        appliance.process.wait(10)
        until = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        load.wait(30)
    before = Counter(line.call for line in one.truth() if line.time < killed - 0.1)
    assert sum(before.values()) > 500
    assert not before - appliance.heard()
    with one.appliance() as again:
        one.curl("http://10.66.1.2/small?n=again")
        settle()
        again.stop()
    assert sum(again.heard().values()) >= 1


def test_vnis_are_followed_in_their_file_and_those_not_selected_are_named(lab: Build, tmp_path: Path) -> None:
    one = lab(sources=2)
    vnis = tmp_path / "vnis"
    vnis.write_text("123\n")
    with one.appliance(SNIFFER_MIRROR_VNIS=f"file://{vnis}") as appliance:
        first = "http://10.66.1.2/small?n="
        second = "http://10.66.2.2/small?n="
        one.curl(first + "a", second + "b")
        appliance.wait_for("VNI 124 arrives and is not selected")
        held = one.start(
            "client", "curl", "-s", "-o", "/dev/null", "--rate", "20/m", first + "before", "-o", "/dev/null",
            first + "while", "-o", "/dev/null", first + "after", "-o", "/dev/null", first + "later",
        )  # fmt: skip
        time.sleep(0.5)
        vnis.write_text("123, 124\n")
        appliance.wait_for("reloaded")
        one.curl(second + "c")
        held.wait(20)
        vnis.write_text("nonsense\n")
        appliance.wait_for("not reloaded, all stays as it was")
        one.curl(second + "d")
        settle()
        said = appliance.stop()
    assert {target.partition("n=")[2] for _, target, _, _ in appliance.heard()} == {
        "a", "before", "while", "after", "later", "c", "d",
    }  # fmt: skip
    assert appliance.count("midstream") == 0  # no connection was lost
    assert "the ledger adds up" in said


def test_rules_and_ports_change_in_their_files_without_losing_a_connection(
    lab: Build, tmp_path: Path
) -> None:
    one = lab()
    rules, ports = tmp_path / "rules", tmp_path / "ports"
    rules.write_text("include debug\n")
    ports.write_text("80\n443\n")
    settings = {"USAGE_LOGGERS_RULES": f"file://{rules}", "APP_PORTS": f"file://{ports}"}
    url = "http://10.66.1.2/small?n="
    with one.appliance(**settings) as appliance:
        held = one.start(
            "client", "curl", "-s", "-o", "/dev/null", "--rate", "20/m", url + "1", "-o", "/dev/null",
            url + "2", "-o", "/dev/null", url + "3",
        )  # fmt: skip
        time.sleep(0.5)
        rules.write_text("include debug\n/response_body/ remove\n")
        appliance.wait_for("reloaded")
        held.wait(20)
        rules.write_text("include debuging\n")
        appliance.wait_for("not reloaded, all stays as it was")
        ports.write_text("81\n")
        rules.write_text("include debug\n/response_body/ remove\n")
        appliance.signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while appliance.said().count("appliance: reloaded") < 2 and time.monotonic() < until:
            time.sleep(0.05)
        one.curl(url + "none")
        settle()
        said = appliance.stop()
    bodies = {message["request_param:n"]: "response_body" in message for message in appliance.messages()}
    assert bodies == {"1": True, "2": False, "3": False}
    assert appliance.count("midstream") == 0
    assert appliance.count("frame_port_not_selected") > 0
    assert "the ledger adds up" in said
