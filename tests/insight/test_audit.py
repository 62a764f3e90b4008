"""The audit over real ledgers of real loaders: clean ones, and ones with each fault, where just that is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ecopipe import Batch, Bucket, Collate, DecodeImage, Items, Loader, Mix, Pipeline, Shuffle, Take, TarShards, Where
from ecopipe.insight.audit import Report, audit
from ecopipe.insight.replan import plan_part, replanned
from ecopipe.run.ledger import ledger_files
from ecopipe.stages.stage import PlanStage
from ecopipe.vocabulary.errors import ConfigError, DataError

from .trainings import Messages, Training, delivered, images, only


@pytest.fixture
def training(shards: Path, tmp_path: Path) -> Training:
    """60 samples in 15 batches, and an empty ledger."""
    return Training(images(shards), tmp_path / "ledger")


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of one epoch on two ranks: 8 steps, the last filled with a repeat."""
    training = Training(images(shards), tmp_path_factory.mktemp("finished") / "ledger")
    training.run(2)
    assert not training.audit().problem_count
    return training.folder


@pytest.fixture
def two(finished: Path, shards: Path, tmp_path: Path) -> Training:
    """A copy of it, to be edited."""
    return Training(images(shards), shutil.copytree(finished, tmp_path / "two"))


def counts(report: Report, epoch: int = 0) -> dict[str, Any]:
    return {name: value for name, value in report.figures()["epochs"][epoch].items() if value}


# ---------------------------------------------------------------- what is as it should be


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_an_undisturbed_training_is_clean(training: Training, world_size: int) -> None:
    training.run(world_size, epochs=2)
    report = training.audit(epochs=2)
    assert report.problems == []
    repeats = -15 % world_size
    for epoch in range(2):
        expected = {"batches": 15, "samples": 60, "exact": 60, "finished": True}
        assert counts(report, epoch) == expected | ({"epoch": 1} if epoch else {}) | (
            {"repeats": repeats} if repeats else {}
        )
    assert (report.samples, report.restarts) == (120, 0)
    assert [(a.epoch, a.batch, a.world_size, a.rolled_back, a.goes_on) for a in report.attempts] == [
        (0, 0, world_size, False, False),
        (1, 0, world_size, False, True),
    ]


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_dropped_last_step_is_as_planned(training: Training, world_size: int) -> None:
    training.settings = {"tail": "drop", "seed": 5}
    training.run(world_size)
    whole = 15 // world_size * world_size
    assert counts(training.audit(epochs=1)) == {
        "batches": whole, "samples": 4 * whole, "exact": 4 * whole, "finished": True
    }  # fmt: skip


def test_interrupted_and_resumed_twice_on_other_ranks_it_is_still_clean(training: Training) -> None:
    first = training.run(2, steps=4)  # batches 0 to 7
    second = training.run(3, state=first[3], steps=2)  # from batch 6 to 11: 6 and 7 again
    training.run(1, state=second[1], epochs=2)  # from batch 9: 9 to 11 again
    report = training.audit(epochs=2)
    assert report.problems == []
    assert counts(report) == {
        "batches": 15, "samples": 60, "exact": 60, "rolled_back": 4 * (2 + 3), "finished": True
    }  # fmt: skip
    assert counts(report, 1) == {"epoch": 1, "batches": 15, "samples": 60, "exact": 60, "finished": True}
    assert report.restarts == 2
    assert [(a.batch, a.world_size, a.until) for a in report.attempts] == [
        (0, 2, 6),
        (6, 3, 9),
        (9, 1, None),
        (0, 1, None),
    ]


@pytest.mark.parametrize("step", range(16))
def test_wherever_one_rank_is_resumed_all_is_accounted_for(training: Training, step: int) -> None:
    states = training.run()
    training.run(state=states[step])
    report = training.audit(epochs=1)
    assert report.problems == []
    assert counts(report).get("rolled_back", 0) == 60 - 4 * step


def test_what_is_begun_anew_by_mistake_and_given_up_does_not_count(training: Training) -> None:
    states = training.run(2, steps=5)
    training.run(2, steps=2)  # without the state
    training.run(2, state=states[5])
    report = training.audit(epochs=1)
    assert report.problems == []
    assert counts(report)["rolled_back"] == 4 * 4
    assert [a.rolled_back for a in report.attempts] == [False, True, False]


