"""Naming a loader: what is found, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecopipe.testing import Contract, check, processes
from ecopipe.testing.contract import resolve
from ecopipe.vocabulary.errors import ConfigError

from . import toys

TOYS = "tests.testing.toys"


def test_a_contract_is_taken_as_it_is_and_a_function_is_its_make() -> None:
    assert resolve(f"{TOYS}:sound") is toys.sound
    assert resolve(f"{TOYS}:Toy") == Contract(make=toys.Toy)


def test_the_defaults_are_those_of_a_stateful_loader() -> None:
    class Loader(list[dict[str, list[str]]]):
        epoch = closed = 0

        def set_epoch(self, number: int) -> None:
            self.epoch = number

        def state_dict(self) -> dict[str, int]:
            return {"epoch": self.epoch}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.epoch = state["epoch"]

        def close(self) -> None:
            self.closed = True

    contract, loader = Contract(make=Loader), Loader([{"keys": ["a", "b"]}])
    assert [list(contract.keys(batch)) for batch in contract.epoch(loader, 3)] == [["a", "b"]]
    assert contract.save and contract.load and contract.redeal and contract.length
    assert contract.save(loader) == {"epoch": 3}
    contract.load(loader, contract.redeal([{"epoch": 1}, {"epoch": 2}], 1, 2))
    assert loader.epoch == 1
    assert contract.length(loader) == 1
    contract.close(loader)
    assert loader.closed
    bare: list[dict[str, list[str]]] = [{"keys": ["a"]}]
    assert contract.epoch(bare, 1) is bare
    contract.close(bare)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "testing: 'nothing' names no loader. Write 'module:name', such as 'my_loaders:train'."),
        (
            "no_such_module:train",
            "testing: 'no_such_module:train': no_such_module cannot be imported: ModuleNotFoundError: No module named "
            "'no_such_module'. Run from the folder that holds it, or install it.",
        ),
        (f"{TOYS}:sonud", f"testing: {TOYS} has no 'sonud'. Did you mean 'sound'? Known:"),
        (f"{TOYS}:not_a_loader", f"testing: '{TOYS}:not_a_loader' is int. A Contract, or a function, is wanted."),
    ],
)
def test_what_is_no_loader_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(target)
    assert str(caught.value).startswith(message)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="there is no law 'exactly_twise'. Did you mean 'exactly_once'\\? Known:"):
        check(f"{TOYS}:sound", laws=["exactly_twise"])
    with pytest.raises(ConfigError, match="timeout_s must be over 0 and grace_s not under it, got 0 and 20.0"):
        check(f"{TOYS}:sound", timeout_s=0)


def test_modules_that_end_the_process_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os, sys; print('no licence', file=sys.stderr, flush=True); os._exit(1)")
    (tmp_path / "listless.py").write_text(
        "from ecopipe.testing import Contract\n"
        "def samples(): raise OSError('no such folder')\n"
        "contract = Contract(make=dict, samples=samples)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="the process that imported the loader's modules ended: no licence"):
        check("deadly:train")
    with pytest.raises(ConfigError, match="its samples cannot be listed: OSError: no such folder. Mend"):
        check("listless:contract")


def test_other_systems_than_linux_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    with pytest.raises(ConfigError, match="what processes leave behind is read from /proc. Run it on Linux."):
        check(f"{TOYS}:sound")
