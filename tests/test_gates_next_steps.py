from dataclasses import replace

import pytest
from records import curve, evaluated, incident, phase, record_of, saved, scored, start, trained

from xtts_gatekeeper.gates import RULES, Policy, PolicyRule, evaluate, load_policy
from xtts_gatekeeper.gates.next_steps import _ADVICE

MEL = "eval.mel_ce"
CHECKLIST = load_policy("checklist")


def advice(name, *events, **values):
    """Next steps, by code, when the rule `name` alone is asked and fails."""
    verdict = evaluate(
        record_of(*events), Policy("mine", MEL, 1, (PolicyRule(name, RULES[name](**values), "tune"),), ())
    )
    assert verdict.verdict == "tune"
    return {step.code: step for step in verdict.next_steps}


def overfitting(lr):
    """Train falls, eval rises from the first epoch on; the best file is that of step 10."""
    events = [start(lr=[1e-5], train_clips=120), saved(10, "best")]
    for n in range(5):
        events += [trained(n, mel=3.0 - n / 2, lr_end=lr), evaluated(n, 3.0 + n / 2)]
    return events


# The learning rate


@pytest.mark.parametrize(
    ("lr", "now", "then"),
    [
        ([5e-6], 5e-6, 2.5e-6),
        ([1e-6, 5e-6], 5e-6, 2.5e-6),  # the highest of the parameter groups
        ([3e-5], 3e-5, 1.5e-5),
        ([], 1e-5, 5e-6),  # what the process began with
    ],
)
def test_the_next_learning_rate_is_a_number(lr, now, then):
    step = advice("overfit", overfitting(lr))["lower_lr"]
    assert step.values == {"lr": now, "lr_next": then}
    assert f"from {now:.2g} to {then:g}" in step.message


@pytest.mark.parametrize("events", [[], [start(lr=[])], [start(lr=[0.0])]])
def test_a_learning_rate_that_is_not_known_is_halved_in_words(events):
    step = advice("trend", *events, curve_without_lr(3.0, 4.0, 5.0), metric=MEL)["lower_lr"]
    assert step.values == {"factor": 0.5}
    assert step.message.startswith("halve the learning rate")


def curve_without_lr(*mels):
    return [e for n, mel in enumerate(mels) for e in (trained(n, lr_end=[]), evaluated(n, mel))]


def test_a_rate_that_is_still_zero_in_its_warm_up_says_nothing():
    events = [e for n, mel in enumerate((3.0, 4.0, 5.0)) for e in (trained(n, lr_end=[0.0]), evaluated(n, mel))]
    assert advice("trend", start(), events, metric=MEL)["lower_lr"].values == {"factor": 0.5}


def test_losses_that_have_run_away_ask_for_a_third_of_the_rate():
    steps = advice("divergence", start(), curve(1.0, 9.0, 10.0), metric=MEL)
    assert steps["lower_lr"].values == {"lr": 1e-6, "lr_next": 3e-7}
    assert steps["check_clips"].values == {"step": 30}
    assert "check_precision" in steps


def test_a_model_that_learns_nothing_on_either_side_asks_for_a_higher_rate():
    step = advice("improved", start(), curve(3.0, 3.0, 3.0, 3.0), metric=MEL)["raise_lr"]
    assert step.values == {"lr": 1e-6, "lr_next": 3e-6}


def test_the_learning_rate_is_not_told_to_go_both_up_and_down():
    verdict = evaluate(record_of(start(), curve(*[3.0] * 10)), CHECKLIST)
    assert verdict.verdict == "stop"
    rates = [step.code for step in verdict.next_steps if step.code.endswith("_lr")]
    assert rates == ["raise_lr"]


# Memory


@pytest.mark.parametrize(
    ("batch", "accumulation", "smaller", "more"),
    [(3, 1, 1, 3), (2, 1, 1, 2), (8, 4, 4, 8), (5, 1, 2, 3), (7, 1, 3, 3), (3, None, 1, 3)],
)
def test_a_smaller_batch_leaves_the_update_at_least_as_many_clips(batch, accumulation, smaller, more):
    begun = start(batch_size=batch, grad_accum_steps=accumulation)
    step = advice("out_of_memory", begun, incident(5, "oom"), curve(3.0), allowed=0)["smaller_batch"]
    assert step.values == {"batch_size": batch, "batch_size_next": smaller, "grad_accum_steps_next": more}
    assert smaller * more >= batch * (accumulation or 1)
    assert f"still sees {smaller * more} clips" in step.message


def test_a_batch_of_one_clip_can_only_have_shorter_clips():
    steps = advice("out_of_memory", start(batch_size=1), incident(5, "oom"), curve(3.0), allowed=0)
    assert list(steps) == ["shorter_clips"]


