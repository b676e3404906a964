"""Tables and sentences for a terminal."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtts_gatekeeper.gates.rules.runtime import duration
from xtts_gatekeeper.report.samples import print_samples
from xtts_gatekeeper.report.table import COLUMNS, format_cell

#: Column -> its header on two lines, so that the table fits 80 columns.
_HEADERS = {
    "Train total": "Train\ntotal",
    "Train mel": "Train\nmel",
    "Val mel/objective": "Val mel/\nobjective",
    "LR (end)": "LR\n(end)",
    "Mem state": "Mem\nstate",
    "Sample score (/25)": "Sample\n(/25)",
}
#: So many suspected clips are named.
_SUSPECTS = 5
#: So many clips are listed.
_CLIPS = 20
_STYLE = {"continue": "green", "tune": "yellow", "stop": "red", "undecided": "cyan"}


def print_gate(console: Console, document: Mapping[str, Any]) -> None:
    """The whole `gate` verb."""
    if len(document["runs"]) > 1:
        for run in document["runs"]:
            best = run["best"]
            value = f", best {best['value']:.4f} at step {best['step']}" if best and best["value"] is not None else ""
            console.print(
                f"Run {escape(run['run'])}: [{_STYLE[run['verdict']]}]{run['verdict']}[/], {run['evaluations']} "
                f"evaluations{value}",
                soft_wrap=True,
            )
        judged = document["run"] or document["runs"][-1]["run"]
        console.print(f"Judged below: {escape(judged)} (another one with --run)", soft_wrap=True)
    print_verdict(console, document)
    if "replay" in document:
        print_replay(console, document["replay"], document["objective"])


def print_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    """The verdict and its reasons, the deciding ones first, then what to do, and where things stand."""
    name = verdict["verdict"]
    gates = escape(f" at {' and '.join(verdict['gates'])}") if verdict["gates"] else ""
    policy = escape(verdict["policy"])
    console.print(f"Verdict{gates}: [bold {_STYLE[name]}]{name}[/]  (policy {policy} {verdict['policy_hash']})")
    for reason in verdict["reasons"]:
        if reason["status"] == "not_measured":
            continue
        outcome = "note" if reason["outcome"] == "continue" else reason["outcome"]
        mark = {"failed": f"[{_STYLE.get(outcome, 'cyan')}]{outcome}[/]", "passed": "ok"}.get(reason["status"], "–")
        where = f" [{reason['gate']}]" if reason["gate"] else ""
        if reason["status"] == "too_early":
            where = f", {reason['code']}{where}"
        console.print(f"  {mark:<6} {escape(reason['message'] + where)}", soft_wrap=True)
    for step in verdict["next_steps"]:
        console.print(f"  next: {escape(step['message'])}", soft_wrap=True)
    if verdict["projection"] is not None:
        console.print(f"  projection: {escape(verdict['projection']['message'])}", soft_wrap=True)
    for word in ("best", "latest"):
        point = verdict[word]
        if point is not None and point["value"] is not None:
            file = f", {point['checkpoint']}" if point["checkpoint"] else ""
            console.print(
                f"  {word}: {verdict['objective']} {point['value']:.4f} after {point['epochs_done']} epochs, "
                f"step {point['step']}{escape(file)}",
                soft_wrap=True,
            )
    for note in verdict["notes"]:
        times = f" ({note['count']} times)" if note["count"] > 1 else ""
        console.print(f"  read: {escape(note['message'])}{times}", soft_wrap=True)


def print_replay(console: Console, replay: Mapping[str, Any], objective: str) -> None:
    """The verdict at each evaluation, and what the first stop would have saved."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column, justify in (("Epochs", "right"), ("Step", "right"), (objective, "right"), ("Verdict", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("Because", overflow="fold")
    for row in replay["rows"]:
        gates = f" ({', '.join(row['gates'])})" if row["gates"] else ""
        value = "–" if row["value"] is None else f"{row['value']:.4f}"
        table.add_row(
            str(row["epochs_done"]), str(row["step"]), value, escape(row["verdict"] + gates), escape(row["reason"])
        )
    console.print(table)
    stop = replay["stopped_at"]
    if stop is None:
        console.print("No evaluation said stop.")
        return
    regret = replay["regret"]
    lost = (
        "" if regret is None else f"; the best after it is {regret:.4f} lower" if regret > 0 else "; nothing was lost"
    )
    console.print(
        f"First stop after {stop['epochs_done']} epochs, step {stop['step']}: {replay['epochs_saved']} epochs and "
        f"{replay['evaluations_saved']} evaluations saved{lost}.",
        soft_wrap=True,
    )


