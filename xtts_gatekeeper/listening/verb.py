"""The verb `listen`: the page on this computer, a copy of it in a file, answers from such a copy, and the results.

What needs the packages of the `listen` extra is imported when they have been found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from xtts_gatekeeper.data import import_extra
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import to_json

if TYPE_CHECKING:
    from xtts_gatekeeper.listening.result import Recorded
    from xtts_gatekeeper.listening.scores import Results
    from xtts_gatekeeper.listening.session import Place, Session

#: What the page, the sound and the scores need.
_PACKAGES = ("flask", "waitress", "pydantic", "jinja2", "numpy", "scipy", "soundfile", "soxr", "pyloudnorm")


def run_listen(
    run: Path,
    *,
    sets: tuple[str, ...] = (),
    prompts: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
    export: Path | None = None,
    imports: tuple[Path, ...] = (),
    results: bool = False,
    as_json: bool = False,
) -> int:
    """Serve the page until Ctrl-C or SIGTERM, or do what else is asked for; the exit code.

    Args:
        run: a run's folder, or one with sets of samples.
        sets: folders of the sets to hear; see `plan.choose_sets` for the default.
        prompts: so many prompts, the first ones; by default all.
        host: address to listen at.
        port: TCP port; 0: one that is free.
        browser: open the page in the user's browser.
        export: write the page into this file instead.
        imports: take in what such pages have saved, instead.
        results: print what was scored so far, instead.
        as_json: print one JSON document, and everything else on stderr.

    Raises:
        UserError: what was given cannot be used.
    """
    for package in _PACKAGES:
        import_extra(package, "listen")
    from xtts_gatekeeper.listening.plan import find_place

    if (export is not None) + bool(imports) + results > 1:
        raise UserError("--export, --import and --results are three things to do: give one of them.")
    place = find_place(run)
    out = Console(stderr=as_json, highlight=False)
    if imports:
        return _import(place, imports, out, as_json)
    if results:
        return _show(place, sets, out, as_json)
    session = _session(place, sets, prompts, out)
    if export is not None:
        return _export(place, session, export, out, as_json)
    return _serve(place, session, host, port, browser, out, as_json)


def _session(place: Place, sets: Sequence[str], prompts: int | None, out: Console) -> Session:
    """The session of what was asked for."""
    from xtts_gatekeeper.listening.plan import choose_sets, open_session
    from xtts_gatekeeper.listening.result import unfinished
    from xtts_gatekeeper.listening.trials import new_copy, trials_for
    from xtts_gatekeeper.samples.speak import sets_in
    from xtts_gatekeeper.samples.voice import read_held_out

    chosen = choose_sets(sets_in(place.samples), sets, _best_step(place))
    session, new = open_session(place, chosen, read_held_out(place.run) if place.run is not None else [], prompts)
    trials = len(trials_for(session, new_copy(session, "0" * 16)))
    names = " against ".join(system.name for system in session.systems)
    state = "new" if new else "gone on with"
    out.print(f"Session {session.id} ({state}): {names}, {trials} trials.", markup=False, soft_wrap=True)
    for other in unfinished(place, session) if new else ():
        options = " ".join(f"--set {system.source}" for system in other.systems)
        told = f"Somebody has not finished the session {other.id}: {options} goes on with it."
        out.print(told, markup=False, soft_wrap=True)
    return session


def _best_step(place: Place) -> int | None:
    """The step of the run's best checkpoint, where it tells one."""
    from xtts_gatekeeper.gates import evaluate
    from xtts_gatekeeper.offline import open_run

    if place.run is None:
        return None
    try:
        opened = open_run(place.run)
    except UserError:
        return None
    best = evaluate(opened.record, opened.policy).best
    return None if best is None else int(best["step"])


