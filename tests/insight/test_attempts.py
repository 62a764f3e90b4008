"""Which starts belong together, and which of them make the training, by ledgers whose ranks work at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecopipe.insight.attempts import Attempt, attempts_of, segments_of, training
from ecopipe.run.ledger import Ledger, LedgerFile, ledger_files
from ecopipe.vocabulary.sample import Place
from tests.run.test_ledger import HEADER, rows


class Job:
    """One start of some ranks, which work in turns."""

    def __init__(self, folder: Path, world_size: int, ranks: str, *, batch: int = 0, epoch: int = 0) -> None:
        self.world_size, self.epoch, self.first, self.step = world_size, epoch, batch, batch // world_size
        self.ledgers = {
            int(rank): Ledger(folder, HEADER | {"rank": int(rank), "world_size": world_size}) for rank in ranks
        }
        for ledger in self.ledgers.values():
            ledger.begin(epoch, batch, self.step)
        self.taken = 0

    def work(self, steps: int = 1) -> Job:
        for _ in range(steps):
            for rank, ledger in self.ledgers.items():
                number = self.first + self.taken * self.world_size + rank
                ledger.add(Place(self.epoch, number, step=self.step + self.taken, rank=rank), rows(("a", [1])))
            self.taken += 1
        return self

    def end(self) -> Job:
        for ledger in self.ledgers.values():
            ledger.end(self.epoch, self.first + self.taken * self.world_size, self.step + self.taken)
            ledger.close()
        return self


def found(folder: Path) -> tuple[list[str], list[str]]:
    """All attempts, and those that make the training, as epoch.batch:ranks, with the starts that they came of."""
    files = [LedgerFile(path) for path in ledger_files(folder)]
    attempts = attempts_of([segment for file in files for segment in segments_of(file)])
    chain = training(attempts)

    def told(attempt: Attempt) -> str:
        samples = "+".join(str(segment.samples) for _, segment in sorted(attempt.segments.items()))
        ranks = "".join(str(rank) for rank in sorted(attempt.segments))
        until = "" if attempt.until is None else f"<{attempt.until}"
        return f"{attempt.place[0]}.{attempt.place[1]}{until} ranks {ranks} samples {samples}"

    return [told(attempt) for attempt in attempts], [told(attempt) for attempt in chain]


def test_ranks_that_begin_together_are_one_attempt(tmp_path: Path) -> None:
    Job(tmp_path, 3, "201").work(4)
    assert found(tmp_path) == (["0.0 ranks 012 samples 4+4+4"],) * 2


def test_a_second_start_at_the_same_place_is_another_attempt(tmp_path: Path) -> None:
    Job(tmp_path, 2, "01").work(4)
    Job(tmp_path, 2, "10").work(2)
    assert found(tmp_path) == (["0.0 ranks 01 samples 4+4", "0.0 ranks 01 samples 2+2"], ["0.0 ranks 01 samples 2+2"])


@pytest.mark.parametrize("order", ["01", "10"])
def test_a_rank_that_never_began_the_first_time(tmp_path: Path, order: str) -> None:
    Job(tmp_path, 2, "0").work(1)
    Job(tmp_path, 2, order).work(3)
    assert found(tmp_path)[0] == ["0.0 ranks 0 samples 1", "0.0 ranks 01 samples 3+3"]


@pytest.mark.parametrize("rank", ["0", "1", "2"])
def test_a_rank_that_alone_began_the_second_time(tmp_path: Path, rank: str) -> None:
    Job(tmp_path, 3, "012").work(3)
    Job(tmp_path, 3, rank).work(1)
    assert found(tmp_path)[0] == ["0.0 ranks 012 samples 3+3+3", f"0.0 ranks {rank} samples 1"]


def test_the_training_goes_back_over_what_came_far_enough(tmp_path: Path) -> None:
    Job(tmp_path, 2, "01").work(5)  # to batch 10
    Job(tmp_path, 2, "01").work(2)  # from the beginning, by mistake
    Job(tmp_path, 2, "01", batch=8).work(1)
    Job(tmp_path, 2, "1", batch=8).work(1)  # a rank failed
    Job(tmp_path, 4, "0123", batch=8).work(3)
    assert found(tmp_path)[1] == ["0.0<8 ranks 01 samples 5+5", "0.8 ranks 0123 samples 3+3+3+3"]


def test_every_rank_must_have_come_that_far(tmp_path: Path) -> None:
    Job(tmp_path, 2, "01").work(5)
    Job(tmp_path, 2, "0").work(5)
    Job(tmp_path, 2, "01", batch=10).work(1)
    assert found(tmp_path)[1] == ["0.0<10 ranks 01 samples 5+5", "0.10 ranks 01 samples 1+1"]


def test_where_none_came_far_enough_the_latest_before_the_place_counts(tmp_path: Path) -> None:
    Job(tmp_path, 2, "01").work(3)
    Job(tmp_path, 2, "01").work(2)
    Job(tmp_path, 2, "01", batch=10).work(1)
    assert found(tmp_path)[1] == ["0.0<10 ranks 01 samples 2+2", "0.10 ranks 01 samples 1+1"]


def test_an_epoch_goes_on_from_one_that_was_ended(tmp_path: Path) -> None:
    Job(tmp_path, 1, "0").work(7).end()
    Job(tmp_path, 1, "0").work(2)
    Job(tmp_path, 1, "0", epoch=1).work(3)
    assert found(tmp_path)[1] == ["0.0 ranks 0 samples 7", "1.0 ranks 0 samples 3"]


def test_a_restart_behind_an_epochs_border_leaves_out_what_came_after(tmp_path: Path) -> None:
    Job(tmp_path, 1, "0").work(7).end()
    Job(tmp_path, 1, "0", epoch=1).work(3)
    Job(tmp_path, 1, "0", batch=5).work(2).end()
    Job(tmp_path, 1, "0", epoch=1).work(1)
    assert found(tmp_path)[1] == ["0.0<5 ranks 0 samples 7", "0.5 ranks 0 samples 2", "1.0 ranks 0 samples 1"]
