"""Programs that the kernel runs on each packet: which worker gets it, and whether anybody does.

Contract: classic BPF (Linux Documentation/networking/filter.rst), as octets for ``attach``. A program that
reads beyond a packet's end returns 0, as the kernel has it: worker 0 then counts what is wrong with it.

``steering`` picks a socket of a SO_REUSEPORT group for a VXLAN (RFC 7348) or GENEVE (RFC 8926) datagram by
a *symmetric* hash of the inner addresses and ports, so that both directions of a connection come to one
worker whatever the outer ports are (design decision D4). It sees through VLAN tags, IPv4 options and
IPv6. What has no TCP ports to read (fragments, IPv6 extension headers, tunnels in the tunnel, other
protocols) goes by its addresses alone, what is not IP to worker 0: all of it to one worker, always the
same. Only a connection of which some segments are IP fragments can be split; ``SNIFFER_WORKERS=1`` cannot.

Bounds: TAGS tags; SELECTABLE entries of a VNI list, beyond which the decoder alone selects.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection
from typing import Final

from appliance.packet.vni import VniSelection

TAGS: Final = 3  # VLAN tags: 802.1ad, 802.1Q, and one for luck
SELECTABLE: Final = 256  # 5 instructions each; older kernels take 20 KiB in all (net.core.optmem_max)

SO_ATTACH_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51

# Instructions (linux/filter.h): A is the accumulator, X the index, M the scratch memory.
LD_IMM: Final = 0x00
LD_WORD: Final = 0x20
LD_HALF: Final = 0x28
LD_BYTE: Final = 0x30
LD_WORD_X: Final = 0x40
LD_HALF_X: Final = 0x48
LD_BYTE_X: Final = 0x50
LD_MEM: Final = 0x60
LDX_IMM: Final = 0x01
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
ADD: Final = 0x04
ADD_X: Final = 0x0C
MUL: Final = 0x24
AND: Final = 0x54
LSH: Final = 0x64
RSH: Final = 0x74
MOD: Final = 0x94
JUMP: Final = 0x05
JEQ: Final = 0x15
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06
RET_A: Final = 0x16
XOR_X: Final = 0xAC
TAX: Final = 0x07
TXA: Final = 0x87

_INSTRUCTION: Final = struct.Struct("=HBBI")
_NEAR: Final = 255  # instructions that a conditional jump may pass over
_CONDITIONAL: Final = frozenset({JEQ, JGE, JSET})

_ETHERTYPE_IPV4: Final = 0x0800
_ETHERTYPE_IPV6: Final = 0x86DD
_ETHERTYPES_VLAN: Final = (0x8100, 0x88A8, 0x9100, 0x9200)
_BRIDGED: Final = 0x6558  # GENEVE's protocol type for Ethernet
_TCP: Final = 6
_ETHERNET_OCTETS: Final = 14
_IPV6_OCTETS: Final = 40
_FRAGMENT: Final = 0x3FFF  # more fragments, or an offset
_TUNNEL_OCTETS: Final = 8  # of a VXLAN header, and of a GENEVE header without options
_VXLAN_I: Final = 0x08

# 2**32 / golden ratio, for the ports, and the finalizer of MurmurHash3 (fmix32).
_PORTS: Final = 0x9E3779B1
_MIX: Final = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))

_SUM: Final = 0  # scratch: sum of the addresses
_AT: Final = 1  # scratch: where the IP header begins
_PORT: Final = 2  # scratch


class Assembler:
    """Instructions one after the other; jumps go forward, to labels."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, k: int = 0) -> None:
        self._code.append((code, k, "", ""))

    def jump(self, code: int, k: int, then: str = "", otherwise: str = "") -> None:
        """A conditional jump; no label: on to the next instruction."""
        self._code.append((code, k, then, otherwise))

    def go(self, label: str) -> None:
        self._code.append((JUMP, 0, label, ""))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def program(self) -> bytes:
        """Raises OverflowError where a conditional jump is too far: a defect of the caller's."""
        out = []
        for at, (code, k, then, otherwise) in enumerate(self._code):
            ahead = [self._labels[name] - at - 1 if name else 0 for name in (then, otherwise)]
            if code == JUMP:
                out.append(_INSTRUCTION.pack(code, 0, 0, ahead[0]))
                continue
            if code in _CONDITIONAL and max(ahead) > _NEAR:
                raise OverflowError(then, otherwise)
            out.append(_INSTRUCTION.pack(code, *ahead, k & 0xFFFFFFFF))
        return b"".join(out)


def steering(
    workers: int, selection: VniSelection, *, geneve: bool, strangers: Collection[int] = ()
) -> bytes:
    """Socket 0 to ``workers`` - 1 by the inner flow; socket ``workers`` for a VNI that is not selected.

    ``strangers``: such VNIs that are known by now go to the socket after that, so that a loud one hides no
    quiet one.

    VNI 0 goes to a worker: a Gateway Load Balancer's GENEVE has it, around the VXLAN that has the true one.
    """
    asm = Assembler()
    if not geneve:
        asm.add(LD_BYTE, 0)
        asm.jump(JSET, _VXLAN_I, "", "unreadable")  # no valid VNI: the decoder counts it
    _select(asm, selection)
    _search(asm, sorted(strangers), "known", "unknown")
    asm.label("known")
    asm.add(RET, workers + 1)
    asm.label("unknown")
    asm.add(RET, workers)
    asm.label("selected")
    if geneve:
        _geneve(asm)
    else:
        asm.add(LDX_IMM, _TUNNEL_OCTETS)
    _ethernet(asm)
    _hash(asm, workers)
    return asm.program()


