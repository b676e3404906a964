"""What is spoken at every check: built-in sets for each language of XTTS, or a file of the user's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from xtts_gatekeeper.data import LANGUAGES, require_language
from xtts_gatekeeper.errors import UserError, nearest

#: So many prompts in the languages of the training are spoken at a check.
MOST_OWN = 8

#: Characters beyond which XTTS cuts speech off, as its tokenizer has them (`VoiceBpeTokenizer.char_limits`).
CHAR_LIMITS = {
    "en": 250, "de": 253, "fr": 273, "es": 239, "it": 213, "pt": 203, "pl": 224, "zh": 82, "ar": 166, "cs": 186,
    "ru": 182, "nl": 251, "tr": 226, "ja": 71, "hu": 224, "ko": 95, "hi": 150,
}  # fmt: skip

#: In which order languages that are not trained on are chosen: those first of which XTTS learned most.
_OTHERS = ("en", "es", "de", "fr", "it", "pt", "pl", "ru", "nl", "tr", "cs", "hu", "zh-cn", "ar", "ja", "ko", "hi")

_SETS = Path(__file__).with_name("prompt_sets")
_KEYS = ("id", "text", "language", "seed")
#: An id names files, on every system.
_ID = re.compile(r"\w[\w.-]{0,59}")
_SEEDS = 2**31
#: Distance of the seeds of two takes: a prime, so that takes of other prompts do not meet them.
_TAKE = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to speak.

    `seed` is that of its first take. `own` is False for a language that is not trained on: such a prompt watches
    forgetting.
    """

    id: str
    text: str
    language: str
    seed: int
    own: bool = True

    def seed_of(self, take: int) -> int:
        """The seed of a take, counted from 0."""
        return (self.seed + take * _TAKE) % _SEEDS


@cache
def built_in(language: str) -> tuple[Prompt, ...]:
    """The eight prompts that we have for a language of XTTS, the most telling first."""
    require_language(language)
    return read_prompts(_SETS / f"{language}.yaml", language)


def choose_prompts(languages: Sequence[str], others: int, file: Path | None = None) -> tuple[Prompt, ...]:
    """The prompts of a run.

    Args:
        languages: those of the training, the most frequent first.
        others: so many languages besides, with one prompt each.
        file: the user's prompts; by default up to `MOST_OWN` built-in ones, dealt out among `languages` in turn.

    Raises:
        UserError: the file cannot be used.
    """
    languages = [language for language in languages if language in LANGUAGES]
    if file is not None:
        own = read_prompts(file, languages[0] if languages else None)
        own = tuple(replace(prompt, own=not languages or prompt.language in languages) for prompt in own)
    else:
        turns = zip(*(built_in(language) for language in languages), strict=True)
        own = tuple(prompt for turn in turns for prompt in turn)[: max(MOST_OWN, len(languages))]
    used = {*languages, *(prompt.language for prompt in own)}
    foreign = [language for language in _OTHERS if language not in used][:others]
    more = (replace(built_in(language)[0], own=False) for language in foreign)
    known = {prompt.id for prompt in own}
    return own + tuple(prompt for prompt in more if prompt.id not in known)


def languages_of(clips: Iterable[Any]) -> list[str]:
    """The languages of Coqui's samples, the most frequent first."""
    counts: dict[str, int] = {}
    for clip in clips:
        language = str(clip.get("language") or "") if isinstance(clip, Mapping) else ""
        if language in LANGUAGES:
            counts[language] = counts.get(language, 0) + 1
    return sorted(counts, key=lambda language: -counts[language])


def read_prompts(path: Path, language: str | None = None) -> tuple[Prompt, ...]:
    """Read a file of prompts: YAML (`.yaml`, `.yml`, `.json`), a list of `{id, text, language, seed}`; else plain text.

    Of plain text every line that is not empty is a prompt, `line-1` and so on; in YAML only `text` is needed.

    Args:
        path: the file, UTF-8.
        language: of the prompts that name none.

    Raises:
        UserError: it cannot be read, or a prompt cannot be spoken; naming it.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"the prompts {path} are not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise UserError(f"the prompts {path} cannot be read ({error.strerror or error}); give a file.") from None
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        entries = _entries(path, content)
    else:
        lines = [line.strip() for line in content.split("\n") if line.strip()]
        entries = [{"id": f"line-{number}", "text": line} for number, line in enumerate(lines, 1)]
    if not entries:
        raise UserError(f"the prompts {path} are empty; write at least one sentence.")
    prompts = tuple(_prompt(path, number, entry, language) for number, entry in enumerate(entries, 1))
    seen: dict[str, str] = {}
    for prompt in prompts:
        folded = prompt.id.casefold()  # two files of such names are one on some systems
        if folded in seen:
            raise UserError(f"the prompts {path} have the id {prompt.id!r} twice; give every prompt its own.")
        seen[folded] = prompt.id
    return prompts


def _entries(path: Path, content: str) -> list[Any]:
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"the prompts {path} are no YAML{where}; write a list of `- text: ...`.") from None
    if found is None:
        return []
    if not isinstance(found, list):
        raise UserError(f"the prompts {path} are no list but {type(found).__name__}; write a list of `- text: ...`.")
    return found


def _prompt(path: Path, number: int, entry: Any, language: str | None) -> Prompt:
    if isinstance(entry, str):
        entry = {"text": entry}
    where = f"prompt {number} of {path}"
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is {type(entry).__name__}; write `- text: ...`.")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where} has the unknown key {key!r}, {nearest(str(key), _KEYS)}")
    id_ = entry.get("id", f"prompt-{number}")
    if not isinstance(id_, str | int) or isinstance(id_, bool) or not _ID.fullmatch(str(id_)):
        raise UserError(f"{where} has the id {id_!r}, which names files; use up to 60 letters, digits, -, _ and dots.")
    text = entry.get("text")
    if not isinstance(text, str) or not any(character.isalnum() for character in text):
        raise UserError(f"{where} has nothing to say: its text is {text!r}; write a sentence.")
    text = " ".join(text.split())
    spoken = entry.get("language", language)
    if not isinstance(spoken, str):
        raise UserError(f"{where} names no language, and the run tells none; write `language: en` or another.")
    try:
        require_language(spoken)
    except UserError as error:
        raise UserError(f"{where}: {error}.") from None
    limit = CHAR_LIMITS[spoken.split("-")[0]]
    if len(text) > limit:
        raise UserError(f"{where} has {len(text)} characters, and XTTS speaks {limit} of {spoken}; shorten it.")
    seed = entry.get("seed", _seed(str(id_)))
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < _SEEDS:
        raise UserError(f"{where} has the seed {seed!r}; give a whole number from 0 to {_SEEDS - 1}.")
    return Prompt(id=str(id_), text=text, language=spoken, seed=seed)


def _seed(id_: str) -> int:
    """The same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:4], "big") % _SEEDS


def fingerprint(
    prompts: Sequence[Prompt], takes: int, voice: Sequence[str], settings: Mapping[str, float | int | bool | None]
) -> str:
    """What a set of samples is of, as 12 hexadecimal digits: only sets of the same are compared.

    Args:
        prompts: with texts, languages and seeds.
        takes: samples of each.
        voice: digests of the reference clips, in order.
        settings: by which the model generates.
    """
    spoken = [[prompt.id, prompt.text, prompt.language, prompt.seed, prompt.own] for prompt in prompts]
    told = json.dumps([spoken, takes, list(voice), dict(settings)], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]
