"""Samples per second from a real S3 behind a latency, beside those from the folder that was uploaded to it.

SeaweedFS runs on loopback, behind a proxy in a process of its own that lets each request wait. "Local" streams the
folder. "First epoch" streams from S3 into an empty cache, timed from the first batch of the second block on. "Second
epoch" finds all in the cache, and "no cache" reads the ranges of each batch. The ways take turns, each in every round.
LibriSpeech's pipeline with log-mel, or for CIFAR-10 its images.

    python benchmarks/remote.py shards/librispeech/test-clean
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ecopipe import Batch, Bucket, Collate, DecodeAudio, DecodeImage, Pipeline, Shuffle, TarShards  # noqa: E402
from ecopipe.datasets.shards import index_tars  # noqa: E402
from ecopipe.formats.tar import BLOCK  # noqa: E402
from ecopipe.storage import remote  # noqa: E402
from tests.servers import ACCESS, SECRET, running, s3_server  # noqa: E402

GOAL = 0.9

_PROXY = """
import asyncio, sys
upstream, port, latency = sys.argv[1].removeprefix("http://").split(":"), int(sys.argv[2]), float(sys.argv[3])
async def pump(reader, writer, wait):
    while data := await reader.read(1 << 20):
        if wait:
            await asyncio.sleep(latency)
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    other = await asyncio.open_connection(*upstream)
    await asyncio.gather(pump(reader, other[1], True), pump(other[0], writer, False), return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20) as server:
        await server.serve_forever()
asyncio.run(main())
"""
"""A proxy that lets each request wait: what a client sends goes on after the latency, and answers go back at once."""
