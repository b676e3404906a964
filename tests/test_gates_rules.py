"""The rules that count, look up and combine; those that read a curve are in `test_gates_rules_curves.py`."""

import json
from dataclasses import dataclass
from statistics import median

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from records import curve, evaluated, flat, incident, saved, scored, start, trained

from xtts_gatekeeper.gates import RULES
from xtts_gatekeeper.gates.rules.base import Finding, When
from xtts_gatekeeper.gates.rules.checkpoint_intact import CheckpointIntact
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf, AtLeast
from xtts_gatekeeper.gates.rules.comparable import Comparable
from xtts_gatekeeper.gates.rules.divergence import Divergence
from xtts_gatekeeper.gates.rules.finite import Finite
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.learning_rate import LearningRate
from xtts_gatekeeper.gates.rules.memory import Memory
from xtts_gatekeeper.gates.rules.nan_repeated import NanRepeated
from xtts_gatekeeper.gates.rules.no_leak import NoLeak
from xtts_gatekeeper.gates.rules.not_regressed import NotRegressed
from xtts_gatekeeper.gates.rules.not_worsening import NotWorsening
from xtts_gatekeeper.gates.rules.out_of_memory import OutOfMemory
from xtts_gatekeeper.gates.rules.overfit import Overfit
from xtts_gatekeeper.gates.rules.plateau import Plateau
from xtts_gatekeeper.gates.rules.runtime import Runtime
from xtts_gatekeeper.gates.rules.slowing import Slowing
from xtts_gatekeeper.gates.rules.spike import Spike
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.threshold import Threshold
from xtts_gatekeeper.gates.rules.trend import Trend
from xtts_gatekeeper.record.journal import to_json

MEL = "eval.mel_ce"
NAN, INF = float("nan"), float("inf")


def record_of(*parts, **values):
    return records.record_of(flat(parts), **values)


def status(rule, *parts, **values):
    return rule.check(record_of(*parts, **values)).status


# finite, nan_repeated


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], "too_early"),
        ([trained(0, mel=2.0)], "passed"),
        ([evaluated(0, 2.0)], "passed"),
        ([evaluated(0, NAN)], "failed"),
        ([evaluated(0, INF)], "failed"),
        ([evaluated(0, -INF)], "failed"),
        ([evaluated(0, 2.0, nonfinite_batches=1)], "passed"),  # a bad clip of the eval set
        ([evaluated(0, 2.0, nonfinite_batches=1), evaluated(1, 1.9, nonfinite_batches=1)], "passed"),
        ([evaluated(0, 2.0, nonfinite_batches=1), evaluated(1, 1.9, nonfinite_batches=2)], "failed"),
        ([evaluated(0, 2.0), evaluated(1, 1.9, nonfinite_batches=1)], "failed"),
        ([evaluated(0, 2.0, nonfinite_batches=3)], "failed"),  # of four
        ([evaluated(0, nonfinite_batches=4)], "failed"),
        ([evaluated(0, 2.0, metrics={MEL: 2.0, "eval.text_ce": NAN})], "failed"),
        ([evaluated(0, NAN), evaluated(1, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=2, longest_nonfinite_run=2), evaluated(0, 2.0)], "passed"),
        ([trained(0, nonfinite_batches=3, longest_nonfinite_run=3), evaluated(0, 2.0)], "failed"),
        ([trained(0, nonfinite_batches=9, longest_nonfinite_run=1), evaluated(0, 2.0)], "passed"),
        ([trained(0, longest_nonfinite_run=3), trained(1), evaluated(1, 2.0)], "passed"),
    ],
)
def test_finite_fails_on_a_nan_evaluation_or_three_nan_batches_in_a_row(parts, expected):
    assert status(Finite(consecutive=3), parts) == expected


@pytest.mark.parametrize(("consecutive", "expected"), [(2, "failed"), (3, "passed")])
def test_how_many_nan_batches_in_a_row_are_too_many_can_be_chosen(consecutive, expected):
    parts = [trained(0, nonfinite_batches=2, longest_nonfinite_run=2), evaluated(0, 2.0)]
    assert status(Finite(consecutive), parts) == expected


def test_isolated_nan_batches_are_mentioned():
    finding = Finite().check(record_of(trained(0, nonfinite_batches=5, longest_nonfinite_run=1), evaluated(0, 2.0)))
    assert finding.status == "passed"
    assert "5 isolated NaN batches" in finding.message
    assert finding.evidence == {"isolated_nonfinite_batches": 5}


