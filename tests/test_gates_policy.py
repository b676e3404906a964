import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from records import curve, logged, record_of, start

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import RULES, load_policy
from xtts_gatekeeper.gates.policy_file import SHIPPED
from xtts_gatekeeper.gates.rules import When
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf
from xtts_gatekeeper.gates.rules.improved import Improved
from xtts_gatekeeper.gates.rules.target import Target
from xtts_gatekeeper.gates.rules.trend import Trend
from xtts_gatekeeper.record.models import HIGHER_IS_BETTER, MODELS, ROLES

ROOT = Path(__file__).parent.parent

GOOD = """\
version: 1
name: mine
objective: eval.mel_ce
minimum_evaluations: 3
health:
  - rule: finite
    on_fail: stop
  - rule: trend
    metric: train.loss
    noise: 0.5
    require: down
    on_fail: tune
gates:
  - name: Gate A
    after_epochs: 5
    rules:
      - rule: target
        metric: eval.mel_ce
        value: 2
        on_fail: stop
"""


@pytest.fixture
def policy(tmp_path):
    """Load a policy from text or bytes; `policy.path` is the file."""

    def load(content, metrics=()):
        load.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_policy(load.path, metrics)

    load.path = tmp_path / "mine.yaml"
    return load


def test_a_policy_says_what_its_file_says(policy):
    mine = policy(GOOD)
    assert (mine.name, mine.objective, mine.minimum_evaluations) == ("mine", "eval.mel_ce", 3)
    finite, trend = mine.health
    assert (finite.name, finite.on_fail, finite.rule) == ("finite", "stop", RULES["finite"]())
    assert trend.rule == Trend("train.loss", noise=0.5, require="down")
    (gate,) = mine.gates
    assert (gate.name, gate.when, gate.line) == ("Gate A", When("epochs", 5), 14)
    assert gate.rules[0].rule == Target("eval.mel_ce", 2.0)
    assert (mine.text, mine.path, mine.shipped) == (GOOD, str(policy.path), False)


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        ("objective:", "objectiv:", 3, "did you mean 'objective'"),
        ("    noise:", "    nois:", 10, "did you mean 'noise'"),
        ("    after_epochs:", "    after_epoch:", 15, "did you mean 'after_epochs'"),
        ("rule: trend", "rule: trand", 8, "unknown rule 'trand', did you mean 'trend'"),
        ("rule: finite", "rule: quux", 6, ", ".join(sorted(RULES))),
        ("on_fail: stop\n  -", "on_fail: halt\n  -", 7, "'halt' is not one of continue, tune, stop"),
        ("require: down", "require: up", 11, "'up' is not one of flat_to_down, down"),
        ("noise: 0.5", "noise: much", 10, "'much' is not a number"),
        ("noise: 0.5", "noise: [0.5]", 10, "[0.5] is not a number"),
        ("noise: 0.5", "noise: -0.5", 10, "noise is -0.5"),
        ("noise: 0.5", "noise: .nan", 10, "noise is nan"),
        ("name: mine", "name: 5", 2, "5 is not text"),
        ("name: mine", "name:", 2, "is not text"),
        ("minimum_evaluations: 3", "minimum_evaluations: '3'", 4, "'3' is not a whole number"),
        ("minimum_evaluations: 3", "minimum_evaluations: true", 4, "True is not a whole number"),
        ("after_epochs: 5", "after_epochs: 0", 15, "after_epochs is 0"),
        ("metric: train.loss", "metric: mel_ce", 9, "unknown metric 'mel_ce'"),
        ("name: mine\n", "", 1, "'name' is missing"),
        ("    on_fail: tune\n", "", 8, "'on_fail' is missing"),
        ("        value: 2\n", "", 17, "'value' is missing"),
        ("  - rule: finite\n   ", "  -", 6, "'rule' is missing"),
        ("    after_epochs: 5\n", "", 14, "a gate needs one of after_epochs, after_steps, after_evaluations"),
        ("epochs: 5\n", "epochs: 5\n    after_steps: 9\n", 14, "a gate needs one of after_epochs"),
        ("after_epochs: 5", "after_steps: 0", 15, "after_steps is 0, it must be 1 or more: it can never come due"),
        ("after_epochs: 5", "after_evaluations: -1", 15, "after_evaluations is -1, it must be 1 or more"),
        ("after_epochs: 5", "after_epochs: 2.5", 15, "2.5 is not a whole number"),
        ("metric: train.loss", "metric: train.los", 9, "did you mean 'train.loss'"),
        (
            "metric: train.loss",
            "metric: eval.zzzzzzzzzz",
            9,
            "unknown metric 'eval.zzzzzzzzzz', known are eval.",
        ),
        ("metric: train.loss", "metric: train.my_loss", 9, "A name of your own goes into `metrics:` first"),
        ("objective: eval.mel_ce", "objective: eval.objectve", 3, "did you mean 'eval.objective'"),
        ("objective: eval.mel_ce", "objective: train.loss", 3, "it must be measured by evaluations (eval.*)"),
        ("objective: eval.mel_ce", "objective: sample.score", 3, "it must be measured by evaluations (eval.*)"),
        ("  - rule: finite\n", "  - rule: finite\n    if_missing: undecide\n", 7, "not one of ignore, undecided"),
        ("    require: down", "    gate: 5", 11, "unknown key 'gate'"),
        (
            "rule: target\n        metric: eval.mel_ce\n        value: 2",
            "rule: improved\n        metric: eval.mel_ce\n        since: previous_gate",
            19,
            "since: previous_gate has no gate before it",
        ),
        (
            "rule: target\n        metric: eval.mel_ce\n        value: 2",
            "rule: improved\n        metric: eval.mel_ce\n        since: last",
            19,
            "'last' is not one of first, previous, best, previous_gate",
        ),
        (GOOD, GOOD + GOOD[GOOD.index("  - name: Gate A") :], 21, "gate 'Gate A' stands twice"),
        (GOOD, GOOD[: GOOD.index("      - rule: target")].replace("    rules:\n", "    rules: []\n"), 16, "empty"),
        (GOOD, "version: 1\nname: x\nhealth: []\n", 3, "this one is empty"),
        (GOOD, "version: 1\nname: x\ngates: []\n", 1, "no rules"),
        (GOOD, GOOD + "metrics: [eval.x]\n", 21, "a mapping with keys is expected"),
        (GOOD, GOOD + "metrics:\n  loss_x: Loss\n", 22, "begin it with eval., train. or sample."),
        (GOOD, GOOD + "metrics:\n  eval.x: 5\n", 22, "5 is not text"),
        (GOOD, GOOD + "metrics:\n  eval.x: a\n  eval.x: b\n", 23, "key 'eval.x' stands twice"),
        ("    noise: 0.5\n", "    noise: 0.5\n    noise: 0.6\n", 11, "key 'noise' stands twice"),
        ("version: 1\n", "version: 1\nversion: 1\n", 2, "key 'version' stands twice"),
        ("version: 1", "version: 2", 1, "policy version 2 is not 1"),
        ("version: 1", "version: one", 1, "'one' is not a whole number"),
        ("version: 1\n", "", 1, "'version' is missing"),
        ("name: mine", "name: [mine", 3, "not valid YAML"),
        ("name: mine", "name: *nobody", 2, "not valid YAML"),
        (GOOD, "just a sentence\n", 1, "a mapping with keys is expected"),
        (GOOD, "- a\n- b\n", 1, "a mapping with keys is expected"),
        (GOOD, "version: 1\nname: x\nhealth: {rule: finite}\n", 3, "a list is expected"),
        (GOOD, "version: 1\nname: x\nhealth: [finite]\n", 3, "a mapping with keys is expected"),
        (GOOD, "version: 1\nname: x\n", 1, "no rules"),
        (GOOD, GOOD + "---\nversion: 1\n", 21, "another document"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_remedy(policy, old, new, line, sentence):
    assert GOOD.count(old) == 1
    with pytest.raises(UserError) as caught:
        policy(GOOD.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"{policy.path}:{line}: ")
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"\x80\x02}q\x00", "not a text file"),
        (GOOD.encode("utf-16"), "not a text file"),
        (b"PK\x03\x04\x00\x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_policy_at_all_is_refused(policy, content, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        policy(content)
    assert str(caught.value).startswith(str(policy.path))


@pytest.mark.parametrize("content", [GOOD.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + GOOD.encode()])
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(policy, content):
    assert policy(content).hash == policy(GOOD).hash


def test_an_unknown_name_is_told_with_the_shipped_ones(tmp_path):
    with pytest.raises(UserError, match=r"no policy 'checklst': .*checklist"):
        load_policy("checklst")
    with pytest.raises(UserError, match="no policy"):
        load_policy(tmp_path)


# The hash


@given(st.lists(st.sampled_from(GOOD.splitlines()), max_size=5), st.text("abc é", max_size=9))
def test_the_hash_ignores_comments_and_layout(tmp_path_factory, places, words):
    changed = "".join(
        f"{line}   # {words}\n\n" if line in places else f"# {words}\n{line}\n" for line in GOOD.splitlines()
    )
    path = tmp_path_factory.getbasetemp() / "commented.yaml"
    path.write_text(changed, encoding="utf-8")
    plain = tmp_path_factory.getbasetemp() / "plain.yaml"
    plain.write_text(GOOD, encoding="utf-8")
    assert load_policy(path).hash == load_policy(plain).hash


def test_the_hash_ignores_the_order_of_keys_and_defaults_written_out(policy):
    reordered = GOOD.replace("    metric: train.loss\n    noise: 0.5\n", "    noise: 0.5\n    metric: train.loss\n")
    assert reordered != GOOD
    spelled_out = GOOD.replace("rule: finite\n", "rule: finite\n    consecutive: 3\n")
    assert policy(reordered).hash == policy(spelled_out).hash == policy(GOOD).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mine", "yours"),
        ("objective: eval.mel_ce", "objective: eval.loss"),
        ("evaluations: 3", "evaluations: 4"),
        ("noise: 0.5", "noise: 0.51"),
        ("on_fail: tune", "on_fail: stop"),
        ("rule: finite", "rule: memory"),
        ("epochs: 5", "epochs: 6"),
        ("value: 2", "value: 2.5"),
        ("Gate A", "Gate B"),
    ],
)
def test_the_hash_changes_with_what_the_policy_says(policy, old, new):
    changed = policy(GOOD.replace(old, new)).hash
    assert changed != policy(GOOD).hash
    assert re.fullmatch(r"[0-9a-f]{12}", changed)