def test_a_start_of_which_one_rank_came_to_nothing_does_not_count(training: Training, tmp_path: Path) -> None:
    states = training.run(2, steps=5)
    failed = training.run(2, state=states[3], steps=1)
    training.files(1)[1].unlink()  # rank 1 never began
    training.run(2, state=states[3], steps=2)
    training.run(2, state=failed[0], steps=1)
    training.files(0)[3].unlink()  # rank 0 never began
    training.run(2, state=states[5])
    assert training.audit(epochs=1).problems == []


def test_going_back_behind_an_epoch_rolls_back_what_came_after(training: Training) -> None:
    states = training.run(epochs=2)
    training.run(state=states[10])
    report = training.audit()
    assert report.problems == []
    assert [counts(report, epoch).get("rolled_back") for epoch in range(2)] == [20, 60]
    assert [epoch.finished for epoch in report.epochs] == [True, False]
    with_two = only(training.audit(epochs=2))
    assert str(with_two) == "epoch 1: is in no ledger"
    assert with_two.kind == "unfinished"


def test_an_unfinished_last_epoch_is_no_problem_unless_it_was_asked_for(training: Training) -> None:
    training.run(2, epochs=1)
    training.run(2, epochs=1, first=1, steps=3)
    report = training.audit(epochs=1)
    assert report.problems == []
    assert (report.epochs[1].finished, report.epochs[1].batches) == (False, 6)
    assert str(only(training.audit(epochs=2))) == "epoch 1: not finished: 6 batches so far"


def test_a_torn_last_batch_was_not_handed_out(training: Training) -> None:
    states = training.run(2, steps=3)
    path = training.files(1)[0]
    path.write_bytes(path.read_bytes()[:-40])
    report = training.audit()
    assert (report.problems, report.torn, report.epochs[0].batches) == ([], [str(path)], 5)
    training.run(2, state=states[2])
    report = training.audit(epochs=1)
    assert (report.problems, report.torn, report.restarts) == ([], [str(path)], 1)


def test_a_file_without_a_whole_header_holds_nothing(training: Training) -> None:
    training.run()
    (training.folder / "rank00000-of-00001-0.arrows").write_bytes(b"\xff\xff")
    assert training.audit(epochs=1).problems == []
    with pytest.raises(DataError, match="holds no more than the beginning of a ledger"):
        audit([training.folder / "rank00000-of-00001-0.arrows"], ["."])


def test_one_file_may_be_named_twice(training: Training) -> None:
    training.run()
    index = [str(training.pipeline.source.path)]
    assert audit([training.folder, *ledger_files(training.folder)], index, epochs=1).problems == []


PLANS = {
    "where": lambda source: [Where("label", at_most=5), Shuffle(), Batch(4)],
    "take": lambda source: [Take(31), Shuffle(name="again"), Batch(4)],
    "one_of": lambda source: [
        Where("label", one_of=(1, 2, 3, 5, 7)),
        Bucket("height", max_count=3, max_padded=200, group=2),
    ],
    "plain": lambda source: [Batch(7, drop_last=True)],
}


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_made_again_from_the_header(shards: Path, tmp_path: Path, name: str) -> None:
    source = TarShards(str(shards / "cifar10" / "train"), lanes=3, block_rows=8)
    stages = PLANS[name](source)
    training = Training(Pipeline(source, *stages, DecodeImage(), Collate("image", layout="stack")), tmp_path / "ledger")
    training.settings = {"seed": 11}
    states = training.run(2, steps=2)
    training.run(1, state=states[2])
    report = training.audit(epochs=1)
    assert report.problems == [] and report.samples > 20
    made = replanned(training.pipeline.identity, [str(source.path)])
    assert [*made.stages, made.batching] == stages
    assert made.source == TarShards((str(source.path),), lanes=3, block_rows=8)


# ---------------------------------------------------------------- mixtures


