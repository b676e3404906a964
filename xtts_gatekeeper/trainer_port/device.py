"""Where a Trainer computes, how precisely, with what versions, and in how much memory."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.trainer_port.base import BasePort


@dataclass(frozen=True)
class Memory:
    """Bytes of a `device` (`cuda`, `mps`, `cpu`): `used` by any process, `total`, and `own` of this process."""

    device: str
    used: int
    total: int
    own: int

    @property
    def share(self) -> float:
        """The share that is in use, 0 to 1."""
        return self.used / self.total if self.total else 0.0


class DevicePort(BasePort):
    """The part of the port that baseline and memory monitor read."""

    @property
    def device(self) -> str:
        """Where the model's parameters are."""
        import torch

        device = next(self.trainer.model.parameters()).device
        return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

    @property
    def precision(self) -> str:
        """The type in which the forward pass really computes: on a CPU mixed precision is bfloat16, asked or not."""
        import torch

        if self.config.mixed_precision:
            _, dtype = self.trainer._get_autocast_args(mixed_precision=True, precision=self.config.precision)
            return f"{dtype} autocast".removeprefix("torch.")
        tf32 = self.trainer.use_cuda and torch.backends.cuda.matmul.allow_tf32
        return str(next(self.trainer.model.parameters()).dtype).removeprefix("torch.") + (
            " (TF32 matmul)" if tf32 else ""
        )

    @property
    def precision_requested(self) -> str:
        """What the config asks for."""
        return f"{self.config.precision} mixed precision" if self.config.mixed_precision else "float32"

    @property
    def versions(self) -> dict[str, str]:
        """Versions of everything a result may depend on."""
        found = {"python": platform.python_version(), "platform": platform.platform()}
        for package in ("xtts-gatekeeper", "coqui-tts", "coqui-tts-trainer", "torch", "torchaudio", "transformers"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "not installed"
        return found

    def memory(self) -> Memory:
        """The memory of the device at this moment."""
        import torch

        device = next(self.trainer.model.parameters()).device.type
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            return Memory("cuda", total - free, total, torch.cuda.memory_allocated())
        if device == "mps":
            total = torch.mps.recommended_max_memory()
            return Memory("mps", torch.mps.driver_allocated_memory(), total, torch.mps.current_allocated_memory())
        total = host_memory.total_bytes()
        return Memory("cpu", total - host_memory.available_bytes(), total, host_memory.process_bytes())

    def peak_device_bytes(self) -> int | None:
        """The most that tensors took on a CUDA device since the last call; None on others, which do not count it."""
        import torch

        if not self.on_gpu:
            return None
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return peak

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return bool(self.trainer.use_cuda)

    @property
    def accelerated(self) -> bool:
        """Whether Hugging Face Accelerate does the updates."""
        return bool(self.trainer.use_accelerate)

    @property
    def loss_scale(self) -> float | None:
        """The scale of the gradient scaler that looks after the updates (fp16); None without one. Waits for a GPU."""
        return float(self.trainer.scaler.get_scale()) if self.updates.scaler_at_work else None