# What is shipped


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_policy_loads_by_its_name(path):
    assert load_policy(path.stem) == load_policy(path)
    assert load_policy(path).name == path.stem


def test_the_default_is_the_checklist():
    assert load_policy() == load_policy("checklist")


def test_the_checklist_is_due_when_the_checklist_says():
    """Gate A tunes after epoch 5, gate B stops after epoch 10, and what section 4 lists stops at once."""
    checklist = load_policy("checklist")
    assert {gate.name: gate.when for gate in checklist.gates} == {
        "Gate A": When("epochs", 5),
        "Gate B": When("epochs", 10),
    }
    gate_a, gate_b = checklist.gates
    assert {rule.on_fail for rule in gate_a.rules} == {"tune"}
    assert {rule.on_fail for rule in gate_b.rules if rule.name != "runtime"} == {"stop"}
    stops = {(rule.name, getattr(rule.rule, "metric", None)) for rule in checklist.health if rule.on_fail == "stop"}
    assert stops == {
        ("finite", None),
        ("nan_repeated", None),
        ("divergence", "eval.objective"),
        ("out_of_memory", None),
        ("not_worsening", "eval.objective"),
        ("not_worsening", "sample.score"),
        ("plateau", "eval.objective"),
    }
    assert (checklist.objective, checklist.minimum_evaluations, checklist.shipped) == ("eval.objective", 3, True)


