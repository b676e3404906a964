"""What listeners would think, as networks have learnt it from them: opinion scores from 1 to 5."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.samples.audio import RATE
from xtts_gatekeeper.samples.measures.base import Speech, Value
from xtts_gatekeeper.samples.measures.models import Models, imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: What DNSMOS was trained on, in seconds; shorter audio is repeated, as its authors do.
_DNSMOS_SECONDS = 9.01
#: Silence that is left around the speech, so that its beginning and end are not cut.
_MARGIN_SECONDS = 0.15


class Dnsmos:
    """DNSMOS P.835 of one window: overall, of the voice (signal) and of what is around it (background).

    The authors' mean over windows that slide by a second correlates with it at 0.988 and takes four times as long.
    """

    name = "dnsmos"
    values = (
        Value("dnsmos", "MOS", "higher"),
        Value("dnsmos_signal", "MOS", "higher"),
        Value("dnsmos_background", "MOS", "higher"),
    )
    needs = "speechmos"
    cost = 0.14

    def __init__(self) -> None:
        self._scorer: Any = None

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        import numpy as np

        if self._scorer is None:
            self._scorer = _dnsmos(speech.models)
        audio = _spoken(speech)
        length = int(_DNSMOS_SECONDS * RATE)
        audio = np.tile(audio, -(-length // len(audio)))[:length]
        peak = float(np.abs(audio).max())
        found = self._scorer(audio / peak if peak > 1 else audio, RATE, False)
        return {
            "dnsmos": float(found["ovrl_mos"]),
            "dnsmos_signal": float(found["sig_mos"]),
            "dnsmos_background": float(found["bak_mos"]),
        }


def _dnsmos(models: Models) -> Any:
    """speechmos' scorer, kept to the number of threads."""
    module, runtime = imported("speechmos.dnsmos"), imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = models.threads
    folder = Path(module.__file__).parent / "dnsmos_models"
    scorer = module.DNSMOS.__new__(module.DNSMOS)  # its __init__ lets ONNX take every core
    for name, file in (("onnx_sess", "sig_bak_ovr.onnx"), ("p808_onnx_sess", "model_v8.onnx")):
        session = runtime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        setattr(scorer, name, session)
    return scorer


class Naturalness:
    """DistillMOS: how natural the whole sounds, artefacts of synthesis included."""

    name = "naturalness"
    values = (Value("naturalness", "MOS", "higher"),)
    needs = "distillmos, torch"
    cost = 0.13

    def __init__(self) -> None:
        self._model: Any = None

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        torch = speech.models.torch()
        if self._model is None:
            with contextlib.redirect_stdout(io.StringIO()):  # it says where its weights lie
                self._model = imported("distillmos").ConvTransformerSQAModel()
            self._model.eval()
        with torch.inference_mode():
            score = self._model(torch.from_numpy(_spoken(speech).copy())[None])
        return {"naturalness": float(score.reshape(-1)[0])}


def _spoken(speech: Speech) -> NDArray[np.float32]:
    """The audio from a little before the first speech to a little behind the last; all where there is none."""
    activity, mono = speech.activity, speech.sound.mono
    if not activity.speech.any():
        return mono
    begin = max(0, int((activity.begin - _MARGIN_SECONDS) * RATE))
    return mono[begin : int((activity.end + _MARGIN_SECONDS) * RATE)]
