"""Residual networks over log-mel pictures: ResNet-50 as published, and a light separable one."""

from typing import Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.core.config import Config


class ResNetConfig(Config):
    """Shape of a residual network; the defaults are ResNet-50 with one input channel."""

    block: Literal["bottleneck", "separable"] = "bottleneck"
    """`bottleneck`: 1 × 1, 3 × 3, 1 × 1 convolutions, four times as wide outside as inside.
    `separable`: twice a 3 × 3 depthwise and a 1 × 1 convolution."""
    stem_width: int = Field(default=64, gt=0)
    """Channels after the first convolution."""
    stem_kernel: int = Field(default=7, gt=0)
    """Side of the first convolution (odd)."""
    stem_stride: tuple[int, int] = (2, 2)
    """Reduction of mels and frames by the first convolution."""
    has_max_pool: bool = True
    """Whether a 3 × 3 maximum of stride 2 follows the first convolution."""
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    """Inner channels of each stage; every stage but the first halves mels and frames."""
    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Residual blocks of each stage."""

    @model_validator(mode="after")
    def _check(self) -> "ResNetConfig":
        if not self.stage_widths or len(self.stage_widths) != len(self.stage_blocks):
            raise ValueError("stage_widths and stage_blocks must have one entry a stage")
        if self.stem_kernel % 2 == 0:
            raise ValueError("stem_kernel must be odd")
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the last stage's output."""
        return self.stage_widths[-1] * (4 if self.block == "bottleneck" else 1)

    def out_mels(self, num_mels: int) -> int:
        """Rows of frequency that are left of `num_mels`."""
        num_halvings = len(self.stage_widths) - 1 + int(self.has_max_pool)
        rows = -(-num_mels // self.stem_stride[0])
        for _ in range(num_halvings):
            rows = -(-rows // 2)
        return rows


def _convolution(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )


def _bottleneck(in_channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _convolution(width, width, 3, stride=stride),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _convolution(width, 4 * width, 1),
        nn.BatchNorm2d(4 * width),
    )


def _separable(in_channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        _convolution(in_channels, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _convolution(width, width, 3, groups=width),
        _convolution(width, width, 1),
        nn.BatchNorm2d(width),
    )


class ResidualBlock(nn.Module):
    """`relu(branch(x) + shortcut(x))`; the shortcut is a 1 × 1 convolution where shapes change."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = nn.ReLU()
        last = branch[-1]
        assert isinstance(last, nn.BatchNorm2d)
        # A branch that starts at zero lets the deep network start as a shallow one.
        nn.init.zeros_(last.weight)

    def forward(
        self, picture: Float[Tensor, "batch channels mels frames"]
    ) -> Float[Tensor, "batch out_channels out_mels out_frames"]:
        """One residual step."""
        return self.activation(self.branch(picture) + self.shortcut(picture))


class ResNet(nn.Module):
    """A picture of one channel to feature maps."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.stem_width
        half = config.stem_kernel // 2
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, config.stem_kernel, config.stem_stride, half, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1) if config.has_max_pool else nn.Identity(),
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage, (width, count) in enumerate(
            zip(config.stage_widths, config.stage_blocks, strict=True)
        ):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                block = self._block(channels, width, stride)
                blocks.append(block)
                channels = width * (4 if config.block == "bottleneck" else 1)
        self.blocks = nn.Sequential(*blocks)

    def _block(self, in_channels: int, width: int, stride: int) -> ResidualBlock:
        is_bottleneck = self.config.block == "bottleneck"
        out_channels = 4 * width if is_bottleneck else width
        make = _bottleneck if is_bottleneck else _separable
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Sequential(
                _convolution(in_channels, out_channels, 1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )
        return ResidualBlock(make(in_channels, width, stride), shortcut)

    def forward(
        self, picture: Float[Tensor, "batch 1 mels frames"]
    ) -> Float[Tensor, "batch channels out_mels out_frames"]:
        """Feature maps of the last stage."""
        return self.blocks(self.stem(picture))