def test_a_batch_size_that_is_not_known_is_halved_in_words():
    steps = advice("out_of_memory", incident(5, "oom"), curve(3.0), allowed=0)
    assert steps["smaller_batch"].values == {}


# The checkpoint


def test_the_checkpoint_to_go_back_to_is_named_with_its_value_and_step():
    step = advice("overfit", overfitting([5e-6]))["go_back"]
    assert step.values == {"checkpoint": "best_model_10.pth", "step": 10, "value": 3.0}
    assert "go back to best_model_10.pth (eval.mel_ce 3 at step 10)" in step.message


def test_without_a_file_of_the_best_weights_their_step_is_named():
    step = advice("trend", start(), curve(3.0, 4.0, 5.0), metric=MEL)["go_back"]
    assert step.values["checkpoint"] is None
    assert "the weights of step 10" in step.message


def test_the_latest_is_kept_when_it_is_the_best():
    steps = advice("target", start(), curve(3.0, 2.4), saved(20, "best"), metric=MEL, value=2.5)
    assert steps["keep_checkpoint"].values == {"checkpoint": "best_model_20.pth", "step": 20, "value": 2.4}
    assert "go_back" not in steps
    assert "the goal is reached" in steps["listen"].message


def test_more_data_is_asked_for_with_the_number_of_clips_there_are():
    assert "add clips (120 now)" in advice("overfit", overfitting([5e-6]))["more_data"].message


# The time


@pytest.mark.parametrize(("max_hours", "epochs"), [(1.0, 55), (0.5, 27), (0.026, 1)])
def test_as_many_epochs_as_fit_the_time_are_planned(max_hours, epochs):
    steps = advice("runtime", start(epochs_planned=100), curve(3.0), max_hours=max_hours)
    assert steps["fewer_epochs"].values == {"epochs": epochs}
    assert f"plan {epochs} epochs, which fit, instead of 100" in steps["fewer_epochs"].message
    assert "faster" in steps


def test_a_time_in_which_no_epoch_fits_asks_for_speed_alone():
    assert list(advice("runtime", start(epochs_planned=100), curve(3.0), max_hours=0.01)) == ["faster"]


# What else


@pytest.mark.parametrize(
    ("metric", "code"),
    [
        ("eval.loss_dur", "check_alignment"),
        ("eval.loss_duration", "check_alignment"),
        ("eval.loss_pitch", "check_pitch"),
        ("eval.loss_energy", "check_energy"),
        ("eval.stopnet_loss", "check_endings"),
        ("eval.text_ce", "check_transcripts"),
    ],
)
def test_an_auxiliary_loss_that_drifts_says_where_to_look(metric, code):
    events = [start()]
    for n, value in enumerate((1.0, 2.0, 3.0, 4.0)):
        events += [trained(n), evaluated(n, metrics={MEL: 3.0, metric: value})]
    steps = advice("not_worsening", events, metric=metric)
    assert {code: step.values for code, step in steps.items()} == {code: {"metric": metric}}


@pytest.mark.parametrize(
    ("name", "values"),
    [("improved", {}), ("not_worsening", {"checks": 2}), ("not_regressed", {}), ("trend", {})],
)
def test_samples_that_became_worse_ask_to_listen(name, values):
    scores = [e for n, score in enumerate((20, 15, 10, 5)) for e in (*curve(3.0, first=n), scored(n, score))]
    steps = advice(name, start(), scores, curve(3.0, first=4), metric="sample.score", **values)
    assert "listen" in steps
    assert "lower_lr" not in steps


@pytest.mark.parametrize(
    ("name", "values", "events", "code", "numbers"),
    [
        ("no_leak", {}, [start(eval_clips_trained_on=3)], "split_data", {"clips": 3}),
        ("checkpoint_intact", {}, [start(), saved(5, intact=False)], "check_disk", {"path": "checkpoint_5.pth"}),
        ("learning_rate", {}, [start(), phase("one", 0), incident(5, "lr_not_as_planned")], "set_lr", {}),
        ("comparable", {}, [start(), evaluated(0, 9.0, 5, eval_set="old")], "fix_eval_set", {}),
        ("spike", {"metric": MEL}, [start(), *curve(*[2.0] * 5), evaluated(5, 99.0)], "check_clips", {"step": 60}),
    ],
)
def test_what_is_wrong_beside_the_curve_says_what_to_put_right(name, values, events, code, numbers):
    last = [] if name == "spike" else curve(3.0)
    assert advice(name, events, last, **values)[code].values == numbers


def test_a_rule_without_advice_of_its_own_gives_the_checklists_tune_first_list():
    steps = advice("threshold", start(), curve(3.0), metric=MEL, maximum=2.0)
    assert list(steps) == ["smaller_batch", "lower_lr", "filter_data"]


def test_all_advice_is_for_rules_there_are():
    assert set(_ADVICE) <= set(RULES)


