"""Measuring one sample with every measure, whatever goes wrong with any of them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_gatekeeper.samples.audio import NoSpeech, Sound, read_sound
from xtts_gatekeeper.samples.calibration import Calibration, Reference, calibration_of
from xtts_gatekeeper.samples.faults import find_faults
from xtts_gatekeeper.samples.measures import default_measures
from xtts_gatekeeper.samples.measures.base import Measure, Speech, Unmeasured
from xtts_gatekeeper.samples.measures.likeness import Voice
from xtts_gatekeeper.samples.measures.models import Models
from xtts_gatekeeper.samples.score import scores
from xtts_gatekeeper.samples.sets import Measured, SampleSet, read_set, write_measured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Raised when a measure or a threshold changes, so that what was measured before is not taken for the same.
VERSION = 1
#: Real clips beyond these say no more about a speaker.
_MOST_REFERENCES = 40
_LONGEST_REFERENCE_SECONDS = 12.0


@dataclass
class Ears:
    """Everything that listens: models, measures and what is known of the speaker.

    Args:
        models: where the measures' models come from.
        calibration: of the speaker; by default what real speech in general measures.
    """

    models: Models
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        self._voice = Voice()

    @property
    def fingerprint(self) -> str:
        """Tells by what was measured: measures, models and scale. 12 hex digits."""
        text = f"{VERSION} {self.models.whisper} {self.calibration.fingerprint}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def listen(self, path: Path, text: str = "", language: str = "", *, cut: bool = False) -> Measured:
        """Measure a file and name its faults.

        Args:
            path: any audio file.
            text: what it should say, where that is known.
            language: a code of XTTS.
            cut: whether the synthesiser was ended from outside (`sets.Sample.cut`).
        """
        try:
            sound = read_sound(path)
        except NoSpeech as error:
            return Measured(file=path.name, error=f"{error}.")
        return self.listen_to(sound, path.name, text, language, cut=cut)

    def listen_to(self, sound: Sound, name: str, text: str, language: str, *, cut: bool = False) -> Measured:
        """Measure decoded audio; as `listen`."""
        speech = Speech(sound, self.models, text, language)
        speaker = self.calibration.speaker_vector
        values, missing = measure(speech, default_measures(self._voice, speaker))
        ratio = self.calibration.duration_ratio(text, language, values)
        if ratio is not None:
            values["duration_ratio"] = ratio
        try:
            heard: str | None = speech.heard.text if text.strip() else None
        except Unmeasured:
            heard = None
        faults = find_faults(values, self.calibration, cut=cut)
        return Measured(file=name, values=values, faults=faults, heard=heard, missing=missing)

    def calibrate(self, references: Sequence[Reference]) -> Calibration:
        """Measure real clips of the speaker and judge by them from now on; clips that are no speech are left out."""
        speeches = list(_speeches(references, self.models))
        vectors: list[NDArray[np.float32] | None] = []
        for speech, _ in speeches:
            try:
                vectors.append(self._voice.embed(speech))
            except Unmeasured:
                vectors.append(None)
        measured = []
        for index, (speech, reference) in enumerate(speeches):
            # A clip is not compared with itself.
            others = [vector for at, vector in enumerate(vectors) if at != index and vector is not None]
            values, _ = measure(speech, default_measures(self._voice, _mean(others)))
            measured.append((reference, values))
        speaker = _mean([vector for vector in vectors if vector is not None])
        self.calibration = calibration_of(measured, speaker)
        return self.calibration


def measure(speech: Speech, measures: Sequence[Measure]) -> tuple[dict[str, float], dict[str, str]]:
    """Take every measure that can be taken: values by name, and for the others why not, by the measure's name."""
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for one in measures:
        try:
            found: Mapping[str, float] = one(speech)
        except Unmeasured as error:
            missing[one.name] = str(error)
        except Exception as error:  # a library's own trouble with this audio must not cost the other measures
            missing[one.name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(
                ": "
            )
        else:
            finite = {name: float(value) for name, value in found.items() if math.isfinite(value)}
            values |= finite
            if len(finite) < len(found):
                missing[one.name] = "the result is not finite"
    return values, missing


def first_line(error: BaseException) -> str:
    """The kind of an error and what it says first."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")


def _speeches(references: Sequence[Reference], models: Models) -> list[tuple[Speech, Reference]]:
    found: list[tuple[Speech, Reference]] = []
    for reference in references:
        if len(found) == _MOST_REFERENCES:
            break
        try:
            sound = read_sound(Path(reference.audio_file))
        except NoSpeech:
            continue
        if sound.seconds <= _LONGEST_REFERENCE_SECONDS:
            found.append((Speech(sound, models, reference.text, reference.language), reference))
    return found


def _mean(vectors: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """Mean direction of unit vectors."""
    import numpy as np

    if not vectors:
        return None
    total = np.sum([vector for vector in vectors if vector is not None], axis=0)
    return total / (np.linalg.norm(total) + 1e-9)


def measure_set(folder: Path, ears: Ears) -> SampleSet:
    """Measure a folder of samples by the speaker's scale, score it and write `measures.json`; the set, read again.

    A folder that was measured so before is left as it is, unless something was missing then.

    Raises:
        UserError: there is no set in it.
    """
    made = read_set(folder)
    measured_as = ears.fingerprint
    if made.measured_as == measured_as and not any(one.missing for one in made.measured):
        return made
    began = time.process_time()
    measured = tuple(
        ears.listen(folder / sample.file, sample.text, sample.language, cut=sample.cut)
        for sample in made.samples
        if sample.file
    )
    scored = scores(replace(made, measured=measured, measured_as=measured_as), ears.calibration.spread)
    seconds = sum(sample.seconds for sample in made.samples)
    write_measured(
        folder,
        measured,
        measured_as,
        scored,
        calibrated=ears.calibration.own,
        cpu_seconds=round(time.process_time() - began, 2),
        audio_seconds=round(seconds, 2),
    )
    return read_set(folder)
