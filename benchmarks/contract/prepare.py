"""Makes one loader's shards, and says which versions are installed. Run in a process of its own by the runner."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

from benchmarks.contract import corpus


def main() -> None:
    peer, out = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.contract.peers.{peer}_loader")
    for variant in corpus.VARIANTS:
        module.prepare(variant)
    described = {
        "name": module.NAME,
        "configuration": module.CONFIGURATION,
        "versions": {package: importlib.metadata.version(package) for package in module.PACKAGES},
    }
    Path(out).write_text(json.dumps(described))


if __name__ == "__main__":
    main()