def test_a_training_loss_that_is_nan_beside_a_finite_evaluation_is_not_called_finite():
    finding = Finite().check(record_of(trained(0, mel=NAN), evaluated(0, 2.0), source="table"))
    assert finding.status == "passed"
    assert "train.mel_ce of the last epoch gave NaN" in finding.message


def test_finite_names_the_batches_or_the_metrics():
    batches = Finite().check(record_of(evaluated(0, 2.0, nonfinite_batches=3)))
    assert "3 of 4 batches" in batches.message
    metric = Finite().check(record_of(evaluated(0, NAN)))
    assert MEL in metric.message
    assert metric.evidence["metrics"] == [MEL]


BROKEN = {"nonfinite_batches": 3, "longest_nonfinite_run": 3}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([start(), trained(0, **BROKEN)], "passed"),
        ([start(), trained(0, **BROKEN), evaluated(0, NAN)], "passed"),
        ([start(), trained(0, **BROKEN), start(), trained(0, **BROKEN)], "failed"),
        ([start(), evaluated(0, NAN), start(), evaluated(0, NAN)], "failed"),
        ([start(), trained(0, **BROKEN), start(), evaluated(0, NAN)], "failed"),
        ([start(), curve(2.0, NAN), start(step=10), curve(1.9, first=1)], "passed"),
        ([start(), curve(2.0, NAN), start(step=10), curve(1.9, first=1), start(20), curve(NAN, first=2)], "failed"),
        ([start(), curve(2.0), start(step=10), curve(1.9, NAN, first=1)], "passed"),
        ([start(), trained(0, nonfinite_batches=5, longest_nonfinite_run=2), start(), trained(0, **BROKEN)], "passed"),
        ([curve(NAN, NAN)], "passed"),
        ([curve(NAN), start(), curve(NAN)], "failed"),
    ],
)
def test_nan_repeated_fails_on_nan_in_two_processes_of_a_run(parts, expected):
    assert status(NanRepeated(), parts) == expected


def test_nan_repeated_names_the_step_at_which_each_process_broke():
    record = record_of(start(), curve(2.0, NAN, NAN), start(step=10), curve(1.9, NAN, first=1))
    finding = NanRepeated().check(record)
    assert finding.evidence == {"steps": [20, 30]}
    assert "steps 20 and 30" in finding.message


# memory, out_of_memory, checkpoint_intact, learning_rate, runtime, no_leak


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("", "not_measured"),
        ("high high", "too_early"),
        ("high high high", "failed"),
        ("high critical high", "failed"),
        ("high moderate critical", "passed"),
        ("low high high high", "failed"),
        ("high high high low", "passed"),
    ],
)
def test_memory_fails_only_when_it_was_high_in_every_one_of_the_last_epochs(states, expected):
    assert status(Memory(3), [trained(n, memory_state=state) for n, state in enumerate(states.split())]) == expected


def test_memory_that_no_epoch_tells_is_not_measured():
    assert status(Memory(1), [trained(n, memory_state=None) for n in range(5)], source="console") == "not_measured"


@pytest.mark.parametrize(("allowed", "expected"), [(0, "failed"), (1, "failed"), (2, "passed"), (3, "passed")])
def test_out_of_memory_fails_beyond_what_is_allowed(allowed, expected):
    parts = [incident(5, "oom"), incident(6, "something"), start(step=5), incident(7, "oom")]
    finding = OutOfMemory(allowed).check(record_of(parts))
    assert finding.status == expected
    assert finding.evidence == {"steps": [5, 7]}
    assert status(OutOfMemory(0), curve(2.0)) == "passed"


@pytest.mark.parametrize(
    ("parts", "source", "expected"),
    [
        ([], "journal", "too_early"),
        ([], "console", "not_measured"),
        ([saved(1)], "journal", "passed"),
        ([saved(1, intact=None)], "console", "not_measured"),
        ([saved(1), saved(2, intact=False, reason="disk full")], "journal", "failed"),
        ([saved(1, intact=False), saved(2)], "journal", "passed"),
    ],
)
def test_checkpoint_intact_looks_at_the_newest_file(parts, source, expected):
    assert status(CheckpointIntact(), parts, source=source) == expected


