"""Rules made of rules."""

from dataclasses import dataclass

import pytest
import records
from records import flat

from xtts_gatekeeper.gates.rules.base import Finding
from xtts_gatekeeper.gates.rules.combine import AllOf, AnyOf, AtLeast


def record_of(*parts, **values):
    return records.record_of(flat(parts), **values)


def status(rule, *parts, **values):
    return rule.check(record_of(*parts, **values)).status


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


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: AllOf(()), "rules"),
        (lambda: AnyOf(()), "rules"),
        (lambda: AtLeast(0, says("p")), "count"),
        (lambda: AtLeast(2, says("p")), "count"),
    ],
)
def test_a_combination_of_nothing_is_refused(make, field):
    with pytest.raises(ValueError, match=rf"^{field} "):
        make()