@pytest.fixture
def mixed(shards: Path, tmp_path: Path) -> Training:
    parts = tuple(TarShards(str(shards / "cifar10" / split), name=split) for split in ("train", "test"))
    source = Mix(parts, weights=(3, 1), stop="cycle", lanes=2, block_rows=16)
    return Training(
        Pipeline(source, Shuffle(), Batch(5), DecodeImage(), Collate("image", layout="stack")), tmp_path / "l"
    )


def indexes(shards: Path, *names: str) -> list[str]:
    return [f"{name}={shards / 'cifar10' / name}" for name in names]


def test_a_mixture_is_audited_by_source(mixed: Training, shards: Path) -> None:
    states = mixed.run(2, steps=3)
    mixed.run(3, state=states[2], epochs=2)
    report = audit([mixed.folder], indexes(shards, "train", "test"), epochs=2)
    assert report.problems == []
    assert sum(report.epochs[0].sources.values()) == report.epochs[0].samples
    assert report.epochs[0].sources["train"] >= 60 and report.epochs[0].sources["test"] >= 12


def test_an_endless_mixture_is_never_finished_and_loses_nothing_at_its_end(shards: Path, tmp_path: Path) -> None:
    parts = tuple(TarShards(str(shards / "cifar10" / split), name=split) for split in ("train", "test"))
    source = Mix(parts, weights=((3, 1), (1, 1)), stop="forever", block_rows=64)
    pipeline = Pipeline(source, Shuffle(), Batch(5), DecodeImage(), Collate("image", layout="stack"))
    training = Training(pipeline, tmp_path / "l")
    training.run(2, steps=20)
    training.run(2, steps=4, first=1)
    report = audit([training.folder], indexes(shards, "train", "test"))
    assert report.problems == []
    assert [(epoch.batches, epoch.finished) for epoch in report.epochs] == [(40, False), (8, False)]


