"""``python -m dashboards sheet --out FILE``: the dashboards on one PNG, drawn from a real load.

Starts the service on the shipped model and a Prometheus that scrapes it, asks for images for a while, runs
every panel's own queries and draws those with data, in Grafana's 24 columns or (``--phone``) in a single one.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from dashboards.draw import Drawn, contact_sheet
from dashboards.output import boards
from dashboards.query import Prometheus, Window, has_data
from dashboards.stand import StandError, free_port, load, local_config, prometheus, service

SCRAPE: Final = 1
"""Seconds between scrapes on the stand; a short load needs a short interval."""

CHOICES: Final = {"namespace": ".+", "service": ".+", "revision": ".+", "price": "1.00"}


def collect(client: Prometheus, window: Window) -> dict[str, list[Drawn]]:
    """The panels of every dashboard that have data, by the dashboard's title; rows keep their headings."""
    sheet: dict[str, list[Drawn]] = {}
    for board in boards().values():
        drawn: list[Drawn] = []
        for panel in board["panels"]:
            found = [] if panel["type"] == "row" else client.panel(panel, window, CHOICES)
            if panel["type"] == "row" or any(has_data(answer) for answer in found):
                drawn.append(Drawn(panel, found))
        sheet[board["title"]] = drawn
    return sheet


def main(arguments: list[str]) -> int:
    """Run the stand and write the sheet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dashboards sheet", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/dashboards.png"), help="where the PNG goes")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to ask for images")
    parser.add_argument("--phone", action="store_true", help="panels one under the other")
    chosen = parser.parse_args(arguments)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            config = local_config(f"127.0.0.1:{port}", SCRAPE)
            started = time.time()
            # Prometheus first: the cold start belongs into the picture.
            with prometheus(config, Path(folder)) as api, service(Path(folder), port) as url:
                print(f"asking for images for {chosen.seconds:.0f} s …", file=sys.stderr)
                asyncio.run(load(url, chosen.seconds))
                time.sleep(2 * SCRAPE)
                end = time.time()
                step = max(SCRAPE, (end - started) / 120)
                client = Prometheus(api)
                window = Window(started, end, step, SCRAPE)
                sheet = collect(client, window)
                client.close()
    except StandError as error:
        print(error, file=sys.stderr)
        return 1
    contact_sheet(sheet, window, chosen.out, phone=chosen.phone)
    count = sum(drawn.panel["type"] != "row" for panels in sheet.values() for drawn in panels)
    print(f"{count} panels with data: {chosen.out}")
    return 0