def _serve(place: Place, session: Session, host: str, port: int, browser: bool, out: Console, as_json: bool) -> int:
    from xtts_gatekeeper.listening.serving import in_background, run_server

    def record() -> None:
        """Write down what is complete; what cannot be written is tried again at the end."""
        try:
            added = _record(place, session).added
            if added:
                say(_new_in_journal(added))
        except Exception as error:  # whatever it is, the answers are kept and the page goes on
            _complain(f"The scores could not be written: {error}")

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    record()  # what a kill kept from being written
    with in_background(record) as finished:
        run_server(
            place,
            session,
            host=host,
            port=port,
            browser=browser,
            title=_title(place),
            finished=finished,
            say=say,
            complain=_complain,
        )
    recorded = _record(place, session)
    _print([recorded.results] if recorded.results is not None else [], out, as_json)
    _told(place, [recorded], out)
    return 0


def _export(place: Place, session: Session, path: Path, out: Console, as_json: bool) -> int:
    from xtts_gatekeeper.listening.copies import export_copy

    size = export_copy(place, session, path, _title(place))
    told = f"{path}: {size / 1e6:.1f} MB, works offline; take in what it saves with `listen --import`."
    out.print(told, markup=False, soft_wrap=True)
    if as_json:
        print(to_json({"file": str(path), "bytes": size, "session": session.id}, indent=2))
    return 0


def _import(place: Place, paths: Sequence[Path], out: Console, as_json: bool) -> int:
    from xtts_gatekeeper.listening.copies import import_copies
    from xtts_gatekeeper.listening.session import read_session

    imported = import_copies(place, paths)
    for one in imported:
        told = f"{one.listener}: {one.done} of {one.of} trials of the session {one.session}."
        out.print(told, markup=False, soft_wrap=True)
    ids = dict.fromkeys(one.session for one in imported)
    recorded = [_record(place, read_session(place.listening / id_)) for id_ in ids]
    found = [one.results for one in recorded if one.results is not None]
    _print(found, out, as_json, imported=[asdict(one) for one in imported])
    _told(place, recorded, out)
    return 0


def _show(place: Place, sets: Sequence[str], out: Console, as_json: bool) -> int:
    """What was scored so far in the sessions kept here; with `sets` in those of just these sets."""
    from xtts_gatekeeper.listening.answers import Answers
    from xtts_gatekeeper.listening.result import collect
    from xtts_gatekeeper.listening.session import sessions_in

    kept = [
        (folder, session)
        for folder, session in sessions_in(place.listening)
        if not sets or {system.source for system in session.systems} == set(sets)
    ]
    found = [collect(session, Answers(folder, session.id)) for folder, session in kept]
    _print([results for results in found if results is not None], out, as_json)
    return 0


def _record(place: Place, session: Session) -> Recorded:
    from xtts_gatekeeper.listening.result import record

    return record(place, session)


def _print(found: Sequence[Results], out: Console, as_json: bool, **more: Any) -> None:
    from xtts_gatekeeper.listening.table import print_results

    if as_json:
        print(to_json({**more, "sessions": [results.to_dict() for results in found]}, indent=2))
        return
    for results in found:
        print_results(out, results)
    if not found:
        out.print("Nobody has answered everything yet.")


def _told(place: Place, recorded: Sequence[Recorded], out: Console) -> None:
    """Where the scores went."""
    if not any(one.results is not None for one in recorded):
        return
    added = sum(one.added for one in recorded)
    if not recorded[0].journal:
        told = f"There is no journal of a run: the scores are in {place.listening} alone."
    elif added:
        told = _new_in_journal(added)
    else:
        told = "The run's journal has these scores."
    out.print(told, markup=False, soft_wrap=True)


def _new_in_journal(added: int) -> str:
    return f"{added} scores are new in the run's journal; the gates judge by them."


def _title(place: Place) -> str:
    return f"Listening test: {(place.run or place.samples).name}"


def _complain(line: str) -> None:
    """Tell somebody beside the server."""
    print(line, file=sys.stderr, flush=True)
