"""``python -m tests.attack http://127.0.0.1:7860``: every attack on a running service, and what it did to the others.

Of local addresses only, unless ``--anywhere`` says that the service is yours. Exits with 1 if anything was found.
"""

import argparse
import ipaddress
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.attack import bombs, chaos, fuzz, slow
from tests.attack.watch import Watch, metrics
from tests.attack.wire import Address, Answer, Client, Dropped, request

CALM_P99, CALM_WORST = 0.1, 1.0
"""Seconds that readiness may take while an attack runs."""


@dataclass
class Outcome:
    """What one attack found."""

    name: str
    said: str = ""
    findings: list[str] = field(default_factory=list)


def fuzzing(address: Address, arguments: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    """Nearly right requests."""

    def attack() -> Outcome:
        report = fuzz.run(address, arguments.requests, arguments.seed)
        said = ", ".join(f"{count} × {status}" for status, count in sorted(report.statuses.items()))
        return Outcome(f"fuzzing, {report.sent} requests", said, report.findings)

    yield attack


def bombing(address: Address, arguments: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    """Small or allowed bodies that cost much."""
    for bomb in bombs.BOMBS:

        def attack(bomb: bombs.Bomb = bomb) -> Outcome:
            answers = list(bombs.throw(address, bomb))
            statuses = [one.status if isinstance(one, Answer) else one for one in answers]
            bad = [f"{bomb.name}: {one}" for one in statuses if isinstance(one, str) or one in (500, 502)]
            return Outcome(f"bomb: {bomb.name}", ", ".join(sorted({str(one) for one in statuses})), bad)

        yield attack


def crawling(address: Address, arguments: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    """Slow clients."""
    for kind in slow.KINDS:

        def attack(kind: slow.Slow = kind) -> Outcome:
            closed = slow.attack(address, kind, arguments.seconds)
            return Outcome(
                f"slow: {kind.name}", f"{closed} of {kind.clients} closed in {arguments.seconds:g} s"
            )

        yield attack


def raging(address: Address, arguments: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    """Clients that do anything, and the metrics afterwards."""

    def attack() -> Outcome:
        findings = chaos.run(address, arguments.schedules, arguments.seed)
        return Outcome(
            f"chaos, {arguments.schedules} schedules", "the metrics say what the clients saw", findings
        )

    yield attack


def crowding(address: Address, arguments: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    """Five hundred requests in one moment."""

    def attack() -> Outcome:
        sent = request("POST", "/sdapi/v1/txt2img", b'{"steps":1,"width":64,"height":64}')
        connections = [address.connect() for _ in range(500)]
        for connection in connections:
            connection.sendall(sent)
        lost = 0
        for connection in connections:
            try:
                lost += not connection.recv(20).startswith(b"HTTP/1.1 ")
            except OSError:
                lost += 1
            connection.close()
        return Outcome("500 requests at once", "", [f"{lost} of 500 had no answer"] if lost else [])

    yield attack


ATTACKS = {"fuzz": fuzzing, "bombs": bombing, "slow": crawling, "chaos": raging, "crowd": crowding}


def main() -> int:
    """Attack, and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("url", help="where the service is, e.g. http://127.0.0.1:7860")
    parser.add_argument(
        "--only", choices=ATTACKS, action="append", help="this attack; may be given several times"
    )
    parser.add_argument("--requests", type=int, default=100_000, help="of the fuzzer")
    parser.add_argument("--schedules", type=int, default=1000, help="of chaos")
    parser.add_argument(
        "--seconds", type=float, default=90.0, help="for which each kind of slow client stays"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--anywhere", action="store_true", help="attack an address that is not local")
    arguments = parser.parse_args()
    address = Address.of(arguments.url)
    if not arguments.anywhere and not _is_local(address.host):
        parser.error(f"{address.host} is not local: say --anywhere if the service there is yours to attack.")
    before = metrics(address)
    limit = before["process_resident_memory_bytes"] + 1.15 * before["sd_budget_limit_bytes"]
    print(f"{'attack':48} {'seconds':>8} {'P99 ms':>7} {'worst ms':>8} {'MB':>6} {'held':>6}", flush=True)
    findings: list[str] = []
    for name in arguments.only or ATTACKS:
        for attack in ATTACKS[name](address, arguments):
            began = time.monotonic()
            with Watch(address) as watch:
                outcome = attack()
            print(
                f"{outcome.name:48} {time.monotonic() - began:8.1f} {watch.p99 * 1e3:7.0f} {watch.worst * 1e3:8.0f} "
                f"{watch.most_memory / 1e6:6.0f} {watch.most_budget / 1e6:6.0f}  {outcome.said}",
                flush=True,
            )
            findings += outcome.findings + [f"{outcome.name}: {failure}" for failure in watch.failures]
            if watch.p99 > CALM_P99 or watch.worst > CALM_WORST:
                findings.append(
                    f"{outcome.name}: readiness took {watch.worst:.2f} s at worst, P99 {watch.p99:.3f} s"
                )
            if watch.most_memory > limit:
                findings.append(
                    f"{outcome.name}: {watch.most_memory / 1e6:.0f} MB, beyond the budget and 15 %"
                )
    client = Client(address)
    try:
        if client.send(request("GET", "/readyz")).status != 200:
            findings.append("the service is not ready afterwards")
    except (Dropped, OSError) as error:
        findings.append(f"the service is gone: {error}")
    for finding in findings:
        print(f"FOUND {finding}")
    print(f"{len(findings)} findings.")
    return 1 if findings else 0


def _is_local(host: str) -> bool:
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in socket.getaddrinfo(host, None))


if __name__ == "__main__":
    sys.exit(main())