def test_the_cause_of_a_failed_save_is_told():
    assert "disk full" in CheckpointIntact().check(record_of(saved(2, intact=False, reason="disk full"))).message


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([start()], "passed"),
        ([start(), incident(1, "lr_not_as_planned", "rate 2 is not 1")], "failed"),
        ([start(), incident(1, "another")], "passed"),
        ([start(), incident(1, "lr_not_as_planned"), start(step=2)], "passed"),
        ([start(), start(step=2), incident(3, "lr_not_as_planned")], "failed"),
    ],
)
def test_learning_rate_fails_on_a_wrong_update_since_this_process_started(parts, expected):
    assert status(LearningRate(), parts) == expected


def test_only_a_journal_knows_the_learning_rate_that_was_asked_for():
    assert status(LearningRate(), [start()], source="console") == "not_measured"


@pytest.mark.parametrize(
    ("seconds", "epochs", "expected"),
    [
        ([], 30, "too_early"),
        ([None], 30, "too_early"),
        ([3600], None, "not_measured"),
        ([3600], 11, "failed"),
        ([3600], 10, "passed"),
        ([60, 7200, 60], 30, "passed"),
        ([7200, 60, 7200], 30, "failed"),
        ([None, 3600], 11, "failed"),
    ],
)
def test_runtime_takes_the_median_epoch_times_the_plan(seconds, epochs, expected):
    parts = [start(epochs_planned=epochs), *(trained(n, seconds=s) for n, s in enumerate(seconds))]
    finding = Runtime(max_hours=10).check(record_of(parts))
    assert finding.status == expected
    if expected in ("passed", "failed"):
        known = [s for s in seconds if s is not None]
        assert finding.evidence["hours"] == pytest.approx(median(known) / 3600 * epochs)


def test_runtime_without_a_start_is_not_measured():
    assert status(Runtime(1), [trained(0)], source="table") == "not_measured"


@pytest.mark.parametrize(("leaked", "expected"), [(None, "not_measured"), (0, "passed"), (1, "failed"), (20, "failed")])
def test_no_leak_fails_on_a_single_eval_clip_that_is_trained_on(leaked, expected):
    assert status(NoLeak(), [start(eval_clips_trained_on=leaked)]) == expected


def test_no_leak_goes_by_the_latest_start_and_needs_one():
    assert status(NoLeak(), [start(eval_clips_trained_on=3), start(step=10, eval_clips_trained_on=0)]) == "passed"
    assert status(NoLeak(), curve(2.0), source="console") == "not_measured"


# comparable, and the segments of a record


def segments_of(*parts, **values):
    return [[e.step for e in segment.evaluations] for segment in record_of(*parts, **values).segments]


def test_a_changed_fingerprint_ends_a_segment():
    parts = [curve(2.0, 1.9, eval_set="a"), curve(1.8, first=2, eval_set="b")]
    assert segments_of(parts) == [[10, 20], [30]]
    finding = Comparable().check(record_of(parts))
    assert finding.status == "failed"
    assert finding.evidence["breaks"][0]["step"] == 30
    assert "a to b" in finding.message
    assert "only what came after is compared" in finding.message


def test_another_number_of_clips_in_a_log_ends_a_segment():
    parts = [curve(2.0, 1.9, eval_set="12 samples"), curve(1.8, first=2, eval_set="13 samples")]
    assert segments_of(parts, source="console") == [[10, 20], [30]]
    assert status(Comparable(), parts, source="console") == "failed"


def test_an_eval_set_that_comes_back_is_still_a_segment_of_its_own():
    parts = [curve(2.0, eval_set="a"), curve(1.9, first=1, eval_set="b"), curve(1.8, first=2, eval_set="a")]
    assert segments_of(parts) == [[10], [20], [30]]
    assert len(Comparable().check(record_of(parts)).evidence["breaks"]) == 2


FALLING = curve(3.0, 2.9, 2.8, 2.7, eval_set=None)


@pytest.mark.parametrize(
    ("value", "cut"),
    [(2.6, False), (2.48, False), (2.46, True), (2.2, True), (1.0, True), (2.9, False), (3.18, False), (3.2, True)],
)
def test_a_jump_at_a_resume_ends_a_segment_only_when_training_cannot_explain_it(value, cut):
    parts = [start(), FALLING, start(step=40), curve(value, first=4, eval_set=None)]
    record = record_of(parts, source="console")
    assert [len(segment.evaluations) for segment in record.segments] == ([4, 1] if cut else [5])
    finding = Comparable().check(record)
    assert finding.status == ("failed" if cut else "passed")
    assert ("with a resume in between" in finding.message) == cut