def print_analysis(console: Console, analysis: Mapping[str, Any]) -> None:
    """What each phase gained, against the value before it, and the distance to the target."""
    phases = analysis["phases"]
    for part in phases if len(phases) < 2 else (*phases, analysis["overall"]):
        way = (
            f"{part['name']}: {part['from']:.4f} at step {part['from_step']} to {part['to']:.4f} at step "
            f"{part['to_step']}"
        )
        if not part["comparable"]:
            gain = "not comparable: the eval set changed in between"
        elif part["rate_per_step"] is None:
            gain = "no steps in between"
        else:
            share = "" if part["change_share"] is None else f" ({part['change_share']:+.1%})"
            gain = f"{part['change']:+.4f}{share}, {part['rate_per_step']:+.2e} a step"
        console.print(f"{way}, {gain}", markup=False, soft_wrap=True)
    if analysis["distance"] is not None:
        console.print(f"Distance of the best to the target {analysis['target']:g}: {analysis['distance']:+.4f}")


def print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """The checklist's tracking table."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in COLUMNS:
        text = column in ("Epoch", "Decision", "Mem state")
        table.add_column(_HEADERS.get(column, column), justify="left" if text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(format_cell(key, row[key])) for key in COLUMNS.values()))
    console.print(table)


def print_disk(console: Console, status: Mapping[str, Any]) -> None:
    """Files and bytes."""
    for name, size in status["files"].items():
        console.print(f"  {name}: {_megabytes(size)}", markup=False)
    console.print(
        f"Disk: {_megabytes(status['disk_bytes'])} in checkpoints, "
        f"{_megabytes(status['freed_bytes'])} freed by pruning",
    )


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """The whole `status` verb."""
    baseline = status["baseline"]
    console.print(f"Run {escape(status['run'])}: {status['state']}", soft_wrap=True)
    if baseline and baseline["device"]:
        said = [", ".join(filter(None, (baseline["device"], baseline["precision"])))]
        if baseline["scheduler"]:
            said.append(f"scheduler {baseline['scheduler']}")
        if baseline["train_clips"] is not None:
            said.append(f"{baseline['train_clips']} train and {baseline['eval_clips']} eval clips")
        said.append(baseline["resume_mode"] + (f" from {baseline['resumed_from']}" if baseline["resumed_from"] else ""))
        console.print("; ".join(said), markup=False, soft_wrap=True)
    for warning in baseline["warnings"] if baseline else ():
        console.print(f"  warning: {warning}", markup=False, soft_wrap=True)
    print_table(console, status["rows"])
    for phase in status["phases"]:
        why = f", {phase['why']}" if phase["why"] else ""
        console.print(
            f"{phase['name']}: LR {phase['lr']:g} from step {phase['step']}{why}", markup=False, soft_wrap=True
        )
    for action in status["actions"]:
        line = f"Action at step {action['step']}, {action['name']}: {action['message']}"
        console.print(line, markup=False, soft_wrap=True)
    print_analysis(console, status["analysis"])
    print_health(console, status["health"])
    print_samples(console, status["samples"])
    for incident in status["incidents"]:
        console.print(f"Incident at step {incident['step']}: {incident['message']}", markup=False, soft_wrap=True)
    for crash in status["crashes"]:
        clips = f" Clips: {', '.join(crash['files'][:_SUSPECTS])}." if crash["files"] else ""
        line = f"Crash at step {crash['step']}: {crash['message']}{clips} {crash['why']}".rstrip()
        console.print(f"{line} ({crash['evidence']})" if crash["evidence"] else line, markup=False, soft_wrap=True)
    print_verdict(console, status["verdict"])
    print_disk(console, status)
    if "coverage" in status:
        print_coverage(console, status["coverage"])


def print_coverage(console: Console, coverage: Mapping[str, Any]) -> None:
    """How often the clips were drawn, and the clips that are worth a listen: those that do not learn first."""
    if not coverage["clips"]:
        console.print("Clips: the run has written down none.")
        return
    console.print(
        f"Clips: {coverage['clips']} in {coverage['steps']} steps; drawn {coverage['median_draws']:g} times in the "
        f"middle, {coverage['most_draws']} at most, {coverage['never_drawn']} never; {len(coverage['stuck'])} do not "
        "learn with the others",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in ("Drawn", "Early", "Late", "Above"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("Clip", overflow="fold")
    for course in coverage["courses"][:_CLIPS]:
        values = (format_cell("", course[key]) for key in ("early", "late", "above"))
        table.add_row(str(course["draws"]), *values, "!" if course["stuck"] else "", escape(course["name"]))
    console.print(table)
    if coverage["metric"]:
        console.print(
            f"Early and late: what each adds to {coverage['metric']}, in the first and second half of the steps; above "
            "the others late.",
            soft_wrap=True,
        )


def print_health(console: Console, health: Mapping[str, Any]) -> None:
    """What the latest epoch's monitors found, as far as they measured; then the clips that stood out."""
    parts: list[str] = []
    if health["updates"]:
        lost = health["nonfinite_updates"]
        skipped = f", {lost} of {health['updates']} updates held NaN or infinity" if lost else ""
        norm = health["grad_norm_median"]
        parts.append(
            "no finite gradient" if norm is None else f"gradient norm {norm:.3g} (max {health['grad_norm_max']:.3g})"
        )
        parts[-1] += skipped
    if health["steps_per_second"]:
        audio = health["audio_seconds_per_second"]
        parts.append(f"{health['steps_per_second']:.3g} steps/s" + (f", {audio:.3g} s of audio/s" if audio else ""))
        parts.append(f"{health['data_wait_share']:.0%} waiting for data")
    if health["memory_peak_bytes"]:
        parts.append(f"memory {_megabytes(health['memory_bytes'])}, {_megabytes(health['memory_peak_bytes'])} at most")
    if health["hours_left"]:
        parts.append(f"{duration(health['hours_left'])} to go")
    if parts:
        console.print(f"Latest epoch: {'; '.join(parts)}", markup=False, soft_wrap=True)
    if health["bad_batches"]:
        kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in health["bad_batches"].items())
        clips = [f"{file} ({count} times)" if count > 1 else file for file, count in health["suspects"].items()]
        more = f" and {len(clips) - _SUSPECTS} more" if len(clips) > _SUSPECTS else ""
        suspects = f"; suspected: {', '.join(clips[:_SUSPECTS])}{more}" if clips else ""
        console.print(f"Batches that stood out: {kinds}{suspects}", markup=False, soft_wrap=True)


