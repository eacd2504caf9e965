"""Which layers each family of models has, how wide they are, and where their frames lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from layertool.geometry import FrameGeometry, convolution_geometry
from layertool.models import melhubert, whisper

# Families of models, by what they are given: waveforms have these model types of transformers
# (XLS-R, MMS are wav2vec2; DistilHuBERT is hubert).
WAVEFORMS = {
    "wav2vec2": "wav2vec 2.0",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
    "data2vec-audio": "data2vec-audio",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeech-SAT",
    "wav2vec2-conformer": "wav2vec2-conformer",
}


@dataclass(frozen=True)
class Layer:
    """One layer: its width, and where its frames lie (None for decoder layers, whose rows are tokens)."""

    width: int
    geometry: FrameGeometry | None


def stacked_layers(
    convolutions: list[tuple[int, int, int]], width: int, n_blocks: int, has_final: bool
) -> dict[str, Layer]:
    """Layers of convolutions on the waveform, (width, kernel, stride) each, and of blocks on them."""
    widths, kernels, strides = zip(*convolutions, strict=True)
    geometries = convolution_geometry(kernels, strides)
    layers = {f"C{k}": Layer(w, g) for k, (w, g) in enumerate(zip(widths, geometries, strict=True), start=1)}
    names = [*(f"T{k}" for k in range(n_blocks + 1)), *(["final"] if has_final else [])]
    return layers | dict.fromkeys(names, Layer(width, geometries[-1]))


def speech_layers(config: Any) -> dict[str, Layer]:
    """Layers of transformers' networks of the wav2vec 2.0 kind."""
    # post-norm encoders apply encoder.layer_norm before their first block: nothing comes after the last
    has_final = bool(getattr(config, "do_stable_layer_norm", False)) or config.model_type == "wav2vec2-conformer"
    convolutions = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    return stacked_layers(list(convolutions), config.hidden_size, config.num_hidden_layers, has_final)


def native_layers(network: Any) -> dict[str, Layer]:
    """Layers of fairseq's own networks."""
    convolutions = [block[0] for block in network.feature_extractor.conv_layers]
    shapes = [(one.out_channels, one.kernel_size[0], one.stride[0]) for one in convolutions]
    encoder = network.encoder
    return stacked_layers(shapes, encoder.embedding_dim, len(encoder.layers), bool(encoder.layer_norm_first))


def melhubert_layers(config: melhubert.Config) -> dict[str, Layer]:
    """Layers of a MelHuBERT: ``C1`` is the projection, the place of what other models have of their convolutions."""
    names = [
        "C1",
        *(f"T{k}" for k in range(config.encoder_layers + 1)),
        *(["final"] if config.layer_norm_first else []),
    ]
    return dict.fromkeys(names, Layer(config.encoder_embed_dim, melhubert.GEOMETRIES[config.stride or 20]))


def whisper_layers(config: Any, network: Any, lacking: list[str], window: str) -> dict[str, Layer]:
    """Layers of a Whisper whose checkpoint lacks these parameters: without any of a decoder, none of the decoder."""
    width, conv1, conv2 = config.d_model, whisper.CONV1, whisper.CONV2
    if window == "30s":
        conv1, conv2 = (replace(g, always=whisper.WINDOW_SAMPLES // g.hop) for g in (conv1, conv2))
    layers = {"C1": Layer(width, conv1), "C2": Layer(width, conv2)}
    layers |= dict.fromkeys([*(f"T{k}" for k in range(config.encoder_layers + 1)), "final"], Layer(width, conv2))
    if {f"decoder.{name}" for name, _ in network.decoder.named_parameters()} - set(lacking):
        layers |= {f"D{k}": Layer(width, None) for k in range(config.decoder_layers + 1)}
    return layers