def _select(asm: Assembler, selection: VniSelection) -> None:
    """On to the next instruction where the VNI is not selected."""
    known = _exceptions(selection)
    if len(known) > SELECTABLE or (selection.default and not known):
        asm.go("selected")
        asm.label("unreadable")
        asm.add(RET, 0)
        return
    asm.add(LD_WORD, 4)
    asm.add(RSH, 8)  # it stays in A for the strangers
    asm.jump(JEQ, 0, "", "search")
    asm.go("selected")
    asm.label("unreadable")
    asm.add(RET, 0)
    asm.label("search")
    named, unnamed = ("refused", "selected") if selection.default else ("selected", "refused")
    _search(asm, known, named, unnamed)
    asm.label("refused")


def _exceptions(selection: VniSelection) -> list[int]:
    listed = sorted((int.from_bytes(vni), wanted) for vni, wanted in selection.verdicts.items())
    return [vni for vni, wanted in listed if wanted != selection.default]


def room_for_strangers(selection: VniSelection) -> int:
    """How many may be told apart."""
    return max(SELECTABLE - len(_exceptions(selection)), 0)


def _search(asm: Assembler, known: list[int], named: str, unnamed: str) -> None:
    """A binary search: thousands of VNIs cost ten comparisons."""
    if not known:
        asm.go(unnamed)
        return
    middle = len(known) // 2
    if not middle:
        here = f"not {known[0]} {named}"
        asm.jump(JEQ, known[0], "", here)
        asm.go(named)
        asm.label(here)
        asm.go(unnamed)
        return
    here, there = f"below {known[middle]} {named}", f"from {known[middle]} {named}"
    asm.jump(JGE, known[middle], "", here)
    asm.go(there)
    asm.label(here)
    _search(asm, known[:middle], named, unnamed)
    asm.label(there)
    _search(asm, known[middle:], named, unnamed)


def _geneve(asm: Assembler) -> None:
    """X := what is behind the header and its options."""
    asm.add(LD_BYTE, 0)
    asm.add(AND, 0x3F)
    asm.add(LSH, 2)
    asm.add(ADD, _TUNNEL_OCTETS)
    asm.add(TAX)
    asm.add(LD_HALF, 2)
    asm.jump(JEQ, _ETHERTYPE_IPV4, "ipv4")
    asm.jump(JEQ, _ETHERTYPE_IPV6, "ipv6")
    asm.jump(JEQ, _BRIDGED, "", "unseen")


def _ethernet(asm: Assembler) -> None:
    """X: an Ethernet header -> X: the IP header behind it and its tags."""
    for tag in range(TAGS + 1):
        asm.add(LD_HALF_X, 12)
        if tag < TAGS:
            for ethertype in _ETHERTYPES_VLAN:
                asm.jump(JEQ, ethertype, f"tag {tag}")
        asm.go("untagged")
        if tag < TAGS:
            asm.label(f"tag {tag}")
            _advance(asm, 4)
    asm.label("untagged")
    asm.jump(JEQ, _ETHERTYPE_IPV4, "", "not ipv4")
    _advance(asm, _ETHERNET_OCTETS)
    asm.go("ipv4")
    asm.label("not ipv4")
    asm.jump(JEQ, _ETHERTYPE_IPV6, "", "unseen")
    _advance(asm, _ETHERNET_OCTETS)
    asm.go("ipv6")
    asm.label("unseen")
    asm.add(RET, 0)


def _advance(asm: Assembler, octets: int) -> None:
    asm.add(TXA)
    asm.add(ADD, octets)
    asm.add(TAX)


def _hash(asm: Assembler, workers: int) -> None:
    asm.label("ipv4")
    _addresses(asm, (12, 16))
    asm.add(LD_HALF_X, 6)
    asm.jump(JSET, _FRAGMENT, "addresses only")
    asm.add(LD_BYTE_X, 9)
    asm.jump(JEQ, _TCP, "", "addresses only")
    asm.add(LD_BYTE_X, 0)
    asm.add(AND, 0x0F)
    asm.add(LSH, 2)
    asm.add(ADD_X)
    asm.add(TAX)
    asm.go("ports")
    asm.label("ipv6")
    _addresses(asm, range(8, 40, 4))
    asm.add(LD_BYTE_X, 6)
    asm.jump(JEQ, _TCP, "", "addresses only")
    _advance(asm, _IPV6_OCTETS)
    asm.label("ports")  # X: the TCP header
    asm.add(LD_HALF_X, 0)
    asm.add(ST, _PORT)
    asm.add(LD_HALF_X, 2)
    asm.add(LDX_MEM, _PORT)
    asm.add(ADD_X)
    asm.add(MUL, _PORTS)
    asm.add(LDX_MEM, _SUM)
    asm.add(ADD_X)
    asm.go("mix")
    asm.label("addresses only")
    asm.add(LD_MEM, _SUM)
    asm.label("mix")  # all bits into all bits, else connections with ports in a row go to one worker
    for shift, factor in _MIX:
        asm.add(TAX)
        asm.add(RSH, shift)
        asm.add(XOR_X)
        asm.add(MUL, factor)
    asm.add(RSH, 16)
    asm.add(MOD, workers)
    asm.add(RET_A)


def _addresses(asm: Assembler, offsets: tuple[int, ...] | range) -> None:
    """M[_SUM] := the sum of the words; a sum is the same for both directions."""
    asm.add(STX, _AT)
    asm.add(LD_WORD_X, offsets[0])
    asm.add(ST, _SUM)
    for offset in offsets[1:]:
        asm.add(LD_WORD_X, offset)
        asm.add(LDX_MEM, _SUM)
        asm.add(ADD_X)
        asm.add(ST, _SUM)
        asm.add(LDX_MEM, _AT)


def attach(sock: socket.socket, option: int, program: bytes) -> None:
    """Replaces the one before, at once. Raises OSError where the kernel refuses it."""
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, option, fprog)
