"""When to prune: the paper's points (spec speat.md 4.1 to 4.3), the trigger by hand, records, going on after a stop."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from layertool.errors import ModelError, StoreError, UsageError
from layertool.training import schedules
from layertool.training.schedules import Record, Schedule, Trigger

# --- the paper -------------------------------------------------------------------------------------


def test_points_of_heads():
    expected = [1_000, 26_000, 51_000, 76_000, 101_000, 126_000, 166_000, 206_000, 246_000, 286_000, 326_000]
    assert list(schedules.HEAD_STEPS) == expected
    heads = Schedule("heads", schedules.HEAD_STEPS, 1)
    heads.check([12] * 12)  # 12 to 1
    with pytest.raises(
        UsageError, match="11 prunings remove 11 heads of each block, but block 2 has 11, and one must stay"
    ):
        heads.check([12, 11])
    Schedule("heads", schedules.HEAD_STEPS[:7], 1).check([8] * 3)
    # the last models are trained for 40 000 and 5 000 steps more
    assert {name: total - expected[-1] for name, total in schedules.HEAD_TOTALS.items()} == {
        "melhubert": 40_000,
        "wav2vec2": 5_000,
    }


def test_points_of_rows():
    steps = schedules.ROW_STEPS
    assert (len(steps), steps[0], steps[1], steps[-1]) == (20, 1_000, 26_000, 476_000)
    rows = Schedule("rows", steps, schedules.ROWS_AT_ONCE)
    rows.check([3072] * 12)
    with pytest.raises(UsageError, match="20 prunings remove 2560 rows of each block, but block 1 has 2560"):
        rows.check([2560])
    assert 3072 - sum(rows.amounts) == 512


def test_points_of_weights():
    assert len(schedules.SPARSITIES) == 19
    assert schedules.SPARSITIES[8:11] == (0.7, 0.71, 0.72)
    assert schedules.SPARSITIES[-1] == 0.8
    replayed = Schedule("weights", schedules.WAV2VEC2_WEIGHT_STEPS, schedules.SPARSITIES)
    assert (replayed.steps[0], replayed.steps[1], replayed.steps[-1]) == (5_000, 130_000, 3_230_000)
    replayed.check([1])  # of weights no block can have too few
    assert replayed.steps[-1] < schedules.WAV2VEC2_WEIGHT_TOTAL


# --- fixed steps -----------------------------------------------------------------------------------


def play(schedule: Schedule, steps) -> list[tuple[int, float]]:
    done = []
    for step in steps:
        if amount := schedule.due(step):
            done.append((step, amount))
            schedule.done(step)
    return done


def test_a_schedule_is_played_once():
    schedule = Schedule("rows", [0, 3, 4], [5, 6, 7])
    assert play(schedule, range(10)) == [(0, 5), (3, 6), (4, 7)]
    assert schedule.is_finished
    assert play(schedule, range(10)) == []


def test_due_says_so_until_it_is_done():
    schedule = Schedule("heads", [2], 1)
    assert [schedule.due(step) for step in (0, 1, 2, 2)] == [0, 0, 1, 1]
    with pytest.raises(UsageError, match="nothing was to be pruned at step 1"):
        schedule.done(1)
    with pytest.raises(UsageError, match="at step 3 has passed over the pruning at step 2"):
        schedule.due(3)


@pytest.mark.parametrize("stop", range(12))
@pytest.mark.parametrize("before", [True, False])
def test_a_stopped_schedule_goes_on(stop, before):
    """Stopped just before or just after what is due at a step; the state goes through JSON."""
    whole = play(Schedule("weights", [0, 5, 9], [0.1, 0.2, 0.3]), range(12))
    first = Schedule("weights", [0, 5, 9], [0.1, 0.2, 0.3])
    done = play(first, range(stop if before else stop + 1))
    second = Schedule("weights", (0, 5, 9), (0.1, 0.2, 0.3))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert done + play(second, range(stop, 12)) == whole


def test_what_is_left_must_fit():
    schedule = Schedule("heads", [1, 2, 3], 1)
    play(schedule, range(3))
    schedule.check([2, 2])  # two are gone already
    with pytest.raises(UsageError, match="1 prunings remove 1 heads of each block, but block 2 has 1"):
        schedule.check([2, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heads", [3, 1], 1), "the earliest first"),
        (("heads", [1, 1], 1), "the earliest first"),
        (("heads", [-1, 1], 1), "whole numbers from 0 on"),
        (("heads", [1.5], 1), "whole numbers from 0 on"),
        (("heads", [True], 1), "whole numbers from 0 on"),
        (("heads", [], 1), "one or more"),
        (("heads", [1], 0), "1 or more"),
        (("rows", [1], 0.5), "1 or more"),
        (("rows", [1, 2], [3]), "1 amounts do not fit 2 steps"),
        (("weights", [1, 2], [0.3, 0.2]), "that ascend"),
        (("weights", [1, 2], 0.2), "that ascend"),
        (("weights", [1], [1.0]), "between 0 and 1"),
        (("weights", [1], ["much"]), "between 0 and 1"),
        (("weights", [1], [math.nan]), "between 0 and 1"),
        (("layers", [1], 1), "'layers' cannot be pruned"),
    ],
)
def test_schedules_that_cannot_be(arguments, message):
    with pytest.raises(UsageError, match=message):
        Schedule(*arguments)


def test_states_of_others():
    state = Schedule("heads", [1, 2], 1).state_dict()
    for other in (Schedule("heads", [1, 3], 1), Schedule("rows", [1, 2], 1), Schedule("heads", [1, 2], 2)):
        with pytest.raises(UsageError, match="go on with the same"):
            other.load_state_dict(state)
    with pytest.raises(UsageError, match="is not that of such a schedule"):
        Trigger().load_state_dict(state)
    with pytest.raises(UsageError, match="go on with the same"):
        Trigger(decay=0.9).load_state_dict(Trigger().state_dict())


# --- the trigger -----------------------------------------------------------------------------------

SMALL = {"warm_up": 25, "period": 25, "lag": 15, "decay": 0.9}


def slowly(
    losses, sparsities, seeding="first", warm_up=25, period=25, lag=15, decay=0.9, improvement=0.001
) -> dict[int, str]:
    """Decisions from lists of all losses since the last pruning, the average computed anew at each point."""

    def average(since: int, until: int) -> float:
        own = losses[since:until]
        if seeding == "corrected":
            weights = [decay**k for k in range(len(own))][::-1]
            return sum(map(float.__mul__, weights, own)) / sum(weights)
        value, rest = (own[0], own[1:]) if seeding == "first" else (sum(own[:3]) / 3, own[4:])
        for loss in rest:
            value = decay * value + (1 - decay) * loss
        return value

    decisions: dict[int, str] = {}
    since, n_done = 0, 0
    for point in range(warm_up, len(losses) + 1, period):
        if n_done == len(sparsities):
            break
        if n_done and average(since, point) < average(since, point - lag) - improvement:
            decisions[point] = "wait"
        else:
            decisions[point] = "prune"
            since, n_done = point, n_done + 1
    return decisions


def decide(trigger: Trigger, losses, start=0) -> dict[int, str]:
    out = {}
    for step, loss in enumerate(losses[start:], start=start + 1):
        if (decision := trigger.update(step, loss)) != "go on":
            out[step] = decision
    return out


def test_the_first_pruning_is_unconditional():
    losses = list(np.linspace(9, 1, 60))  # always better
    trigger = Trigger([0.2, 0.4], **SMALL)
    assert trigger.sparsity == 0.0
    assert decide(trigger, losses) == {25: "prune", 50: "wait"}
    assert (trigger.n_done, trigger.n_waits, trigger.sparsity, trigger.is_finished) == (1, 1, 0.2, False)


def test_a_flat_loss_prunes_at_every_point():
    trigger = Trigger([0.2, 0.3, 0.4], **SMALL)
    assert decide(trigger, [1.0] * 200) == {25: "prune", 50: "prune", 75: "prune"}
    assert (trigger.is_finished, trigger.sparsity, trigger.n_waits) == (True, 0.4, 0)


def test_how_much_is_an_improvement():
    """From step 26 on the average falls by a known amount between steps 35 and 50."""
    for fall, decision in ((0.0009, "prune"), (0.0011, "wait"), (-0.5, "prune")):
        losses = [1.0] * 35 + [1.0 - fall / (1 - 0.9**15)] * 15
        assert decide(Trigger([0.2, 0.3], **SMALL), losses)[50] == decision


def test_the_reference_is_of_the_lag():
    """The loss falls between steps 30 and 40: an improvement on step 35, not on step 49."""
    losses = [1.0] * 30 + [1.0 - 0.1 * k for k in range(1, 11)] + [0.0] * 10
    losses = losses[:40] + [0.35] * 10  # near what the average is by then
    assert decide(Trigger([0.2, 0.3], **SMALL), losses)[50] == "wait"
    assert decide(Trigger([0.2, 0.3], **{**SMALL, "lag": 1}), losses[:40] + [0.9] * 10)[50] == "prune"


def test_the_average_begins_anew_after_pruning():
    """Losses of 9 before the pruning would look like an improvement for long after."""
    assert decide(Trigger([0.2, 0.3], **SMALL), [9.0] * 25 + [1.0] * 25) == {25: "prune", 50: "prune"}


def test_the_original_seeding():
    trigger = Trigger([0.2], warm_up=100, period=25, lag=15, decay=0.5, seeding="original")
    averages = []
    for step, loss in enumerate([1.0, 2.0, 6.0, 100.0, 5.0, 4.0], start=1):
        trigger.update(step, loss)
        averages.append(trigger.average)
    assert averages == [None, None, 3.0, 3.0, 4.0, 4.0]
    first = Trigger([0.2], warm_up=100, period=25, lag=15, decay=0.5)
    first.update(1, 1.0)
    first.update(2, 2.0)
    assert first.average == 1.5


def test_what_an_average_begins_with_weighs():
    """One bad batch after a pruning looks like an improvement for a period, unless all losses weigh alike."""
    losses = [1.0] * 25_000 + [1.1] + [1.0] * 24_999
    for seeding, decision in (("first", "wait"), ("original", "wait"), ("corrected", "prune")):
        assert decide(Trigger([0.2, 0.3], seeding=seeding), losses) == {25_000: "prune", 50_000: decision}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("seeding", schedules.SEEDINGS)
def test_decisions_by_hand(seed, seeding):
    random = np.random.default_rng(seed)
    losses = (np.exp(-np.arange(700) / 150) + 0.02 * random.standard_normal(700)).tolist()
    sparsities = [0.1 * k for k in range(1, 9)]
    expected = slowly(losses, sparsities, seeding)
    assert {"wait", "prune"} == set(expected.values())
    trigger = Trigger(sparsities, **SMALL, seeding=seeding)
    assert decide(trigger, losses) == expected
    assert trigger.n_done == list(expected.values()).count("prune")
    assert trigger.n_waits == list(expected.values()).count("wait")


@pytest.mark.parametrize("warm_up", [1, 10, 40])
def test_a_warm_up_unlike_the_period(warm_up):
    random = np.random.default_rng(5)
    losses = (np.exp(-np.arange(400) / 99) + 0.02 * random.standard_normal(400)).tolist()
    expected = slowly(losses, [0.1, 0.2, 0.3, 0.4], warm_up=warm_up)
    assert min(expected) == warm_up
    assert decide(Trigger([0.1, 0.2, 0.3, 0.4], **{**SMALL, "warm_up": warm_up}), losses) == expected


@pytest.mark.parametrize("seeding", schedules.SEEDINGS)
def test_a_stopped_trigger_goes_on(seeding):
    random = np.random.default_rng(1)
    losses = (np.exp(-np.arange(260) / 150) + 0.02 * random.standard_normal(260)).tolist()
    whole = Trigger([0.1, 0.2, 0.3], **SMALL, seeding=seeding)
    expected = decide(whole, losses)
    for stop in (0, 1, 2, 3, 4, 24, 25, 26, 27, 28, 35, 36, 49, 50, 51, 99, 260):
        first = Trigger([0.1, 0.2, 0.3], **SMALL, seeding=seeding)
        done = decide(first, losses[:stop])
        second = Trigger([0.1, 0.2, 0.3], **SMALL, seeding=seeding)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert done | decide(second, losses, stop) == expected
        assert second == whole


def test_steps_of_the_paper():
    """Decisions at 25 k, 50 k, ...; the reference at 35 k."""
    trigger, seen = Trigger([0.2, 0.3]), {}
    for step in range(1, 50_001):
        trigger.update(step, 1.0)
        if trigger.reference is not None and "reference" not in seen:
            seen["reference"] = step
        if trigger.n_done and "first" not in seen:
            seen["first"] = step
            seen.pop("reference")
    assert seen == {"first": 25_000, "reference": 35_000}
    assert (trigger.n_done, trigger.decision_step) == (2, 75_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsities": []}, "between 0 and 1"),
        ({"sparsities": [0.3, 0.2]}, "that ascend"),
        ({"seeding": "zero"}, "first or original or corrected"),
        ({"warm_up": 0}, "the first is 1 or more"),
        ({"decay": 1.0}, "below 1"),
        ({"improvement": math.inf}, "cannot be"),
        ({"lag": 0}, "a lag of 0 steps"),
        ({"lag": 25_000}, "give 1 to 24999"),
        ({"lag": 24_998, "seeding": "original"}, "give 1 to 24997"),
    ],
)
def test_triggers_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        Trigger(**settings)


def test_losses_that_cannot_be():
    trigger = Trigger([0.2])
    trigger.update(1, 1.0)
    for step in (1, 3, 0):
        with pytest.raises(UsageError, match=f"stands at step 1 and was given step {step}"):
            trigger.update(step, 1.0)
    for loss in (math.nan, math.inf):
        with pytest.raises(ModelError, match="the loss of step 2 is"):
            trigger.update(2, loss)


# --- records ---------------------------------------------------------------------------------------


def test_another_run_repeats_a_record(tmp_path):
    record = Record("weights")
    for step, sparsity in ((25_000, 0.2), (75_000, 0.3)):
        record.add(step, sparsity)
        record.write(tmp_path / "r.json")  # after each: a run that is stopped has what it did
    schedule = Record.read(tmp_path / "r.json").schedule()
    assert (schedule.kind, schedule.steps, schedule.amounts) == ("weights", (25_000, 75_000), (0.2, 0.3))
    heads = Record("heads")
    heads.add(0, 1, [[2], [0], [1]])
    heads.write(tmp_path / "h.json")
    back = Record.read(tmp_path / "h.json")
    assert (back.kind, back.steps, back.amounts, back.removed) == ("heads", [0], [1], [[[2], [0], [1]]])
    with pytest.raises(UsageError, match="the earliest first"):
        heads.add(0, 1)
    assert heads.steps == [0]
    with pytest.raises(UsageError, match="one or more"):
        Record("rows").schedule()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, UsageError, "is no file"),
        ("{", StoreError, "not readable as the record"),
        ("[1, 2]", UsageError, "is no record of a pruning run"),
        ('{"kind": "heads", "prunings": []}', UsageError, "is no record of a pruning run"),
        ('{"record": "layertool pruning record", "kind": "heads"}', UsageError, "is no record"),
        (
            '{"record": "layertool pruning record", "kind": "heads", "prunings": [{"step": 1}]}',
            UsageError,
            "is no record",
        ),
        (
            '{"record": "layertool pruning record", "kind": "h", "prunings": [{"step": 1, "amount": 1}]}',
            UsageError,
            "'h' cannot be pruned",
        ),
        (
            '{"record": "layertool pruning record", "kind": "heads", "prunings": [{"step": -1, "amount": 1}]}',
            UsageError,
            "r.json: steps",
        ),
        (
            '{"record": "layertool pruning record", "kind": "heads", "prunings": [{"step": "1", "amount": 1}]}',
            UsageError,
            "r.json: steps",
        ),
        (
            '{"record": "layertool pruning record", "kind": "rows", "prunings": [{"step": 1, "amount": [1]}]}',
            UsageError,
            "r.json: ",
        ),
    ],
)
def test_files_that_are_no_records(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(error, match=message):
        Record.read(tmp_path / "r.json")
