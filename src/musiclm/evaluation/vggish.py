"""VGGish, the embedding of the FAD paper, for a user's own copy of its weights.

Conventions: 16 kHz, 25-ms frames every 10 ms, 64 mel bands from 125 to 7,500 Hz, one patch of 96
frames a window. Nothing is fetched: the weights are a .safetensors copy of `torchvggish`'s state
dict. Reference: Hershey et al. 2017, "CNN architectures for large-scale audio classification".
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import CheckpointError
from musiclm.evaluation.embedders import module_identity, vggish_windows

VGGISH_RATE_HZ = 16_000
_FFT_SIZE = 512
_NUM_MELS = 64
_LOW_HZ, _HIGH_HZ = 125.0, 7_500.0
_WINDOWS_AT_ONCE = 32
_CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
_PATCH_FRAMES = 96


class VGGish(nn.Module):
    """A 0.96-s log-mel patch to 128 numbers, without PCA.

    The last ReLU is left out, as in the FAD toolkits that use the PyTorch port.
    """

    name = "vggish"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in _CHANNELS:
            if isinstance(width, int):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 128),
        )
        self.register_buffer("filters", _mel_triangles(), persistent=False)
        window = nn.functional.pad(torch.hann_window(400), (0, _FFT_SIZE - 400))
        self.register_buffer("window", window, persistent=False)

    @classmethod
    def load(cls, path: Path) -> "VGGish":
        """Reads a .safetensors copy of the PyTorch port's weights.

        Raises:
            CheckpointError: The file is missing, damaged, or of another model.
        """
        model = cls()
        try:
            missing, extra = model.load_state_dict(load_file(path), strict=False)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} holds no VGGish weights ({error}). Save torchvggish's state dict as "
                ".safetensors."
            ) from error
        if missing or any(not name.startswith("pproc") for name in extra):
            wrong = [*missing, *extra][0]
            raise CheckpointError(f"{path} is of another model than VGGish: look at {wrong!r}.")
        return model.eval().requires_grad_(False)

    @property
    def identity(self) -> str:
        """A hash of the weights."""
        return module_identity(self)

    def forward(self, windows: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows 128"]:
        """Embeddings of 1-s windows at 16 kHz, of which the first 0.975 s are read."""
        spectrum = torch.stft(
            windows,
            _FFT_SIZE,
            160,
            window=self.get_buffer("window"),
            center=False,
            return_complex=True,
        ).abs()
        mel = torch.log(self.get_buffer("filters") @ spectrum + 0.01)
        patches = mel[:, :, :_PATCH_FRAMES].transpose(1, 2).unsqueeze(1)
        features = self.features(patches).permute(0, 2, 3, 1)
        return self.embeddings(features.flatten(1))

    @torch.no_grad()
    def embed(self, waveform: Waveform) -> Float[Tensor, "windows 128"]:
        """128-d rows, one each half second."""
        windows = vggish_windows(waveform, VGGISH_RATE_HZ).to(self.get_buffer("window").device)
        return torch.cat([self(part) for part in windows.split(_WINDOWS_AT_ONCE)]).cpu()


def _mel_triangles() -> Float[Tensor, "mels bins"]:
    """Triangles of unit height that are straight on HTK's mel scale; the lowest bin is left out."""
    bins_hz = torch.linspace(0, VGGISH_RATE_HZ / 2, _FFT_SIZE // 2 + 1, dtype=torch.float64)
    bins = 1127 * torch.log1p(bins_hz / 700)
    low, high = (1127 * math.log1p(edge / 700) for edge in (_LOW_HZ, _HIGH_HZ))
    edges = torch.linspace(low, high, _NUM_MELS + 2, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    triangles[:, 0] = 0
    return triangles.float()
