"""Runs the laws of ``ecopipe.testing`` on ecopipe and its peers, and writes the table of who passes what.

``python -m benchmarks.contract`` takes about half an hour on two cores. First install
``benchmarks/contract/requirements.txt``: a loader that is not installed is left out, and the run says so. ``--only
NAME`` runs one, and keeps the others' results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.contract import corpus
from benchmarks.contract.table import render
from ecopipe.testing import LAWS, Verdict, check
from ecopipe.testing.lab import Start

HERE = Path(__file__).resolve().parent
PEERS = (
    "ecopipe",
    "webdataset",
    "torchdata",
    "mosaicml",
    "litdata",
    "lhotse",
    "grain",
    "grain_elastic",
    "datasets",
)
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(HERE.parents[1])}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument("--only", action="append", choices=PEERS, help="run this loader only; may be repeated")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "ecopipe-contract")
    parser.add_argument("--table", type=Path, default=HERE / "TABLE.md")
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for each run, instead of a fork")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    for peer in options.only or PEERS:
        run(peer, options.results, timeout_s=options.timeout_s, fresh=options.fresh)
    found = [options.results / f"{peer}.json" for peer in PEERS]
    options.table.write_text(render([json.loads(path.read_text()) for path in found if path.exists()]))
    print(f"wrote {options.table}; the results are in {options.results}")


def run(peer: str, results: Path, *, timeout_s: float, fresh: bool) -> None:
    """Checks one loader, and leaves ``PEER.json`` in the folder of results."""
    start: Start = "fresh" if fresh else "fork"
    print(f"{peer}:")
    about, verdicts = _check(peer, "uneven", list(LAWS), timeout_s, start)
    broken = [verdict.law for verdict in verdicts if verdict.broken]
    if broken:
        print("  with 204 samples, which divide evenly:")
    even = _check(peer, "even", broken, timeout_s, start)[1] if broken else []
    found = {**about, "verdicts": [asdict(verdict) for verdict in verdicts], "even": [asdict(v) for v in even]}
    if verdicts:
        (results / f"{peer}.json").write_text(json.dumps(found, indent=2))


def _check(
    peer: str, size: str, laws: list[str], timeout_s: float, start: Start
) -> tuple[dict[str, object], tuple[Verdict, ...]]:
    """What a loader says about itself, and the verdicts on it; nothing where it is not installed."""
    with tempfile.TemporaryDirectory(prefix="contract-") as data:
        os.environ.update(ENVIRONMENT, CONTRACT_DATA=data, HF_HOME=data)
        os.environ[corpus.LAST_SHARD] = corpus.SIZES[size]
        about = Path(data) / "about.json"
        command = [sys.executable, "-m", "benchmarks.contract.prepare", peer, str(about)]
        prepared = subprocess.run(command, capture_output=True, text=True, check=False)
        if prepared.returncode:
            print(f"  left out: {prepared.stderr.strip().splitlines()[-1]}")
            return {}, ()
        target = f"benchmarks.contract.peers.{peer}_loader:contract"
        report = check(target, laws=laws, timeout_s=timeout_s, start=start, progress=_show)
        return json.loads(about.read_text()), report.verdicts


def _show(verdict: Verdict) -> None:
    print(f"  {verdict.outcome:<11}  {verdict.seconds:>6.1f} s  {verdict.law:<26}{verdict.evidence}", flush=True)


if __name__ == "__main__":
    main()
