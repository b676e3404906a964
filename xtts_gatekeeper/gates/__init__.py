"""Rules, policies and the one pure function that judges a record. Imports neither torch nor TTS."""

from xtts_gatekeeper.gates.evaluate import Reason, Verdict, evaluate
from xtts_gatekeeper.gates.policy import Gate, Policy, PolicyRule, load_policy
from xtts_gatekeeper.gates.rules import RULES, Finding, Rule

__all__ = [
    "RULES",
    "Finding",
    "Gate",
    "Policy",
    "PolicyRule",
    "Reason",
    "Rule",
    "Verdict",
    "evaluate",
    "load_policy",
]