def test_what_the_checklist_asks_of_gate_b_is_compared_with_gate_a():
    gate_a, gate_b = load_policy("checklist").gates
    (since,) = [due.rule for due in gate_b.rules if getattr(due.rule, "since", "") == "previous_gate"]
    assert (since.metric, since.gate) == ("sample.score", gate_a.when)


def test_the_recipes_policy_is_the_checklist_plus_the_reports_target():
    recipes = yaml.safe_load((ROOT / "recipes/gates.yaml").read_text(encoding="utf-8"))
    checklist = yaml.safe_load((SHIPPED / "checklist.yaml").read_text(encoding="utf-8"))
    target = [rule for rule in recipes["health"] if rule["rule"] == "target"]
    assert target == [{"rule": "target", "metric": "eval.objective", "value": 2.5, "on_fail": "stop"}]
    recipes["health"].remove(target[0])
    assert {**recipes, "name": "checklist"} == checklist
    loaded = load_policy(ROOT / "recipes/gates.yaml")
    assert loaded.hash != load_policy("checklist").hash
    assert not loaded.shipped


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("minimum_evaluations: 3", "minimum_evaluations: 0", "minimum_evaluations is 0, it must be 1 or more"),
        ("noise: 0.5", "window: 1", "window is 1, it must be 0 (all) or 2 or more"),
        ("noise: 0.5", "noise: .inf", "noise is inf"),
        ("name: mine", "name: 2024-13-45", "this value cannot be read"),
        ("name: mine", "name: !foo x", "this value cannot be read"),
        ("name: mine", "name: !!python/object/apply:os.getcwd []", "this value cannot be read"),
        ("name: mine", "name: mine\n[a]: b", "is not text"),
        ("name: mine", "name: 'a\x01b'", "not valid YAML"),
    ],
)
def test_odd_values_are_refused_in_one_line(policy, old, new, sentence):
    with pytest.raises(UserError) as caught:
        policy(GOOD.replace(old, new))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_that_yaml_takes_for_text_is_a_number(policy):
    assert policy(GOOD.replace("noise: 0.5", "noise: 1e-3")).health[1].rule.noise == 0.001