def print_verify(console: Console, document: Mapping[str, Any]) -> None:
    """The whole `verify` verb: a line for each file, then what is wrong, then what could not be looked at."""
    folders = {str(Path(file["path"]).parent) for file in document["files"]}
    if len(folders) == 1:
        console.print(f"In {folders.pop()}:", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("File", overflow="fold")
    for column in ("Size", "Step", "Epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("Kind", "Digest", "Result"):
        table.add_column(column, no_wrap=True)
    for file in document["files"]:
        table.add_row(
            escape(" = ".join(str(Path(name).name) if not folders else name for name in (file["path"], *file["also"]))),
            _megabytes(file["bytes"]),
            *("–" if file[key] is None else str(file[key]) for key in ("step", "epoch")),
            file["kind"],
            "compared" if file["digest_known"] else "–",
            "[green]intact[/]" if file["intact"] else "[red]broken[/]",
        )
    console.print(table)
    for file in document["files"]:
        for problem in file["problems"]:
            console.print(f"{file['path']}: {problem}", markup=False, soft_wrap=True)
    unseen = Counter(what for file in document["files"] for what in file["not_checked"])
    for what, count in unseen.items():
        console.print(f"Not checked in {count} of {len(document['files'])}: {what}", markup=False, soft_wrap=True)


_ACTIONS = {"keep": "keep", "shrink": "weights only", "drop": "delete", "stays": "stays", "broken": "broken"}


def print_prune(console: Console, document: Mapping[str, Any]) -> None:
    """The whole `prune` verb: what happens to each file and why, and the bytes."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("Action", no_wrap=True)
    table.add_column("File", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for key, action in _ACTIONS.items():
        for move in document[key]:
            to = f" to {move['to']}" if move.get("to", move["path"]) != move["path"] else ""
            table.add_row(action, escape(move["path"] + to), _megabytes(move["bytes"]), escape(move["why"]))
    console.print(table)
    for note in document["notes"]:
        console.print(note, markup=False, soft_wrap=True)
    if document["over_budget"]:
        over = _megabytes(document["over_budget"])
        console.print(f"What must stay is {over} over the budget.", markup=False)
    before = _megabytes(document["bytes_before"])
    if document["dry_run"]:
        console.print(
            f"Would free {_megabytes(document['bytes_freed'])} of {before}; nothing was changed.", markup=False
        )
    elif document["in_use"] or document["refused"]:
        why = document["refused"] or f"the run is being written by {document['in_use']}"
        console.print(f"Not pruned: {why}.", markup=False, soft_wrap=True)
    else:
        console.print(f"Freed {_megabytes(document['freed'])} of {before}.", markup=False)
        for name, why in document["not_removed"].items():
            console.print(f"{name} stays: {why}", markup=False, soft_wrap=True)


def print_resume(console: Console, document: Mapping[str, Any]) -> None:
    """The whole `resume` verb: the file, why, how to go on from it, and what was put aside."""
    if document["file"] is None:
        console.print(f"Nothing to resume from: {document['why']}.", markup=False, soft_wrap=True)
    else:
        console.print(document["file"], markup=False, soft_wrap=True)
        console.print(f"step {document['step']}: {document['why']}", markup=False, soft_wrap=True)
        console.print(f"python YOUR_RECIPE.py ... --continue_path {document['run']}", markup=False, soft_wrap=True)
    for file in document["considered"]:
        if file["problem"]:
            console.print(f"{file['path']} was passed over: {file['problem']}", markup=False, soft_wrap=True)
    for old, new in (document["quarantined"] | document["renamed"]).items():
        console.print(f"{old} is now {new}", markup=False, soft_wrap=True)
    if document["in_use"]:
        console.print(f"The run is being written by {document['in_use']}: nothing was renamed.", markup=False)


def status_text(status: Mapping[str, Any]) -> str:
    """What the `status` verb prints, as plain text for a log."""
    text = io.StringIO()
    print_status(Console(file=text, width=100, highlight=False, no_color=True), status)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
