"""Made-up sets of samples with what was measured of them, from a few numbers each."""

from pathlib import Path

from xtts_gatekeeper.samples.calibration import Spread
from xtts_gatekeeper.samples.sets import Fault, Measured, Sample, SampleSet

#: What a good sample measures.
GOOD = {
    "wer": 0.0,
    "cer": 0.0,
    "words": 10.0,
    "insertions": 0.0,
    "deletions": 0.0,
    "duration_ratio": 0.0,
    "trailing_silence_seconds": 0.1,
    "naturalness": 4.3,
    "pitch_spread_semitones": 3.0,
    "likeness": 0.85,
    "dnsmos": 3.1,
    "dnsmos_signal": 3.4,
    "dnsmos_background": 4.0,
    "clipped_runs": 0.0,
}

#: What the speaker's own clips measure: as `GOOD`, within a little.
SPREAD = {name: Spread(median=value, mad=0.05, count=20) for name, value in GOOD.items()}


def spoken(prompt, *, take=0, text="a sentence of ten words", language="en", **values):
    """One sample of a prompt."""
    return Sample(
        file="" if values.get("error") else f"{prompt}-{take}.wav",
        prompt=prompt,
        text=text,
        language=language,
        take=take,
        **values,
    )


def measured(sample, faults=(), **values):
    """What was measured of a sample: what a good one measures, but for `values`; None leaves a value out."""
    found = {name: value for name, value in {**GOOD, **values}.items() if value is not None}
    return Measured(file=sample.file, values=found, faults=tuple(fault(kind) for kind in faults))


def fault(kind, severity=1.0):
    """A fault of a kind."""
    return Fault(kind=kind, message=f"{kind} was heard", severity=severity)


def sample_set(samples, found, *, step=100, prompts="prompts", folder="samples", **values):
    """A set of samples, and what was measured of them (None: nothing)."""
    return SampleSet(
        folder=Path(folder) / str(step),
        step=step,
        epoch=0,
        weights="live",
        prompts=prompts,
        samples=tuple(samples),
        measured=tuple(one for one in found if one is not None),
        **{"measured_as": "measures", **values},
    )


def uniform(values, *, own=True, step=100, **more):
    """A set of one sample for each of `values`, which are what differs from a good sample (a mapping each)."""
    samples = [spoken(f"p{n}", own=own) for n in range(len(values))]
    return sample_set(samples, [measured(s, **v) for s, v in zip(samples, values, strict=True)], step=step, **more)
