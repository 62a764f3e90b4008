"""The table of who passes what, as Markdown, from the results of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecopipe.testing import LAWS, statement
from ecopipe.testing.report import cell

COMMAND = "python -m benchmarks.contract"
SIGNS = {"pass": "✓", "fails": "✗", "hangs": "✗ hangs", "raises": "✗ raises", "not offered": ""}


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """A row per law and a column per loader; then how each was used; then the evidence of each broken law."""
    return "\n".join([*_table(results), "", *_configurations(results), "", *_evidence(results), ""])


def _table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [f"{result['name']} {next(iter(result['versions'].values()))}" for result in results]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for law in LAWS:
        found = [_sign(result, law) for result in results]
        lines.append(f"| {cell(statement(law))} | {' | '.join(found)} |")
    kept = [sum(verdict["outcome"] == "pass" for verdict in result["verdicts"]) for result in results]
    lines.append(f"| **kept, of {len(LAWS)}** | {' | '.join(f'**{count}**' for count in kept)} |")
    legend = (
        "✓ kept; (✓) broken with 203 samples, kept with 204, which batches and ranks divide evenly; ✗ broken with both "
        "(*hangs*: no answer in time, *raises*: an error instead of batches); empty: not offered."
    )
    return [*lines, "", f"{legend} Made by `{COMMAND}`, with `benchmarks/contract/requirements.txt` installed."]


def _configurations(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["**How each was used.** The documented, recommended way to shuffle, deal, save and restore:", ""]
    for result in results:
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines.append(f"- **{result['name']}** ({versions}): {result['configuration']}.")
    return lines


def _evidence(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["**Evidence** of each broken law:", ""]
    for result in results:
        broken = [law for law in LAWS if _verdict(result, law)["outcome"] not in ("pass", "not offered")]
        lines.append(f"- **{result['name']}**{'' if broken else ': none broken.'}")
        lines += [f"    - `{law}`: {cell(_verdict(result, law)['evidence'])}" for law in broken]
    return lines


def _sign(result: Mapping[str, Any], law: str) -> str:
    outcome = _verdict(result, law)["outcome"]
    kept_if_even = any(verdict["law"] == law and verdict["outcome"] == "pass" for verdict in result["even"])
    return "(✓)" if outcome != "pass" and kept_if_even else SIGNS[outcome]


def _verdict(result: Mapping[str, Any], law: str) -> Mapping[str, Any]:
    verdict: Mapping[str, Any] = next(verdict for verdict in result["verdicts"] if verdict["law"] == law)
    return verdict
