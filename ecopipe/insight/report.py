"""A profile as one HTML file that stands by itself: no script, and nothing that it would load from elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ecopipe.insight import profile_words, report_charts, report_flow
from ecopipe.insight.profile import DRAWN
from ecopipe.insight.report_examples import Examples
from ecopipe.insight.report_figures import decimal_bytes, shown_part, spoken_us
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.gauge import Recording
from ecopipe.storage.publish import publish_file
from ecopipe.vocabulary.errors import MissingDependency

NEEDED = {"jinja2": "jinja2", "vl_convert": "vl-convert-python"}
"""Modules that a report needs, and the packages that hold them."""

_TEMPLATE = "report.html.jinja"


def check_installed() -> None:
    """Refuses where a package that reports need is not installed.

    Raises:
        MissingDependency: Names them.
    """
    missing = []
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise MissingDependency(
            f"an HTML report needs {' and '.join(missing)}. Install what reports need: pip install 'ecopipe[report]'"
        )


def page(document: Mapping[str, Any], pipeline: Pipeline, examples: Examples, *, ready: Sequence[int] = ()) -> str:
    """The report as HTML.

    Args:
        document: Of :meth:`ecopipe.insight.profile.Profile.as_json`, with ``pipeline``, ``cold`` and ``codecs`` if
            there are any.
        pipeline: What was profiled.
        examples: From its first batch.
        ready: What :func:`ready_when_asked` says of the recording.

    Raises:
        MissingDependency: A package is not installed.
    """
    check_installed()
    import jinja2

    source = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    surroundings = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    surroundings.filters |= {
        "rate": profile_words.rate, "us": spoken_us, "bytes": decimal_bytes, "shown": shown_part,
    }  # fmt: skip
    device_stages = [stage.label for stage in pipeline.device_stages]
    return surroundings.from_string(source).render(
        name=document.get("pipeline", "a loader"),
        **{name: document.get(name) for name in _PARTS},
        pipeline=pipeline,
        examples=examples,
        charts=report_charts.charts(document, ready, examples.length),
        flow=report_flow.picture(document, device_stages),
        flow_narrow=report_flow.picture(document, device_stages, narrow=True),
    )


_PARTS = (
    "settings", "run", "cold", "limit", "stages", "queues", "transfer", "workers", "predictions", "codecs", "budgets",
    "batches", "lengths", "words",
)  # fmt: skip


def ready_when_asked(recording: Recording) -> list[int]:
    """For each batch that the document lists: how many had been made and not been taken when the consumer asked."""
    found = recording.deliveries
    ahead = max(recording.beside * recording.prefetch, 1)
    first = max(len(found) - DRAWN, 0)
    return [
        sum(
            other.times is not None and other.times.ended_ns <= one.asked_ns
            for other in found[at : at + ahead]
        )
        for at, one in enumerate(found[first:], first)
    ]  # fmt: skip


def write_report(path: Path, html: str) -> None:
    """Writes the page, whole or not at all.

    Raises:
        OutputError: The place cannot be written.
    """
    with publish_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
