"""Real speech with transcripts, from Debian's Asterisk telephone prompts, in LJSpeech layout.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg
    python recipes/datasets/asterisk.py --language en --output data/asterisk-en

One studio voice a language: English, Russian, Spanish, French or Italian, 13 to 17 minutes each. The g722 packages
have 16 kHz audio and need ffmpeg, the wav ones 8 kHz and need nothing. Licences: CC-BY-SA-3.0 (en, es, fr),
CC-BY-3.0 (ru, it). Spanish transcripts lack most accents.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import wave
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xtts_gatekeeper.data import METADATA, write_metadata
from xtts_gatekeeper.errors import UserError, refusing
from xtts_gatekeeper.recipe import Parser

# A note in brackets may or may not be read aloud, keys like * have no one name, and a "some-key:" inside a text
# (Italian, Russian) means that lines of the transcript ran together.
UNSURE = re.compile(r"[\[\](){}<>*#|]|[a-z]-[a-z-]+:")
G722_BYTES_PER_SECOND = 8000


def main() -> None:
    with refusing():
        print(convert(parse_arguments()), file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Turn installed Asterisk prompts into an LJSpeech data set.")
    parser.add_argument("--language", required=True, choices=("en", "ru", "es", "fr", "it"))
    parser.add_argument("--output", required=True, type=Path, help="folder to make, for instance data/asterisk-en")
    parser.add_argument("--format", default="auto", choices=("auto", "g722", "wav"), help="auto prefers g722 (16 kHz)")
    parser.add_argument("--min-seconds", type=float, default=1.0, help="leave out shorter clips (default: 1)")
    parser.add_argument("--max-seconds", type=float, default=11.0, help="leave out longer clips (default: 11)")
    parser.add_argument("--source", type=Path, default=Path("/usr/share"), help="where packages put their data")
    return parser.parse_args()


def convert(options: argparse.Namespace) -> str:
    """Make the data set and return a one-line summary; raise `UserError`, with nothing written, when it cannot."""
    low, high = options.min_seconds, options.max_seconds
    if not 0 < low < high:
        raise UserError(f"--min-seconds {low:g} and --max-seconds {high:g} leave no room; give 0 < min < max")
    if options.output.is_file() or (options.output / METADATA).exists():
        raise UserError(f"{options.output} already holds data; remove it or give another --output")
    voice, kind = find_voice(options.source, options.language, options.format)
    transcript = read_transcript(options.source, options.language)
    texts = {key: text for key, raw in transcript.items() if (text := spoken_text(raw))}
    seconds = {key: seconds_of(file) for key in texts if (file := voice / f"{key}.{kind}").is_file()}
    chosen = [key for key, length in seconds.items() if low <= length <= high]
    if not chosen:
        raise UserError(f"none of the {len(seconds)} clips lasts {low:g} to {high:g} seconds; widen the limits")

    wavs = options.output / "wavs"
    wavs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda key: write_wav(voice / f"{key}.{kind}", wavs / f"{clip_name(key)}.wav"), chosen))
    write_metadata(options.output, {clip_name(key): texts[key] for key in chosen})
    return (
        f"{options.output}: {len(chosen)} clips, {sum(seconds[key] for key in chosen):.1f} s of {voice.name} ({kind}); "
        f"left out {len(transcript) - len(texts)} without a sure text, {len(texts) - len(seconds)} without audio, "
        f"{len(seconds) - len(chosen)} not {low:g} to {high:g} s long"
    )


def find_voice(source: Path, language: str, wanted: str) -> tuple[Path, str]:
    """Return the folder of the first voice that is installed and the kind of its files, "g722" or "wav"."""
    kinds = ("g722", "wav") if wanted == "auto" else (wanted,)
    found = [
        (voice, kind)
        for kind in kinds
        for voice in sorted((source / "asterisk/sounds").glob(f"{language}_*_*_*"))
        if next(voice.glob(f"*.{kind}"), None)
    ]
    playable = [(voice, kind) for voice, kind in found if kind == "wav" or shutil.which("ffmpeg")]
    if playable:
        return playable[0]
    package = f"asterisk-core-sounds-{language}"
    if found:
        raise UserError(f"ffmpeg is missing; run: apt-get install ffmpeg (or {package}-wav, 8 kHz, which needs none)")
    advice = f"{package} {package}-wav" if wanted == "wav" else f"{package} {package}-g722 ffmpeg"
    raise UserError(f"no {language} prompts ({wanted}) under {source}/asterisk/sounds; run: apt-get install {advice}")


def read_transcript(source: Path, language: str) -> dict[str, str]:
    """Return {key: text} as the package has it; of two lines with one key the first counts."""
    package = f"asterisk-core-sounds-{language}"
    path = source / "doc" / package / f"core-sounds-{language}.txt.gz"
    if not path.is_file():
        raise UserError(
            f"the transcripts {path} are missing (the audio packages do not bring them, and many images strip "
            "/usr/share/doc); run: apt-get install --reinstall -o Dpkg::Options::='--path-include=/usr/share/doc/*' "
            f"{package}"
        )
    try:
        content = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        content = ""
    texts: dict[str, str] = {}
    for line in content.splitlines():
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(key.strip(), text.strip())
    if not texts:
        raise UserError(f"{path} is damaged; run: apt-get install --reinstall {package}")
    return texts


def spoken_text(raw: str) -> str | None:
    """Return what is heard in the clip, or None where the transcript leaves doubt.

    Dots in front only say that the prompt continues another one; quotation marks are often unbalanced.
    """
    text = " ".join(raw.replace("…", "...").replace('"', "").split()).lstrip(". ")
    return text if any(map(str.isalnum, text)) and not UNSURE.search(text) else None


def clip_name(key: str) -> str:
    return key.replace("/", "-")


def seconds_of(file: Path) -> float:
    if file.suffix == ".g722":
        return file.stat().st_size / G722_BYTES_PER_SECOND
    try:
        with wave.open(str(file)) as audio:
            return audio.getnframes() / audio.getframerate()
    except (wave.Error, EOFError):
        raise UserError(f"{file} is not a WAV file; reinstall its package") from None


def write_wav(file: Path, target: Path) -> None:
    if file.suffix == ".wav":
        shutil.copyfile(file, target)
        return
    quiet, source = ("-nostdin", "-v", "error", "-y"), ("-f", "g722", "-i", str(file))
    command = ("ffmpeg", *quiet, *source, "-ar", "16000", "-ac", "1", str(target))
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise UserError(f"ffmpeg cannot decode {file} ({outcome.stderr.strip()}); reinstall its package")


if __name__ == "__main__":
    main()
