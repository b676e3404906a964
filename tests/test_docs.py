"""The documents say what the code does: names, fields and commands are compared with it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.gates import RULES, load_policy
from xtts_gatekeeper.record.events import EVENTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_rows(document: str) -> dict[str, str]:
    """First cell (its code) -> the rest, of every table row of a document."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return {match[1]: match[2] for match in re.finditer(r"^\| `([^`]+)`[^|]*\|(.*)$", text, re.MULTILINE)}


def test_every_rule_and_field_with_its_default_is_documented():
    rows = table_rows("policy.md")
    assert set(RULES) <= set(rows)
    for name, rule in RULES.items():
        for field in fields(rule):
            assert f"`{field.name}`" in rows[name], (name, field.name)


def test_every_setting_and_its_default_is_documented():
    from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig

    rows = table_rows("settings.md")
    settings = dict(GatekeeperConfig().flat())
    assert set(rows) == set(settings) | {f"phases.N.{key}" for key, _ in PhaseConfig().flat()}
    for key, default in settings.items():
        shown = {True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default
        shown = ", ".join(default) if isinstance(default, list) else str(shown)
        empty = default in (None, "", [], {})
        assert rows[key].split("|")[0].strip().strip("`") == ("none" if empty else shown), key


def test_every_event_is_documented():
    assert set(EVENTS) <= set(table_rows("run-folder.md"))


def test_the_policy_in_the_docs_is_one(tmp_path):
    text = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "policy.yaml"
    path.write_text(block)
    assert load_policy(path).name == "mine"


def test_the_readme_names_only_verbs_that_exist_and_all_of_them():
    assert set(re.findall(r"bin/xtts-gatekeeper (\w+)", README)) == set(cli.commands)


def test_the_readmes_recipe_code_is_python_and_its_names_exist():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(code, "README.md", "exec")
    for module, names in re.findall(r"^from (xtts_gatekeeper[\w.]*) import ([\w, ]+)", code, re.MULTILINE):
        namespace = {}
        exec(f"from {module} import {names}", namespace)
    phases = re.search(r"GatekeeperConfig\(\n(.*?)\n    \),", code, re.DOTALL)[1]
    exec("from xtts_gatekeeper.config import GatekeeperConfig, PhaseConfig", namespace)
    eval(f"GatekeeperConfig({phases})", namespace).check()


def test_the_phases_in_the_docs_make_plans():
    from xtts_gatekeeper.config import GatekeeperConfig

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/phases.md").read_text(encoding="utf-8"), re.DOTALL)
    namespace = {}
    exec(code, namespace)
    plans = [value for value in namespace.values() if isinstance(value, GatekeeperConfig)]
    assert len(plans) == 3
    for plan in plans:
        plan.check()


def recipe_commands():
    return re.findall(r"^\.venv/bin/python (recipes/train_\w+\.py .*)$", README, re.MULTILINE)


def test_the_readme_shows_every_recipe():
    shown = {command.split()[0] for command in recipe_commands()}
    assert shown == {f"recipes/{path.name}" for path in (ROOT / "recipes").glob("train_*.py")}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where the README's commands run one after the other, as they do for a reader."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("command", recipe_commands())
def test_the_readmes_recipe_commands_run(command, workplace, toy_base, speech, python):
    """With the toy for the public model, the session's clips for the reader's, and one epoch for many."""
    command = command.replace("xtts-v2", str(toy_base)).replace("--base toy", f"--base {toy_base}")
    command = re.sub(r"data/[\w-]+", str(speech), re.sub(r" --epochs \d+", "", command))
    if "xtts_phase1-DATE" in command:
        (run,) = (workplace / "runs").glob("xtts_phase1-*")
        command = command.replace("runs/xtts_phase1-DATE", str(run))
    script, *flags = command.split()
    done = python(ROOT / script, *flags, "--epochs", 1, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "finished at step" in done.stderr


def test_the_readmes_data_command_is_the_one_the_script_takes(python):
    (command,) = re.findall(r"^\.venv/bin/python (recipes/datasets/asterisk\.py .*)$", README, re.MULTILINE)
    script, *flags = command.split()
    done = python(script, *flags[:2], "--output", "x", "--source", "no/such/place")
    assert done.returncode == 2  # the flags are understood; test_asterisk.py runs it for real
    assert "unrecognized" not in done.stderr


def test_the_two_set_up_lines_are_where_ci_takes_them_from():
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [line.split("&&")[-1].strip() for line in lines] == [
        ".venv/bin/xtts-gatekeeper demo",
        ".venv/bin/python -m pytest",
    ]
