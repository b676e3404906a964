"""The audit of speech data: which clips XTTS trains on, what is wrong with which, how often each is drawn.

What was found out about an audio file or a text is kept in the user's cache; the clips and faults of one audit are in
a temporary file, and kept whole, too. So neither the second run nor a large set asks for much.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.board import MEASURES, SEVERITIES, Board
from xtts_gatekeeper.dataset.clip import Audio, Clip
from xtts_gatekeeper.dataset.identity import clip_id
from xtts_gatekeeper.dataset.kept import keep, kept, kept_file
from xtts_gatekeeper.dataset.sampler import draws, warnings
from xtts_gatekeeper.dataset.source import Source, open_source
from xtts_gatekeeper.dataset.store import MISSING, Store
from xtts_gatekeeper.dataset.tokens import TokenProcess, Tokens, keep_tokens, known_tokens, vocab_name
from xtts_gatekeeper.dataset.usable import Limits, unusable
from xtts_gatekeeper.errors import UserError

#: Stage of the work, how much of it is done, and of how much, where that is known.
Progress = Callable[[str, int, int | None], None]
#: Bars of a histogram.
BINS = 30
_AT_ONCE = 500


@dataclass(frozen=True)
class AuditResult:
    """What was found. The faults are read from a file that is gone when the block of `audit` ends.

    Args:
        source: what was audited.
        limits: what XTTS was taken to be set to.
        board: clips and faults.
        fingerprint: of the data, as `identity.fingerprint`; it does not depend on paths, order or speakers.
        not_checked: what could not be looked at, and why, a sentence each.
    """

    source: Source
    limits: Limits
    board: Board
    fingerprint: str
    not_checked: tuple[str, ...]

    def faults(self, severities: Sequence[str] = SEVERITIES) -> Iterator[Mapping[str, Any]]:
        """Every fault, the worst first: its clip, code, severity, message, value, and the line that it is of."""
        return self.board.faults(severities)

    @property
    def bad(self) -> int:
        """How many clips XTTS cannot use, or are surely wrong; lines that give no clip are counted, too."""
        return self.board.clips_with("unusable", "hard")

    def to_dict(self) -> dict[str, Any]:
        """As `audit --json` prints it, all but the faults, which may be many."""
        groups = self.board.groups()
        found = draws(groups)
        return {
            "source": str(self.source.path),
            "read": list(self.source.said),
            "limits": asdict(self.limits),
            "fingerprint": self.fingerprint,
            "not_checked": list(self.not_checked),
            "clips": sum(group.clips for group in groups),
            "usable": sum(group.usable for group in groups),
            "hours": sum(group.seconds for group in groups) / 3600,
            "usable_hours": sum(group.usable_seconds for group in groups) / 3600,
            "bad": self.bad,
            "totals": self.board.totals(),
            "groups": [one.to_dict() for one in found],
            "warnings": warnings(found),
            "formats": [
                {"sample_rate": rate, "channels": channels, "clips": clips}
                for rate, channels, clips in self.board.formats()
            ],
            "histograms": {measure: self.board.histogram(measure, BINS) for measure in MEASURES},
        }


@contextlib.contextmanager
def audit(
    path: Path,
    *,
    formatter: str | None = None,
    language: str | None = None,
    vocab: Path | None = None,
    limits: Mapping[str, int] | None = None,
    store: Store | None = None,
    verify: bool = False,
    progress: Progress = lambda _stage, _done, _all: None,
) -> Iterator[AuditResult]:
    """Audit the speech data at `path`; the result holds as long as the block.

    Args:
        path: a metadata file, a folder with one, or a run.
        formatter: `ljspeech`, `coqui` or another reader of Coqui's; None: by what is in the file.
        language: of the clips; None: what the metadata or the run's config says.
        vocab: XTTS's vocab.json, for the tokens; None: the run's, else the one that Coqui downloaded.
        limits: fields of `Limits` that are to be others than the run's or the defaults.
        store: the cache; None: the user's.
        verify: read the files that are known from before again, whatever their size and time of change say.
        progress: told how it goes.

    Raises:
        UserError: `path` or an option is of no use.
    """
    source = open_source(path, formatter, language)
    settings = Limits(**{**asdict(Limits.of_config(source.config)), **(limits or {})})
    vocab = _vocab(source, vocab)
    with contextlib.ExitStack() as stack:
        file = kept_file(source, settings, vocab_name(vocab) if vocab is not None else "")
        if file is not None and not verify:
            found = stack.enter_context(kept(file))
            if found is not None:
                yield AuditResult(source, settings, *found)
                return
        store = store or stack.enter_context(Store.open())
        board = stack.enter_context(Board.open())
        board.enter(source.entries(), lambda count: progress("reading", count, None))
        if not board.count() and not board.totals():
            raise UserError(f"{path} lists no clip.")
        not_checked = _measure(store, board, vocab, verify, progress)
        fingerprint = _judge(store, board, settings, progress)
        if file is not None and (vocab is None or not not_checked):  # a tokenizer that failed may be mended
            keep(file, board, fingerprint, not_checked)
        yield AuditResult(source, settings, board, fingerprint, tuple(not_checked))


def _measure(store: Store, board: Board, vocab: Path | None, verify: bool, progress: Progress) -> list[str]:
    """Look at every audio file and every text, and compare the clips; say what could not be looked at."""
    if vocab is None:
        _listen(store, board, verify, progress)
        return ["tokens: there is no vocab.json; name the one of the base model with --vocab"]
    name = vocab_name(vocab)
    board.set_tokens(known_tokens(store, name, board.text_keys()))
    if next(board.new_texts(), None) is None:
        _listen(store, board, verify, progress)
        return []
    with TokenProcess(vocab, board.new_texts()) as process:
        _listen(store, board, verify, progress)
        progress("waiting for the tokenizer", 0, None)
        if failed := process.wait():
            return [f"tokens: the tokenizer cannot be run ({failed}); it needs the `train` extra and a whole {vocab}"]
        board.set_tokens(process.answers())
        keep_tokens(store, name, process.answers())
    return []


def _listen(store: Store, board: Board, verify: bool, progress: Progress) -> None:
    """Measure the audio and find the faults that the measures show."""
    from xtts_gatekeeper.dataset.examine import examine
    from xtts_gatekeeper.dataset.scan import scan

    scan(store, board.audio_files(), verify=verify, progress=lambda done, of: progress("listening", done, of))
    progress("comparing", 0, None)
    board.add(examine(store, lambda: ((clip, audio) for clip, audio, _ in _heard(store, board))))


def _judge(store: Store, board: Board, limits: Limits, progress: Progress) -> str:
    """Find the clips that XTTS does not use, and return the fingerprint of all of them."""
    total, done = board.count(), 0
    heard = _heard(store, board)
    while part := list(islice(heard, _AT_ONCE)):
        rows = []
        for clip, audio, tokens in part:
            faults = list(unusable(clip, audio, tokens, limits))
            board.add(faults)
            content = clip_id({"text": clip.text, "language": clip.language}, audio.digest)
            rows.append((clip, audio, content, not any(fault.severity == "unusable" for fault in faults)))
        board.measured(rows)
        done += len(part)
        progress("judging", done, total)
    digest = hashlib.blake2b(digest_size=8)
    for count, content in enumerate(board.contents()):
        digest.update(b"\n" * bool(count) + content.encode())
    return digest.hexdigest()


def _heard(store: Store, board: Board) -> Iterator[tuple[Clip, Audio, Tokens | None]]:
    """Every clip, in order, with what is known of its audio and its text."""
    clips = board.clips()
    while part := list(islice(clips, _AT_ONCE)):
        known = store.audio([clip.audio_file for clip, _ in part])
        for clip, tokens in part:
            audio = known.get(clip.audio_file)
            yield clip, audio or Audio(digest=MISSING, error=f"{clip.audio_file} was not looked at"), tokens


def _vocab(source: Source, asked: Path | None) -> Path | None:
    """The vocabulary to make tokens with: the one asked for, the run's, one in its folder, or what Coqui downloaded.

    Raises:
        UserError: the one asked for is not there.
    """
    if asked is not None:
        file = asked / "vocab.json" if asked.is_dir() else asked
        if not file.is_file():
            raise UserError(f"--vocab {asked} is not there; give the vocab.json of the base model, or its folder.")
        return file
    arguments = source.config.get("model_args")
    named = str(arguments.get("tokenizer_file") or "") if isinstance(arguments, Mapping) else ""
    candidates = [Path(named)] if named else []
    if source.config:
        candidates.append(source.path / "vocab.json")
    candidates += sorted(_coqui_folder().glob("tts_models--multilingual--multi-dataset--xtts_v2*/vocab.json"))
    return next((file for file in candidates if file.is_file()), None)


def _coqui_folder() -> Path:
    """Where Coqui's `ModelManager` puts what it downloads, as `trainer.io.get_user_data_dir` says."""
    for variable in ("TTS_HOME", "XDG_DATA_HOME"):
        if place := os.environ.get(variable):
            return Path(place).expanduser() / "tts"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "tts"
    return Path.home() / ("Library/Application Support/tts" if sys.platform == "darwin" else ".local/share/tts")