def test_the_same_jump_without_a_resume_is_the_model_and_ends_no_segment():
    assert segments_of(start(), FALLING, curve(1.0, first=4, eval_set=None), source="console") == [[10, 20, 30, 40, 50]]


def test_only_the_first_evaluation_after_a_resume_can_end_a_segment():
    parts = [start(), FALLING, start(step=40), curve(2.65, 1.0, first=4, eval_set=None)]
    assert segments_of(parts, source="console") == [[10, 20, 30, 40, 50, 60]]


def test_more_steps_between_explain_a_larger_fall():
    later = [start(), FALLING, start(step=40), evaluated(9, 2.2, eval_set=None)]
    assert segments_of(later, source="console") == [[10, 20, 30, 40, 100]]


def test_the_faster_of_the_latest_pace_and_that_of_the_whole_run_counts():
    parts = [start(), curve(*[3.0] * 6, 2.9, 2.8, 2.7, 2.6, eval_set=None), start(step=100)]
    assert len(record_of(parts, curve(2.43, first=10, eval_set=None), source="console").segments) == 1


def test_below_three_evaluations_there_is_no_pace_and_no_cut():
    parts = [start(), curve(3.0, 2.9, eval_set=None), start(step=20), curve(1.0, first=2, eval_set=None)]
    assert segments_of(parts, source="console") == [[10, 20, 30]]


@pytest.mark.parametrize(
    ("source", "eval_set", "cut"), [("journal", "dev", False), ("journal", None, True), ("console", "12 samples", True)]
)
def test_a_known_fingerprint_is_trusted_and_a_count_of_clips_is_not(source, eval_set, cut):
    parts = [start(), curve(3.0, 2.9, 2.8, 2.7, eval_set=eval_set), start(step=40)]
    record = record_of(parts, curve(1.0, first=4, eval_set=eval_set), source=source)
    assert len(record.segments) == (2 if cut else 1)


def test_an_abandoned_stretch_is_not_compared():
    parts = [start(), curve(3.0, 2.9, 2.8, 9.0, eval_set=None), start(step=30), curve(2.7, first=3, eval_set=None)]
    record = record_of(parts, source="console")
    assert [e.metrics[MEL] for e in record.evaluations] == [3.0, 2.9, 2.8, 2.7]
    assert Comparable().check(record).status == "passed"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [({MEL: 1.9}, "passed"), ({MEL: 1.90001}, "passed"), ({MEL: 1.8}, "failed"), ({}, "passed")],
)
def test_an_evaluation_is_missing_where_the_printed_difference_leads_elsewhere(printed, expected):
    parts = [evaluated(0, 2.0), evaluated(1, 1.9), evaluated(2, 1.7, previous=printed)]
    finding = Comparable().check(record_of(parts, source="console"))
    assert finding.status == expected
    assert finding.evidence["evaluations_missing_before"] == ([30] if expected == "failed" else [])


@pytest.mark.parametrize("parts", [[], [evaluated(0)], [evaluated(0, NAN), evaluated(1, 2.0, previous={MEL: 1.0})]])
def test_what_cannot_be_compared_breaks_no_chain(parts):
    assert status(Comparable(), parts, source="console") == "passed"


# all_of, any_of, at_least


@dataclass(frozen=True)
class Says:
    status: str

    def check(self, record):
        return Finding(self.status, f"it says {self.status}", {"said": self.status})


LETTERS = {"p": "passed", "f": "failed", "e": "too_early", "n": "not_measured"}


def says(letters):
    return tuple(Says(LETTERS[letter]) for letter in letters)


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("p", "p"), ("f", "f"), ("e", "e"), ("n", "n"),
        ("pp", "p"), ("pf", "f"), ("pe", "e"), ("pn", "p"), ("fe", "f"), ("fn", "f"), ("en", "e"), ("nn", "n"),
        ("efn", "f"), ("ppn", "p"), ("pen", "e"),
    ],
)  # fmt: skip
def test_all_of_fails_with_any_waits_for_any_and_passes_over_what_is_not_measured(letters, expected):
    assert status(AllOf(says(letters))) == status(AllOf(says(letters[::-1]))) == LETTERS[expected]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("p", "p"), ("f", "f"), ("e", "e"), ("n", "n"),
        ("pp", "p"), ("pf", "p"), ("pe", "p"), ("pn", "p"), ("fe", "e"), ("fn", "f"), ("en", "e"), ("nn", "n"),
        ("ff", "f"), ("ffe", "e"), ("ffn", "f"),
    ],
)  # fmt: skip
def test_any_of_passes_with_any_and_waits_for_any(letters, expected):
    assert status(AnyOf(says(letters))) == status(AnyOf(says(letters[::-1]))) == LETTERS[expected]


