"""``python -m ecopipe.testing module:name``: exits with 1 if the loader breaks a law."""

from __future__ import annotations

import argparse
import sys

from ecopipe.testing.report import Verdict
from ecopipe.testing.suite import LAWS, check, statement
from ecopipe.vocabulary.errors import ConfigError


def main() -> int:
    laws = "\n".join(f"  {law:<26}{statement(law)}" for law in LAWS)
    parser = argparse.ArgumentParser(
        prog="python -m ecopipe.testing",
        description="Check a loader against the laws of its contract, each in fresh processes.",
        epilog=f"laws:\n{laws}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="module:name", help="a factory or a Contract, importable from here")
    parser.add_argument("--law", action="append", metavar="NAME", help="only this law; may be repeated")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="seconds a run may take (default 60)")
    parser.add_argument(
        "--grace-s", type=float, default=20.0, help="seconds to wait for what a run leaves (default 20)"
    )
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for each run, instead of a fork")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args()
    try:
        report = check(
            options.target,
            laws=options.law,
            timeout_s=options.timeout_s,
            grace_s=options.grace_s,
            start="fresh" if options.fresh else "fork",
            progress=None if options.json else _show,
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(report.json())
    return 1 if report.failures else 0


def _show(verdict: Verdict) -> None:
    print(f"{verdict.outcome:<11}  {verdict.law:<26}{verdict.evidence}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
