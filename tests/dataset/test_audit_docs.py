"""docs/audit.md says what the code does: every fault, option and default."""

import ast
import inspect
import re
from itertools import pairwise
from pathlib import Path

from xtts_gatekeeper.dataset import verb
from xtts_gatekeeper.dataset.board import SEVERITIES
from xtts_gatekeeper.dataset.usable import Limits

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
NAMED = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row)}


def codes():
    """Every constant that stands before a severity, in a call or a tuple, anywhere in the audit."""
    found = set()
    for file in (ROOT / "xtts_gatekeeper/dataset").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            for code, severity in pairwise(parts):
                if isinstance(severity, ast.Constant) and severity.value in SEVERITIES:
                    found |= {one.value for one in ast.walk(code) if isinstance(one, ast.Constant)}
    return {code for code in found if isinstance(code, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", code)}


def test_every_fault_is_documented():
    found = codes() - set(SEVERITIES)
    assert len(found) > 25
    assert found <= NAMED


def test_every_option_is_documented_with_its_default():
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(verb.run_audit).parameters} - {"--path"}
    options = {"--json" if option == "--as-json" else option for option in options}
    shown = {row.strip().strip("`").split()[0] for row in ROWS if row.strip().startswith("`--")}
    assert shown == options
    assert f"`{Limits().max_wav_length}`" in TEXT
    assert f"`{Limits().max_text_length}`" in TEXT
    assert f"`{verb.LEFT_OUT}`" in TEXT


def test_every_severity_is_documented():
    assert set(SEVERITIES) <= NAMED