@pytest.mark.parametrize(
    ("count", "letters", "expected"),
    [
        (2, "ppf", "p"), (2, "pff", "f"), (2, "pfe", "e"), (2, "ppe", "p"), (2, "ffe", "f"), (2, "fee", "e"),
        (2, "pnn", "p"), (2, "fnn", "f"), (2, "enn", "e"), (2, "nnn", "n"), (2, "pfn", "f"), (2, "pen", "e"),
        (3, "ppp", "p"), (3, "ppf", "f"), (3, "ppn", "p"), (1, "pff", "p"),
    ],
)  # fmt: skip
def test_at_least_needs_so_many_or_all_that_are_left_to_measure(count, letters, expected):
    assert status(AtLeast(count, says(letters))) == status(AtLeast(count, says(letters[::-1]))) == LETTERS[expected]


def test_a_combination_says_only_what_decided_and_keeps_all_as_evidence():
    finding = AllOf(says("pfef")).check(record_of())
    assert finding.message == "it says failed and it says failed"
    assert [part["status"] for part in finding.evidence["of"]] == ["passed", "failed", "too_early", "failed"]
    assert AnyOf(says("pf")).check(record_of()).message == "it says passed"


# every rule


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Finite(0), "consecutive"),
        (lambda: NanRepeated(0), "consecutive"),
        (lambda: Divergence(MEL, times=0), "times"),
        (lambda: Divergence(MEL, times=INF), "times"),
        (lambda: Divergence(MEL, times=NAN), "times"),
        (lambda: NotWorsening(MEL, checks=0), "checks"),
        (lambda: NotWorsening(MEL, noises=-1), "noises"),
        (lambda: NotWorsening(MEL, noises=NAN), "noises"),
        (lambda: NotWorsening(MEL, tolerance=-0.1), "tolerance"),
        (lambda: Trend(MEL, window=1), "window"),
        (lambda: Trend(MEL, noise=-0.1), "noise"),
        (lambda: Improved(MEL, by=-0.1), "by"),
        (lambda: Improved(MEL, by=INF), "by"),
        (lambda: Improved(MEL, window=0), "window"),
        (lambda: NotRegressed(MEL, by=-1), "by"),
        (lambda: Plateau(MEL, worth=0), "worth"),
        (lambda: Plateau(MEL, worth=1), "worth"),
        (lambda: Plateau(MEL, window=2), "window"),
        (lambda: Plateau(MEL, window=61), "window"),
        (lambda: Slowing(MEL, pace=1), "pace"),
        (lambda: Slowing(MEL, share=0), "share"),
        (lambda: Slowing(MEL, window=2), "window"),
        (lambda: Overfit(window=2), "window"),
        (lambda: Overfit(share=1.1), "share"),
        (lambda: Overfit(noise=-0.1), "noise"),
        (lambda: Spike(MEL, window=2), "window"),
        (lambda: Spike(MEL, times=0), "times"),
        (lambda: Spike(MEL, share=-0.1), "share"),
        (lambda: Target(MEL, INF), "value"),
        (lambda: Target(MEL, NAN), "value"),
        (lambda: Threshold(MEL), "maximum"),
        (lambda: Threshold(MEL, maximum=NAN), "maximum"),
        (lambda: Threshold(MEL, minimum=NAN), "minimum"),
        (lambda: Threshold(MEL, maximum=1, minimum=2), "minimum"),
        (lambda: Memory(0), "epochs"),
        (lambda: OutOfMemory(-1), "allowed"),
        (lambda: Runtime(0), "max_hours"),
        (lambda: Runtime(NAN), "max_hours"),
        (lambda: AllOf(()), "rules"),
        (lambda: AnyOf(()), "rules"),
        (lambda: AtLeast(0, says("p")), "count"),
        (lambda: AtLeast(2, says("p")), "count"),
    ],
)
def test_a_senseless_argument_is_refused_with_its_name_first(make, field):
    with pytest.raises(ValueError, match=rf"^{field} "):
        make()


