"""Whose voice it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured, Value
from xtts_gatekeeper.samples.measures.models import Models, imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: ECAPA-TDNN as SpeechBrain trained it on VoxCeleb (spkrec-ecapa-voxceleb).
_SHAPE: dict[str, Any] = {
    "input_size": 80,
    "channels": [1024, 1024, 1024, 1024, 3072],
    "kernel_sizes": [5, 3, 3, 3, 1],
    "dilations": [1, 2, 3, 4, 1],
    "attention_channels": 128,
    "lin_neurons": 192,
}
_SHORTEST_SECONDS = 0.3
#: More tells no more of a voice.
_LONGEST_SECONDS = 10.0


class Voice:
    """Makes embeddings of voices: unit vectors of 192 numbers, alike where the speaker is the same."""

    def __init__(self) -> None:
        self._network: Any = None
        self._features: Any = None

    def embed(self, speech: Speech) -> NDArray[np.float32]:
        """Embed the spoken part of a speech.

        Raises:
            Unmeasured: too little speech, or no model.
        """
        import numpy as np

        activity, mono = speech.activity, speech.sound.mono
        if activity.seconds < _SHORTEST_SECONDS:
            raise Unmeasured("there is too little speech in it to know a voice by")
        if self._network is None:
            self._load(speech.models)
        torch = speech.models.torch()
        begin = int(activity.begin * RATE)
        spoken = mono[begin : min(int(activity.end * RATE), begin + int(_LONGEST_SECONDS * RATE))]
        with torch.inference_mode():
            features = self._features(torch.from_numpy(np.ascontiguousarray(spoken))[None])
            vector = self._network(features - features.mean(dim=1, keepdim=True)).reshape(-1).numpy()
        return vector / np.linalg.norm(vector)

    def _load(self, models: Models) -> None:
        file = models.find("ecapa") / "embedding_model.ckpt"
        torch = models.torch()
        network = imported("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN(**_SHAPE)
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        network.eval()
        self._features = imported("speechbrain.lobes.features").Fbank(n_mels=_SHAPE["input_size"])
        _drop_placeholders()
        self._network = network


class Likeness:
    """Cosine between the voice and the speaker's.

    Args:
        voice: embeds.
        speaker: mean embedding of the speaker's real clips; None where there are none.
    """

    name = "likeness"
    values = (Value("likeness", "cosine", "higher"),)
    needs = "clips of the speaker, speechbrain, torch"
    cost = 0.08

    def __init__(self, voice: Voice, speaker: NDArray[np.float32] | None) -> None:
        self.voice = voice
        self.speaker = speaker

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        if self.speaker is None:
            raise Unmeasured("no clip of the speaker is given")
        return {"likeness": float(self.voice.embed(speech) @ self.speaker)}


def _drop_placeholders() -> None:
    """Take SpeechBrain's stand-ins for modules that are not installed out of `sys.modules`.

    They raise ImportError when they are asked for `__file__`, as `inspect.getmodule` asks every module there is.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain.") and type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
            del sys.modules[name]