def test_the_sources_of_a_mixture_must_be_named_as_in_the_pipeline(mixed: Training, shards: Path) -> None:
    mixed.run()
    train, test = indexes(shards, "train", "test")
    for wrong, message in (
        ([train.partition("=")[2]], "the pipeline mixes several sources. Write NAME=PATH for each of them"),
        ([train], r"names 1 sources \(train\), and the pipeline mixes 2. Write --index NAME=PATH for each"),
        ([test, train], "is not what was streamed: its fingerprint is .*, in the pipeline's order"),
        (["a" + train, test], "names the sources atrain, test, and the ledger has 'train'. Write --index train=PATH"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            audit([mixed.folder], wrong)


# ---------------------------------------------------------------- what does not belong together


def test_ledgers_of_two_trainings_are_refused_and_the_first_difference_named(shards: Path, tmp_path: Path) -> None:
    Training(images(shards), tmp_path).run()
    elsewhere = replace(images(shards).source, path=str(shards / "cifar10" / "test"))
    for other, settings, difference in (
        (images(shards), {"seed": 1}, "seed was 0 and is 1"),
        (images(shards), {"tail": "drop"}, "tail was 'repeat' and is 'drop'"),
        (images(shards, 5), {}, r"pipeline.stages\[1\].size was 4 and is 5"),
        (Pipeline(elsewhere, *images(shards).stages), {}, "index was"),
    ):
        folder = tmp_path / "other"
        Training(other, folder, settings).run()
        index = [str(shards / "cifar10" / "train")]
        with pytest.raises(DataError, match=f"is the ledger of another training than .*: {difference}.*. Audit each"):
            audit([tmp_path, folder], index)
        shutil.rmtree(folder)


def test_sample_stages_may_differ_because_they_do_not_make_the_order(training: Training, shards: Path) -> None:
    states = training.run(steps=3)
    raw = training.files()[0].read_bytes()
    training.run(state=states[3])
    assert raw == training.files()[0].read_bytes()
    path = training.files()[1]
    path.write_bytes(path.read_bytes().replace(b"DecodeImage", b"DecodeOther"))
    assert training.audit(epochs=1).problems == []


def test_another_index_is_refused(training: Training, shards: Path) -> None:
    training.run()
    with pytest.raises(
        DataError, match="is not what was streamed: its fingerprint is .*, the ledger's .*. Name the same"
    ):
        audit([training.folder], [str(shards / "cifar10" / "test")])


def test_what_cannot_be_planned_again_is_told(shards: Path) -> None:
    class Own(PlanStage):
        pass

    identity = Pipeline(images(shards).source, Own(), *images(shards).stages).identity
    assert [stage["stage"] for stage in plan_part(identity)["stages"]] == ["Own", "Shuffle", "Batch"]
    with pytest.raises(DataError, match="a plan stage Own that is not ecopipe's, and cannot be planned again"):
        replanned(identity, ["."])
    identity = images(shards).identity
    identity["stages"][1]["newer"] = 1
    with pytest.raises(DataError, match="was written by another version of ecopipe .*newer.*. Audit it with that one"):
        replanned(identity, ["."])
    identity["stages"] = [{"stage": "Shuffle", "name": ""}]
    with pytest.raises(DataError, match="has no batching stage"):
        replanned(identity, ["."])


def test_a_file_that_no_loader_wrote_is_refused(two: Training) -> None:
    whole = two.files()[0].read_bytes()
    for change, reason in (
        (lambda m: [m[1], m[0]], "batch 0 of epoch 0 comes without a begin"),
        (lambda m: [m[0], [row | {"epoch": 1} for row in m[1]]], "batch 0 of epoch 1 comes without a begin"),
        (lambda m: [m[0], [*m[1], *m[2]]], "a record batch holds rows of several batches"),
    ):
        two.edit(change)
        with pytest.raises(
            DataError, match=f"{two.files()[0].name}: at byte .*: {reason}, which no loader writes. Restore"
        ):
            two.audit()
        two.files()[0].write_bytes(whole)


# ---------------------------------------------------------------- faults, edited into a ledger: each is found and named


def test_a_dropped_sample(two: Training) -> None:
    dropped = {}

    def change(messages: Messages) -> None:
        dropped.update(messages[3].pop(2))

    two.edit(change, rank=1)
    problem, report = only(two.audit()), two.audit()
    assert (problem.kind, problem.steps, problem.batches, problem.rank) == ("missing", (2, 2), (5, 5), 1)
    key = f"sample {dropped['key']!r} of {dropped['shard']}"
    assert str(problem) == f"epoch 0, step 2, batch 5, rank 1: without {key}, planned at position 2"
    assert (report.epochs[0].samples, report.epochs[0].exact) == (59, 59)


def test_a_repeated_sample(two: Training) -> None:
    two.edit(lambda messages: messages[3].insert(2, messages[3][1]))
    problem = only(two.audit())
    assert (problem.kind, problem.steps, problem.batches, problem.rank) == ("repeated", (2, 2), (4, 4), 0)
    assert "more often than planned" in problem.what


def test_a_sample_that_the_plan_does_not_hold(two: Training) -> None:
    two.edit(lambda messages: messages[3].append(messages[3][0] | {"key": "stranger"}))
    problem = only(two.audit())
    assert (problem.kind, problem.batches, problem.rank) == ("unplanned", (4, 4), 0)
    assert "with sample 'stranger' of" in problem.what and "which the plan does not hold there" in problem.what


def test_a_sample_of_another_shard_is_another_sample(two: Training) -> None:
    two.edit(lambda messages: messages[3][1].update(shard="other.tar"))
    assert sorted(problem.kind for problem in two.audit().problems) == ["missing", "unplanned"]


def test_another_order_within_a_batch(two: Training) -> None:
    two.edit(lambda messages: messages[3].reverse())
    problem = only(two.audit())
    assert (problem.kind, problem.batches) == ("order", (4, 4))
    assert problem.what.startswith("in another order from position 0 on, with sample ")


def test_another_order_by_position(two: Training) -> None:
    def change(messages: Messages) -> None:
        messages[3][1]["position"], messages[3][2]["position"] = 2, 1

    two.edit(change)
    assert only(two.audit()).kind == "order"


def test_a_changed_crc(two: Training) -> None:
    two.edit(lambda messages: messages[1][3].update(crc=messages[1][3]["crc"] ^ 1))
    problem, report = only(two.audit()), two.audit()
    assert (problem.kind, problem.steps, problem.batches, problem.rank) == ("crc", (0, 0), (0, 0), 0)
    assert "has the CRC" in problem.what and problem.what.endswith("in the index")
    assert (report.epochs[0].samples, report.epochs[0].exact) == (60, 59)


def test_a_lost_batch(two: Training) -> None:
    two.edit(lambda messages: messages[:3] + messages[4:], rank=1)
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 2, batch 5, rank 1: not delivered"
    assert problem.kind == "lost"


def test_lost_batches_in_a_row_are_one_problem(two: Training) -> None:
    two.edit(lambda messages: messages[:3] + messages[6:], rank=1)
    assert str(only(two.audit())) == "epoch 0, steps 2 to 4, batches 5 to 9, rank 1: not delivered"


def test_the_last_batches_of_an_epoch_that_is_marked_as_ended(two: Training) -> None:
    two.edit(lambda messages: messages[:7] + messages[-1:])
    assert str(only(two.audit())) == "epoch 0, steps 6 to 7, batches 12 to 14, rank 0: not delivered"


def test_a_lost_repeat(two: Training) -> None:
    two.edit(lambda messages: messages[:8] + messages[9:], rank=1)
    assert str(only(two.audit())) == (
        "epoch 0, step 7, batch 14, rank 1: not delivered again, to fill the last step"
    )  # fmt: skip


def test_the_lost_ledger_of_a_rank(two: Training) -> None:
    two.files(1)[0].unlink()
    problem = two.audit().problems[0]
    assert str(problem).endswith("rank 1: not delivered: there is no ledger of this rank")
    assert problem.steps == (0, 6)


def test_a_rank_whose_ledger_ends_where_a_restart_goes_on_after_it(training: Training) -> None:
    states = training.run(2, steps=4)
    training.edit(lambda messages: messages[:3], rank=1)
    training.run(2, state=states[4])
    assert str(only(training.audit())) == "epoch 0, steps 2 to 3, batches 5 to 7, rank 1: not delivered"


def test_a_restart_that_leaves_out_batches(training: Training) -> None:
    states = training.run(2, steps=4)
    training.edit(lambda messages: messages[:3], rank=0)
    training.edit(lambda messages: messages[:3], rank=1)
    training.run(2, state=states[4])
    assert str(only(training.audit())) == "epoch 0, steps 2 to 3, batches 4 to 7: not delivered"


def test_a_ledger_that_begins_in_the_middle_of_an_epoch(training: Training) -> None:
    states = training.run(steps=4)
    training.files()[0].unlink()
    training.run(state=states[4])
    problem = only(training.audit())
    assert (problem.kind, problem.batches) == ("lost", (0, 3))
    assert problem.what == "in no ledger: the first attempt of the epoch begins after them"


def test_an_epoch_that_was_left_early_for_the_next(training: Training) -> None:
    training.run(2, steps=4)
    training.run(2, first=1)
    assert str(only(training.audit())) == "epoch 0, steps 4 to 7, batches 8 to 14: not delivered"


def test_an_epoch_that_was_never_begun(training: Training) -> None:
    training.run()
    training.run(first=2)
    assert str(only(training.audit())) == "epoch 1: never begun"


def test_a_batch_delivered_twice(two: Training) -> None:
    two.edit(lambda messages: [*messages[:4], messages[3], *messages[4:]])
    problem, report = only(two.audit()), two.audit()
    assert str(problem) == "epoch 0, step 2, batch 4, rank 0: delivered again, and not marked as a repeat"
    assert (problem.kind, report.epochs[0].samples) == ("twice", 60)


def test_a_batch_delivered_twice_much_later(two: Training) -> None:
    two.edit(lambda messages: [*messages[:-1], messages[1], messages[-1]])
    assert str(only(two.audit())) == "epoch 0, step 0, batch 0, rank 0: delivered again, and not marked as a repeat"


def test_a_batch_delivered_to_two_ranks(two: Training) -> None:
    other = Messages()
    two.edit(lambda messages: other.extend(messages), rank=1)
    again = [row | {"rank": 0} for row in other[2]]
    two.edit(lambda messages: [*messages[:3], again, *messages[3:]])
    assert str(only(two.audit())) == "epoch 0, step 1, batch 3, rank 0: delivered again, and not marked as a repeat"


def test_a_batch_delivered_to_the_wrong_rank(two: Training) -> None:
    moved = Messages()
    two.edit(lambda messages: moved.append(messages.pop(2)), rank=1)
    two.edit(lambda messages: messages.insert(3, [row | {"rank": 0} for row in moved[0]]))
    assert str(only(two.audit())) == "epoch 0, step 1, batch 3, rank 0: delivered to rank 0, and rank 1 had the turn"


def swap(two: Training, steps: range) -> None:
    zero, one = Messages(), Messages()
    two.edit(lambda messages: zero.extend(messages))
    two.edit(lambda messages: one.extend(messages), rank=1)
    for step in steps:
        zero[step + 1], one[step + 1] = (
            [row | {"rank": 0} for row in one[step + 1]],
            [row | {"rank": 1} for row in zero[step + 1]],
        )
    two.edit(lambda messages: zero)
    two.edit(lambda messages: one, rank=1)


def test_two_swapped_ranks(two: Training) -> None:
    swap(two, range(3, 4))
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 3, batches 6 to 7: ranks 0 and 1 are swapped"
    assert problem.kind == "swapped"


def test_two_ranks_swapped_for_long_are_one_problem(two: Training) -> None:
    swap(two, range(2, 6))
    assert str(only(two.audit())) == "epoch 0, steps 2 to 5, batches 4 to 11: ranks 0 and 1 are swapped"


def test_two_ranks_that_took_each_others_names(two: Training) -> None:
    for rank in range(2):
        two.edit(lambda m, rank=rank: [[row | {"rank": 1 - rank} for row in rows] for rows in m[:5]] + m[5:], rank=rank)
    assert str(only(two.audit())) == "epoch 0, steps 0 to 3, batches 0 to 7: ranks 0 and 1 are swapped"


def test_a_batch_under_another_step(two: Training) -> None:
    two.edit(lambda messages: [row.update(step=6) for row in messages[3]] and None)
    problem = only(two.audit())
    assert (problem.kind, problem.steps, problem.batches) == ("step", (2, 2), (4, 4))


def test_a_batch_beyond_the_plan(two: Training) -> None:
    beyond = lambda m: [*m[:-1], [row | {"batch": 16, "step": 8} for row in m[1]], m[-1]]  # noqa: E731
    two.edit(beyond)
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 8, batch 16, rank 0: delivered, and the plan has no such batch for it"
    assert problem.kind == "unplanned"


def test_a_dropped_batch_that_was_delivered(training: Training) -> None:
    training.settings = {"tail": "drop"}
    training.run(2)
    training.edit(lambda m: [*m[:-1], [row | {"batch": 14, "step": 7} for row in m[1]], m[-1]])
    assert only(training.audit()).kind == "unplanned"


def test_a_repeat_where_none_belongs(two: Training) -> None:
    two.edit(lambda messages: [row.update(repeat=True) for row in messages[3]] and None)
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 2, batch 4, rank 0: marked as a repeat where none belongs"
    assert problem.kind == "repeat"


def test_a_second_delivery_that_is_marked_as_a_repeat_where_none_belongs(two: Training) -> None:
    two.edit(lambda m: [*m[:4], [row | {"repeat": True} for row in m[3]], *m[4:]])
    assert str(only(two.audit())) == "epoch 0, step 2, batch 4, rank 0: marked as a repeat where none belongs"


def test_a_repeat_that_is_not_marked(two: Training) -> None:
    two.edit(lambda messages: [row.update(repeat=False) for row in messages[8]] and None, rank=1)
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 7, batch 14, rank 1: delivered again, and not marked as a repeat"
    assert problem.kind == "twice"


def test_an_epoch_that_ended_before_its_last_batch(two: Training) -> None:
    for rank in range(2):
        two.edit(lambda m: [*m[:6], [m[-1][0] | {"step": 5, "batch": 10}]], rank=rank)
    problem = only(two.audit())
    assert str(problem) == "epoch 0, step 5: ended after 5 steps, before its last batch"
    assert problem.kind == "ended"


def test_an_epoch_that_ended_before_its_last_batch_and_the_next_was_begun(training: Training) -> None:
    training.run(epochs=2)
    training.edit(lambda m: [*m[:6], [m[16][0] | {"step": 5, "batch": 5}], *m[17:]])
    assert str(only(training.audit())) == "epoch 0, step 5: ended after 5 steps, before its last batch"


def test_ranks_that_made_different_numbers_of_steps(two: Training) -> None:
    two.edit(lambda m: [*m[:6], [m[-1][0] | {"step": 5, "batch": 10}]], rank=1)
    problem = only(two.audit())
    assert str(problem) == "epoch 0: the ranks made different numbers of steps (rank 0: 8, rank 1: 5)"
    assert problem.kind == "steps"


def test_ranks_that_made_more_steps_than_planned(two: Training) -> None:
    for rank in range(2):
        two.edit(lambda m: [*m[:-1], [m[-1][0] | {"step": 9}]], rank=rank)
    assert str(only(two.audit())) == "epoch 0: the ranks made 9 steps, and the plan has 8"


def test_an_attempt_that_counts_steps_otherwise(training: Training) -> None:
    states = training.run(steps=4)
    training.run(state=states[4])

    def back(messages: Messages) -> Messages:  # fmt: skip
        return [[row | {"step": row["step"] - 4} for row in rows] for rows in messages]

    training.edit(back, run=1)
    problem = only(training.audit())
    assert (problem.kind, problem.what) == ("step", "an attempt begins at step 0, and those before it made 4")


def test_skipped_and_substituted_samples_are_counted_and_no_problem(two: Training) -> None:
    two.edit(lambda messages: messages[3][1].update(skipped=True))
    two.edit(lambda messages: messages[3][2].update(substitute="other"), rank=1)
    report = two.audit(epochs=1)
    assert report.problems == []
    assert counts(report) == {
        "batches": 15, "samples": 60, "exact": 58, "skipped": 1, "substituted": 1, "repeats": 1, "finished": True
    }  # fmt: skip


def test_several_faults_are_each_found_and_at_most_so_many_listed(two: Training) -> None:
    two.edit(lambda messages: [rows.pop() for rows in delivered(messages)] and None)
    assert {problem.kind for problem in two.audit().problems} == {"missing"}
    assert two.audit().problem_count == 8
    few = two.audit(most=3)
    assert (len(few.problems), few.problem_count) == (3, 8)
    assert [problem.batches for problem in few.problems] == [(0, 0), (2, 2), (4, 4)]


def test_a_report_is_json(two: Training) -> None:
    two.edit(lambda messages: messages[:3] + messages[4:], rank=1)
    figures = json.loads(json.dumps(two.audit().figures()))
    assert (figures["clean"], figures["problem_count"], figures["samples"], figures["restarts"]) == (False, 1, 56, 0)
    assert figures["problems"] == [
        {"kind": "lost", "what": "not delivered", "epoch": 0, "rank": 1, "steps": [2, 2], "batches": [5, 5]}
    ]


def test_what_leaves_no_index_cannot_be_audited(tmp_path: Path) -> None:
    made = Pipeline(Items(_numbers, window=4), Batch(2), Collate("value", layout="stack"))
    with Loader(made, ledger=tmp_path / "ledger") as loader:
        assert len(list(loader)) == 4
    with pytest.raises(DataError, match="its source is Items, which leaves no index"):
        audit([tmp_path / "ledger"], ["x"])


def _numbers() -> range:
    return range(8)


def test_an_attempt_may_begin_where_the_last_step_of_an_epoch_ended(shards: Path, tmp_path: Path) -> None:
    """Killed between the last step, which was filled with a repeat, and the end of the epoch."""
    made, ledger = images(shards), tmp_path / "ledger"
    for rank in range(2):
        with Loader(made, rank=rank, world_size=2, ledger=ledger) as loader:
            assert len(list(islice(loader, 8))) == 8
            state = loader.state_dict()
    assert state["batch"] == 15
    for rank in range(3):
        with Loader(made, rank=rank, world_size=3, ledger=ledger) as loader:
            loader.load_state_dict(state)
            assert list(loader) == []
            assert len(list(loader)) == 5
    report = audit([ledger], [str(shards / "cifar10" / "train")], epochs=2)
    assert report.problems == []
    assert [epoch.repeats for epoch in report.epochs] == [1, 0]
