"""The tables and the chart, from the results; and their place in a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import goals, wins
from benchmarks.bench.measurements import ONCE, Measured, Results

BEGIN, END = "<!-- bench: begin (made by make bench) -->", "<!-- bench: end -->"


def rate(one: Measured | None, name: str = "rate") -> str:
    """The median of a figure, with its range; why there is none; nothing where it was not asked for."""
    if one is None:
        return ""
    if not one.runs:
        return f"failed: {_cell(one.reason)[:80]}"
    values = one.values(name)
    spread = f" ({min(values):,.0f}-{max(values):,.0f})" if len(values) > 1 else ""
    return f"{one.median(name):,.0f}{spread}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _only(found: list[Measured]) -> Measured | None:
    return found[0] if found else None


def _speech_rows(results: Results) -> list[tuple[float, list[str]]]:
    rows = []
    for peer, told in results.about.items():
        name = f"{told['name']} {next(iter(told.get('versions', {}).values()), '')}".strip()
        if "reason" in told:
            rows.append((-1.0, [name, f"left out: {_cell(told['reason'])[:120]}", *[""] * 10]))
            continue
        own = told["decoders"][0]
        cells = [rate(_only(results.of("speech", peer=peer, decoder=own, workers=number))) for number in (0, 1, 2)]
        same = results.best("rate", "speech", peer=peer, decoder="dr_flac") if own != "dr_flac" else None
        best = results.best("rate", "speech", peer=peer, decoder=own)
        if best is None:
            rows.append((-1.0, [name, own, *cells, *[""] * 7]))
            continue
        one = best[1]
        started = _only(results.of("start", peer=peer))
        rows.append((best[0], [
            name, own, *cells, rate(same[1]) if same else "same" if own == "dr_flac" else "",
            f"{one.median('useful_s_per_s'):,.0f}", f"{one.median('padding'):.1%}", rate(one, "cold_rate"),
            f"{one.median('cpu_ms'):.2f}", f"{started.median('first_batch_s'):.2f}" if started and started.runs else "",
            _agrees(results, peer),
        ]))  # fmt: skip
    return sorted(rows, key=lambda row: -row[0])


def _agrees(results: Results, peer: str) -> str:
    """Whether what it delivers in an epoch is what the files hold, with each of its decoders."""
    said = []
    checks = results.of("check", peer=peer)
    for one in checks:
        if not one.runs:
            said.append(f"failed: {_cell(one.reason)[:80]}")
        elif one.runs[0]["sum"] != one.runs[0]["truth"]:
            found, wanted = (one.runs[0][which]["utterances"] for which in ("sum", "truth"))
            said.append(f"{found} of {wanted}" if found != wanted else "other samples")
    return ", ".join(dict.fromkeys(said)) or ("yes" if checks else "")


def speech(results: Results) -> str:
    """The table of loaders."""
    head = [
        "utterances/s", "decoder", "0 workers", "1", "2", "best with dr_flac", "useful audio, s/s", "padding",
        "cold, with start", "CPU ms each", "first batch, s", "same audio",
    ]  # fmt: skip
    return _table(head, [row for _, row in _speech_rows(results)])


def bounds(results: Results) -> str:
    """The table of what bounds them."""
    ways = list(dict.fromkeys(one.task["way"] for one in results.of("limits")))
    rows = [[way, *(rate(_only(results.of("limits", way=way, workers=n))) for n in (1, 2))] for way in ways]
    return _table(["limits, utterances/s", "1", "2"], rows)


def of_ways(results: Results, group: str, unit: str) -> str:
    """The table of images or of texts."""
    found = sorted(results.of(group), key=lambda one: -(one.median("rate") or 0))
    return _table([unit, "median (range)"], [[one.task["way"], rate(one)] for one in found])


def conditions(results: Results) -> str:
    """How it was measured, in words."""
    asked, corpus = results.settings, results.corpus
    counts = sorted({len(one.runs) for one in results.measured if one.runs and one.task.get("kind") not in ONCE})
    rounds = " to ".join(map(str, dict.fromkeys((counts or [asked["repeats"]])[:: max(len(counts) - 1, 1)])))
    return (
        f"{corpus['utterances']:,} utterances ({corpus['source']}, each {corpus['copies']} times under other keys), "
        f"{corpus['bytes'] / 1e6:,.0f} MB of FLAC, to padded float32 batches in the main process, each page of which "
        f"is touched; {asked['cores']} cores, Python {asked['python']}. Medians of {rounds} rounds in turn "
        "(range), each run a process of its own: one epoch with the files dropped from the page cache (posix_fadvise "
        f"DONTNEED) and the workers' start, then warm epochs for {asked['seconds']:g} s. `{asked['command']}`"
    )


def uses(results: Results) -> str:
    """How each loader was used."""
    told = [about for about in results.about.values() if "use" in about]
    return "\n".join(
        f"- **{about['name']}** ({', '.join(f'{name} {version}' for name, version in about['versions'].items())}): "
        f"{about['use']}."
        for about in told
    )


def summary(results: Results, chart: str | None) -> str:
    """What stands in a README, with its chart; without one, also the goals that were not measured."""
    parts = [f"![utterances per second of each loader]({chart})"] if chart else []
    parts += [
        speech(results),
        bounds(results),
        conditions(results),
        "Who is ahead, figure by figure:\n\n" + "\n".join(f"- {line}" for line in wins.words(results)),
        "\n".join(f"- {goal}" for goal in goals.goals(results) if chart is None or goal.figure is not None),
    ]
    return "\n\n".join(parts)


def full(results: Results) -> str:
    """All tables."""
    parts = ["# Benchmarks against peers", summary(results, None)]
    if results.of("images"):
        parts.append(of_ways(results, "images", "CIFAR-10, images/s"))
    if results.of("reviews"):
        parts.append(of_ways(results, "reviews", "IMDB, tokens/s without padding"))
    return "\n\n".join([*parts, "How each was used:", uses(results)]) + "\n"


def into_readme(path: Path, text: str) -> None:
    """Puts a text between the two markers.

    Raises:
        SystemExit: The markers are not there, once each.
    """
    readme = path.read_text(encoding="utf-8")
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise SystemExit(f"{path}: needs one line {BEGIN} and, behind it, one line {END}")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", readme), encoding="utf-8")


def draw(results: Results, path: Path) -> None:
    """The chart, as SVG: the best of each loader with its own decoder and with dr_flac, and the limit of two cores."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    bars = []
    for peer, told in results.about.items():
        if "reason" not in told and (own := results.best("rate", "speech", peer=peer, decoder=told["decoders"][0])):
            same = results.best("rate", "speech", peer=peer, decoder="dr_flac")
            bars.append((own[0], told["name"], same[0] if same else None))
    bars.sort()
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(bars) + 1.6), facecolor="white")
    for at, (own_rate, name, same_rate) in enumerate(bars):
        ours = name.startswith("ecopipe")
        if same_rate is not None and not ours:
            axes.barh(at, same_rate, color="#c9d6e3", height=0.68)
        axes.barh(at, own_rate, color="#d1495b" if ours else "#4a7aa7", height=0.4 if same_rate and not ours else 0.68)
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars])
    bound = results.best("rate", "limits", workers=2)
    if bound:
        axes.axvline(bound[0], color="#333333", linestyle=":", label=f"{bound[1].task['way']}: the decoder alone, 2")
    handles: list[Any] = [
        pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in ("#d1495b", "#4a7aa7", "#c9d6e3")
    ]  # fmt: skip
    lines, told_ = axes.get_legend_handles_labels()
    axes.legend(
        handles + lines,
        ["ecopipe", "its own decoder", "given dr_flac", *told_],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=2,
        frameon=False,
    )
    axes.set_xlabel("utterances per second, best number of workers, warm")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