def test_the_steps_of_the_gravest_reason_come_first_and_none_twice():
    rules = (
        PolicyRule("runtime", RULES["runtime"](max_hours=1), "tune"),
        PolicyRule("out_of_memory", RULES["out_of_memory"](allowed=0), "stop"),
        PolicyRule("memory", RULES["memory"](epochs=1), "tune"),
    )
    events = [start(epochs_planned=100), incident(5, "oom"), trained(0, memory_state="high"), evaluated(0, 3.0)]
    verdict = evaluate(record_of(events), Policy("mine", MEL, 1, rules, ()))
    assert [step.code for step in verdict.next_steps] == ["smaller_batch", "fewer_epochs", "faster"]


def test_nothing_is_asked_of_a_run_that_goes_well():
    assert evaluate(record_of(start(), curve(4.0, 3.6, 3.3)), CHECKLIST).next_steps == ()


# Samples


def judged_samples(epoch, score, folder="", **faults):
    return replace(scored(epoch, score), folder=folder, faults=faults)


def test_samples_that_became_worse_are_named_with_the_faults_that_came_in():
    events = [
        judged_samples(0, 20.0, "gatekeeper/samples/10", noisy=1),
        judged_samples(1, 21.0, "gatekeeper/samples/20", noisy=2),
        judged_samples(2, 15.0, "gatekeeper/samples/30", noisy=2, skipped=3, late_stop=5),
        *curve(3.0, 2.9, 2.8),
    ]
    step = advice("not_regressed", start(), events, metric="sample.score", by=1)["listen"]
    assert step.message == (
        "listen to the samples of gatekeeper/samples/30 and gatekeeper/samples/20, the best before it: more faults of "
        "the kind late_stop in 5 (before: 0), skipped in 3 (before: 0)"
    )
    assert step.values == {
        "step": 30,
        "against_step": 20,
        "folder": "gatekeeper/samples/30",
        "against": "gatekeeper/samples/20",
        "faults": {"late_stop": (0, 5), "skipped": (0, 3)},
    }


def test_a_loss_that_the_ears_do_not_agree_with_asks_to_listen_and_to_lower_the_rate():
    events = [event for n in range(4) for event in (trained(n), scored(n, 20 - 2 * n), evaluated(n, 3.0 - n / 10))]
    steps = advice("ears_agree", start(), events)
    assert list(steps) == ["listen", "lower_lr", "filter_data"]
    assert "the loss falls and the voice suffers" in steps["lower_lr"].message


def test_artifacts_below_their_limit_ask_to_listen_and_not_for_a_smaller_batch():
    steps = advice("threshold", start(), scored(0, artifacts=1.5), curve(3.0), metric="sample.artifacts", minimum=2)
    assert list(steps) == ["keep_checkpoint", "listen"]


def test_other_languages_that_are_forgotten_ask_for_clips_of_them():
    events = [scored(0, other_languages=4.5), scored(1, other_languages=3.0), *curve(3.0, 2.9)]
    steps = advice("not_regressed", start(), events, metric="sample.other_languages", by=1, since="first")
    assert list(steps) == ["mix_languages"]


@pytest.mark.parametrize("heard", [False, True])
def test_where_the_goal_is_reached_the_first_step_is_to_hear_the_best(heard):
    samples = [judged_samples(1, 20.0, "gatekeeper/samples/20")] if heard else []
    steps = advice("target", start(), samples, curve(3.0, 2.4), saved(20, "best"), metric=MEL, value=2.5)
    assert next(iter(steps)) == "sample_best"
    said = {
        False: "hear what best_model_20.pth says: xtts-gatekeeper sample RUN --checkpoint best",
        True: "listen to the best one's samples in gatekeeper/samples/20",
    }
    assert steps["sample_best"].message == said[heard]


def test_a_plateau_that_stops_the_run_asks_to_hear_the_best_first():
    level = (*(4.0 - n / 4 for n in range(4)), *[3.0] * 30)
    rule = PolicyRule("plateau", RULES["plateau"](metric=MEL), "stop")
    verdict = evaluate(record_of(start(), curve(*level), saved(50, "best")), Policy("mine", MEL, 1, (rule,), ()))
    assert verdict.verdict == "stop"
    assert verdict.next_steps[0].code == "sample_best"


def test_a_model_that_cannot_be_asked_to_speak_is_not():
    logged_loss = [evaluated(n, metrics={"eval.loss_spec": value}) for n, value in enumerate((3.0, 2.4))]
    metrics = {"metric": "eval.loss_spec", "value": 2.5}
    policy = Policy("mine", "eval.loss_spec", 1, (PolicyRule("target", RULES["target"](**metrics), "tune"),), ())
    verdict = evaluate(record_of(start(), logged_loss, saved(20, "best")), policy)
    assert "sample_best" not in {step.code for step in verdict.next_steps}