_NESTED = (Improved("sample.score"), Finite(), AllOf((Trend(MEL), Spike("train.mel_ce", window=3))))
EXAMPLES = {
    "finite": [Finite()],
    "nan_repeated": [NanRepeated(1)],
    "divergence": [Divergence(MEL), Divergence("sample.score")],
    "not_worsening": [NotWorsening(MEL, checks=1), NotWorsening("sample.score", checks=2)],
    "trend": [Trend(MEL), Trend("eval.objective", window=0, require="down"), Trend("sample.score")],
    "improved": [
        *(Improved(MEL, since) for since in ("first", "previous", "best")),
        Improved(MEL, "previous_gate", gate=When("epochs", 2)),
        Improved("sample.score", "best"),
        Improved(MEL, window=3),
    ],
    "not_regressed": [NotRegressed(MEL), NotRegressed("sample.score", 1)],
    "plateau": [Plateau(MEL, window=3), Plateau("sample.score", window=3)],
    "slowing": [Slowing(MEL, window=3), Slowing("sample.score", window=3)],
    "overfit": [Overfit(window=3)],
    "spike": [Spike(MEL, window=3), Spike("sample.score", window=3)],
    "target": [Target(MEL, 2.5), Target("sample.score", 20)],
    "threshold": [Threshold(MEL, 2.5), Threshold("sample.score", minimum=20)],
    "memory": [Memory(2)],
    "out_of_memory": [OutOfMemory(0)],
    "checkpoint_intact": [CheckpointIntact()],
    "learning_rate": [LearningRate()],
    "runtime": [Runtime(100)],
    "comparable": [Comparable()],
    "no_leak": [NoLeak()],
    "all_of": [AllOf(_NESTED)],
    "any_of": [AnyOf(_NESTED)],
    "at_least": [AtLeast(2, _NESTED)],
}
NUMBERS = st.floats() | st.sampled_from([0.0, NAN, INF, -INF, 2.0, 2.1, -2.0]) | st.none()
PIECES = st.one_of(
    st.builds(lambda n, v: [trained(n, mel=v), evaluated(n, v)], st.integers(0, 12), NUMBERS),
    st.builds(lambda vs: curve(*vs), st.lists(NUMBERS, min_size=3, max_size=12)),
    st.builds(
        lambda n, v, known, p: evaluated(n, v, eval_set=known, previous=p),
        st.integers(0, 12),
        NUMBERS,
        st.sampled_from([None, "dev", "12 samples"]),
        st.dictionaries(st.just(MEL), st.floats(), max_size=1),
    ),
    st.builds(
        lambda n, run, memory, seconds: trained(
            n, nonfinite_batches=run, longest_nonfinite_run=run, memory_state=memory, seconds=seconds
        ),
        st.integers(0, 12),
        st.integers(0, 4),
        st.sampled_from([None, "low", "high", "critical"]),
        st.none() | st.floats(0, 1e6),
    ),
    st.builds(
        lambda step, planned, leaked: start(step, epochs_planned=planned, eval_clips_trained_on=leaked),
        st.integers(0, 100),
        st.none() | st.integers(0, 50),
        st.none() | st.integers(0, 5),
    ),
    st.builds(scored, st.integers(0, 12), NUMBERS),
    st.builds(
        lambda step, intact: saved(step, intact=intact, reason="disk full"),
        st.integers(0, 99),
        st.sampled_from([None, True, False]),
    ),
    st.builds(incident, st.integers(0, 99), st.sampled_from(["oom", "lr_not_as_planned", "other"])),
)


def test_no_rule_is_left_out_of_what_every_rule_promises():
    assert EXAMPLES.keys() == RULES.keys()
    assert all(isinstance(rule, RULES[name]) for name, rules in EXAMPLES.items() for rule in rules)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, max_size=8), source=st.sampled_from(["journal", "console", "tensorboard", "table"]))
def test_every_rule_judges_any_record_in_one_sentence_and_leaves_it_as_it_was(name, pieces, source):
    record = record_of(*pieces, source=source)
    before = repr(record.events)
    for rule in EXAMPLES[name]:
        finding = rule.check(record)
        assert finding.status in ("passed", "failed", "too_early", "not_measured")
        assert finding.message.strip()
        assert "\n" not in finding.message
        assert ". " not in finding.message
        assert not finding.message.endswith((".", ":", " "))
        assert isinstance(json.loads(to_json(finding.evidence)), dict)
        assert rule.check(record) == finding or "nan" in repr(finding)
    assert repr(record.events) == before
