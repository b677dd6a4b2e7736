"""A program: compiled steps are traced without a gap and say the codes of the reference."""

import torch

from musiclm.stages.decoding import SamplingConfig, generate
from musiclm.stages.graph import decoder as graph_decoder
from musiclm.stages.graph.step import Kernels, choose_step, layer_step, position_tensors
from tests.support.stages import STYLES, Positions, make_codes, make_layout, make_model

NUM_FRAMES = 18
CASES: tuple[tuple[str, str, Positions, SamplingConfig], ...] = (
    ("coarse", "paper", "relative_bias", SamplingConfig(top_k=3)),
    ("semantic", "all_aligned", "rotary", SamplingConfig(guidance=2.0)),
)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def whole(part):
    return torch.compile(part, backend="aot_eager", fullgraph=True)


def main():
    kernels = Kernels(whole(position_tensors), whole(layer_step), whole(choose_step))
    graph_decoder.fused_kernels = lambda: kernels
    for stage, style, positions, sampling in CASES:
        layout = make_layout(stage, STYLES[style])
        codes = make_codes(layout, NUM_FRAMES)
        model = make_model(layout, positions)
        prefixes = {part.name: codes[part.name] for part in layout.prefixes}
        decoder = graph_decoder.GraphDecoder(model, is_fused=True, bucket=16)
        blocks = decoder.blocks(prefixes, NUM_FRAMES, sampling=sampling, generators=generators())
        said = torch.cat(list(blocks), dim=2)
        assert "compiled" in decoder.description, decoder.description
        expected = generate(model, prefixes, NUM_FRAMES, sampling=sampling, generators=generators())
        assert torch.equal(said, expected), (stage, style)


if __name__ == "__main__":
    main()
