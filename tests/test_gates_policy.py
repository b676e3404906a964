import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.gates import RULES, load_policy
from xtts_gatekeeper.gates.policy_file import SHIPPED
from xtts_gatekeeper.gates.rules import Target, Trend

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

    def load(content):
        load.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_policy(load.path)

    load.path = tmp_path / "mine.yaml"
    return load


def test_a_policy_says_what_its_file_says(policy):
    mine = policy(GOOD)
    assert (mine.name, mine.objective, mine.minimum_evaluations) == ("mine", "eval.mel_ce", 3)
    finite, trend = mine.health
    assert (finite.name, finite.on_fail, finite.rule) == ("finite", "stop", RULES["finite"]())
    assert trend.rule == Trend("train.loss", noise=0.5, require="down")
    (gate,) = mine.gates
    assert (gate.name, gate.after_epochs) == ("Gate A", 5)
    assert gate.rules[0].rule == Target("eval.mel_ce", 2.0)
    assert mine.text == GOOD


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
        ("    after_epochs: 5\n", "", 14, "'after_epochs' is missing"),
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
    assert {gate.name: gate.after_epochs for gate in checklist.gates} == {"Gate A": 5, "Gate B": 10}
    gate_a, gate_b = checklist.gates
    assert {rule.on_fail for rule in gate_a.rules} == {"tune"}
    assert {rule.on_fail for rule in gate_b.rules if rule.name != "runtime"} == {"stop"}
    stops = [(rule.name, getattr(rule.rule, "metric", None)) for rule in checklist.health if rule.on_fail == "stop"]
    assert stops == [("finite", None), ("not_worsening", "eval.mel_ce")]
    assert "continue" not in {rule.on_fail for rule in checklist.health}


def test_the_recipes_policy_is_the_checklist_plus_the_reports_target():
    recipes = yaml.safe_load((ROOT / "recipes/gates.yaml").read_text(encoding="utf-8"))
    checklist = yaml.safe_load((SHIPPED / "checklist.yaml").read_text(encoding="utf-8"))
    target = [rule for rule in recipes["health"] if rule["rule"] == "target"]
    assert target == [{"rule": "target", "metric": "eval.mel_ce", "value": 2.5, "on_fail": "stop"}]
    recipes["health"].remove(target[0])
    assert {**recipes, "name": "checklist"} == checklist
    assert load_policy(ROOT / "recipes/gates.yaml").hash != load_policy("checklist").hash


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