def test_a_target_may_be_negative_as_some_losses_are(policy):
    assert policy(GOOD.replace("value: 2\n", "value: -1.5\n")).gates[0].rules[0].rule.value == -1.5


# Rules made of rules


NESTED = """\
version: 1
name: nested
health:
  - rule: all_of
    on_fail: stop
    rules:
      - rule: finite
      - rule: any_of
        rules:
          - {rule: trend, metric: eval.objective}
"""


def test_rules_of_rules_are_read_at_any_depth(policy):
    (due,) = policy(NESTED).health
    assert due.rule == AllOf((RULES["finite"](), AnyOf((Trend("eval.objective"),))))


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        ("      - rule: finite\n", "      - rule: finite\n        on_fail: stop\n", 8, "unknown key 'on_fail'"),
        ("      - rule: finite\n", "      - rule: finite\n        if_missing: ignore\n", 8, "unknown key 'if_missing'"),
        ("      - rule: finite\n", "      - rule: finit\n", 7, "did you mean 'finite'"),
        ("metric: eval.objective", "metric: eval.objektive", 10, "did you mean 'eval.objective'"),
        ("metric: eval.objective", "metric: eval.objective, windo: 3", 10, "did you mean 'window'"),
        ("metric: eval.objective", "metric: eval.objective, window: 1", 10, "window is 1"),
        ("{rule: trend, metric: eval.objective}", "{rule: trend}", 10, "'metric' is missing"),
        ("        rules:\n          - {rule: trend, metric: eval.objective}\n", "        rules: []\n", 9, "empty"),
        ("        rules:\n          - {rule: trend, metric: eval.objective}\n", "", 8, "'rules' is missing"),
        ("rule: any_of\n", "rule: at_least\n        count: 2\n", 9, "count is 2, it must be 1 to 1"),
        ("rule: any_of\n", "rule: at_least\n        count: 0\n", 9, "count is 0, it must be 1 to 1"),
    ],
)
def test_a_mistake_in_a_nested_rule_is_told_with_its_own_line(policy, old, new, line, sentence):
    assert NESTED.count(old) == 1
    with pytest.raises(UserError) as caught:
        policy(NESTED.replace(old, new))
    assert str(caught.value).startswith(f"{policy.path}:{line}: ")
    assert sentence in str(caught.value)


def test_rules_that_hold_themselves_are_refused(policy):
    with pytest.raises(UserError, match="nested too deep"):
        policy("version: 1\nname: x\nhealth: [{rule: all_of, on_fail: stop, rules: &a [{rule: all_of, rules: *a}]}]\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rule: any_of", "rule: all_of"),
        ("rule: any_of\n", "rule: at_least\n        count: 1\n"),
        ("metric: eval.objective", "metric: eval.mel"),
        ("rule: finite", "{rule: memory}".strip("{}")),
        ("on_fail: stop\n", "on_fail: stop\n    if_missing: undecided\n"),
        ("health:\n", "metrics: {eval.objective: eval.loss}\nhealth:\n"),
        ("rule: trend, metric: eval.objective", "rule: improved, metric: eval.objective, since: best"),
    ],
)
def test_the_hash_changes_with_the_meaning_of_nested_rules_names_and_what_may_be_missing(policy, old, new):
    assert NESTED.count(old) == 1
    assert policy(NESTED.replace(old, new)).hash != policy(NESTED).hash


