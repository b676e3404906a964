"""Rules, policies and the one pure function that judges a record. Imports neither torch nor TTS."""

from xtts_gatekeeper.gates.evaluate import Reason, Verdict, evaluate
from xtts_gatekeeper.gates.policy import Gate, Policy, PolicyRule
from xtts_gatekeeper.gates.policy_file import load_policy
from xtts_gatekeeper.gates.rules import RULES, Finding, Rule, When

__all__ = [
    "RULES",
    "Finding",
    "Gate",
    "Policy",
    "PolicyRule",
    "Reason",
    "Rule",
    "Verdict",
    "When",
    "evaluate",
    "load_policy",
]
