"""`musiclm train-baseline`: the spectrogram-diffusion baseline, on the corpus of the model."""

from pathlib import Path

import tyro
from rich.console import Console

from musiclm.baselines.diffusion_system import DiffusionTask, DiffusionTaskConfig
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.pairs import LogMelStore, PairSource, PairSourceConfig
from musiclm.training.trainer import LAST_NAME, TrainerConfig, train


def train_baseline(  # noqa: PLR0913  (each is an option of the command)
    corpus: tyro.conf.Positional[Path],
    *,
    run_folder: Path,
    num_steps: int = 6_000,
    batch: int = 8,
    max_minutes: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Train spectrogram diffusion; the same command goes on where an earlier one stopped.

    Args:
        corpus: A captioned corpus; its log-mels are computed once and kept there.
        run_folder: Where checkpoints, metrics and weights go.
        num_steps: Updates of the whole run.
        batch: Images at once.
        max_minutes: Stop cleanly after this time; 0 for no limit.
        seed: Of all draws.
        device: auto, cpu or cuda.
        threads: CPU threads; as many as there are by default.
    """
    runtime = Runtime.choose(device, threads)
    config = DiffusionTaskConfig()
    log_mel = config.model.log_mel
    store = LogMelStore(Corpus.open(corpus), corpus / "log_mels", log_mel)
    pairs = PairSourceConfig(
        batch_size=batch, crop_frames=config.model.image_frames, validation_pairs=4 * batch
    )
    source = PairSource(store, pairs, seed=seed)
    task = DiffusionTask(config, seed=seed)
    task.start(source)
    trainer = TrainerConfig(
        num_steps=num_steps, ema_decay=0.999, max_minutes=max_minutes, keep_samples=0, seed=seed
    )
    result = train(task, source, trainer, run_folder, runtime=runtime)
    console = Console(stderr=True)
    state = "finished" if result.is_finished else "stopped; the same command goes on"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result.validation.items())
    console.print(f"spectrogram diffusion: {result.step}/{num_steps} steps, {state}; {figures}")
    console.print(f"weights: {run_folder / LAST_NAME}")