def test_the_hash_tells_a_gates_unit_and_the_gate_that_a_rule_compares_with(policy):
    gates = GOOD + GOOD[GOOD.index("  - name: Gate A") :].replace("Gate A", "Gate B").replace(
        "rule: target\n        metric: eval.mel_ce\n        value: 2",
        "rule: improved\n        metric: eval.mel_ce\n        since: previous_gate",
    ).replace("epochs: 5", "epochs: 9")
    steps = gates.replace("after_epochs: 9", "after_steps: 9")
    rules = [policy(gates).gates[1].rules[0].rule, policy(steps).gates[1].rules[0].rule]
    assert rules == [Improved("eval.mel_ce", "previous_gate", gate=When("epochs", 5))] * 2
    assert len({policy(text).hash for text in (gates, steps, gates.replace("epochs: 5", "epochs: 6"))}) == 3


# What a policy can name


@pytest.mark.parametrize(
    "name", sorted({f"{side}.{role}" for side in ("eval", "train") for role in ROLES} | HIGHER_IS_BETTER)
)
def test_a_policy_can_name_every_role_and_score(policy, name):
    assert policy(GOOD.replace("metric: train.loss", f"metric: {name}")).health[1].rule.metric == name


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_policy_can_name_whatever_a_known_model_logs(policy, model):
    for name in {*model.signature, *(name for names in model.roles.values() for name in names)}:
        assert (
            policy(GOOD.replace("metric: train.loss", f"metric: eval.{name}")).health[1].rule.metric == f"eval.{name}"
        )


def test_a_policy_can_name_what_the_run_at_hand_logs(policy):
    own = GOOD.replace("metric: train.loss", "metric: eval.my_own")
    assert policy(own, ["eval.my_own"]).health[1].rule.metric == "eval.my_own"
    with pytest.raises(UserError, match=r":9: unknown metric 'eval\.my_own'"):
        policy(own, ["eval.another"])


@pytest.mark.parametrize(
    ("said", "metric"),
    [
        ("eval.my_loss", "eval.my_loss"),
        ("train.my_loss", "train.my_loss"),
        ("avg_my_loss", "eval.my_loss"),
        ("EvalStats/avg_my_loss", "eval.my_loss"),
        ("my_loss", "eval.my_loss"),
    ],
)
def test_a_name_of_the_policys_own_stands_for_a_metric_a_tag_or_a_column(policy, said, metric):
    mine = policy(GOOD.replace("metric: train.loss", "metric: eval.mine") + f"metrics:\n  eval.mine: {said}\n")
    assert mine.metrics == {"eval.mine": said}
    record = record_of(start(), logged(10, {metric: 1.5})).naming(mine.names)
    assert record.resolve("eval.mine") == metric


# The plan


@pytest.mark.parametrize(
    ("when", "planned", "refused"),
    [
        ("after_epochs: 5", 4, True),
        ("after_epochs: 5", 5, False),
        ("after_steps: 500", 4, False),
        ("after_evaluations: 5", 4, False),
    ],
)
def test_a_gate_after_the_last_planned_epoch_is_refused_with_its_line(policy, when, planned, refused):
    mine = policy(GOOD.replace("after_epochs: 5", when))
    if not refused:
        assert mine.check_plan(planned) == []
        return
    with pytest.raises(UserError) as caught:
        mine.check_plan(planned)
    assert str(caught.value).startswith(f"{policy.path}:14: Gate A comes after 5 epochs")
    assert "planned for 4" in str(caught.value)


def test_the_target_is_that_of_the_objective_wherever_it_stands(policy):
    record = record_of(start(), curve(3.0))
    nested = NESTED.replace("{rule: trend, metric: eval.objective}", "{rule: target, metric: eval.mel_ce, value: 2}")
    assert policy(nested).target_in(record) == Target("eval.mel_ce", 2.0)
    assert policy(GOOD).target_in(record) == Target("eval.mel_ce", 2.0)
    assert policy(GOOD.replace("metric: eval.mel_ce", "metric: train.mel_ce")).target_in(record) is None
    assert policy(NESTED).target_in(record) is None
