"""Small random models of every family, saved as Hugging Face folders; and plain references."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (24, 24, 24, 24, 24, 24, 24),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

# name -> (transformers configuration class, options beyond SMALL, do_normalize of the preprocessor)
FAMILIES = {
    "wav2vec2-base": ("Wav2Vec2Config", {}, False),
    "wav2vec2-large": ("Wav2Vec2Config", STABLE, True),  # also XLS-R and MMS
    "hubert-base": ("HubertConfig", {}, False),
    "hubert-large": ("HubertConfig", STABLE, True),
    "hubert-batch-norm": ("HubertConfig", {"conv_pos_batch_norm": True}, False),
    "distilhubert": ("HubertConfig", {"num_hidden_layers": 2, "feat_proj_layer_norm": False}, True),
    "wavlm-base": ("WavLMConfig", {}, False),
    "wavlm-large": ("WavLMConfig", STABLE, True),
    "data2vec-audio": ("Data2VecAudioConfig", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 19}, True),
    "unispeech": ("UniSpeechConfig", {}, False),
    "unispeech-sat-base": ("UniSpeechSatConfig", {}, False),
    "unispeech-sat-large": ("UniSpeechSatConfig", STABLE, True),
    "conformer-relative": (
        "Wav2Vec2ConformerConfig",
        {"position_embeddings_type": "relative", "feat_extract_norm": "layer", "conv_depthwise_kernel_size": 7},
        True,
    ),
    "conformer-rotary": (
        "Wav2Vec2ConformerConfig",
        {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 7},
        True,
    ),
}


def save(name: str, folder: Path, seed: int = 0, **changes) -> Path:
    """Write a small random model of a family; every parameter is drawn, so that no norm is the identity.

    ``changes`` to its configuration that keep the shapes (dropout, masking) keep the weights too.
    """
    import transformers

    kind, options, normalises = FAMILIES[name]
    config = getattr(transformers, kind)(**{**SMALL, **options, **changes})
    torch.manual_seed(seed)
    network = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.dtype.is_floating_point and ("norm" in key or key.endswith("bias")):
                noise = 0.2 * torch.randn_like(value)
                value.copy_(noise.abs() + 0.5 if "running_var" in key else value + noise)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": normalises, "sampling_rate": 16000}
        )
    )
    return folder


def whisper(folder: Path, seed: int = 0, tokenizer: str | None = None) -> Path:
    """Write a small random Whisper encoder-decoder.

    ``tokenizer``: None for none, "english" or "multilingual" for one of single bytes and a few pairs.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    vocabulary = {None: 60, "english": 400, "multilingual": 51865}[tokenizer]
    config = WhisperConfig(
        vocab_size=vocabulary, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=80, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = WhisperModel(config).eval()
    with torch.no_grad():
        for key, value in network.named_parameters():
            if "norm" in key or key.endswith("bias"):
                value.add_(0.2 * torch.randn_like(value))
        network.decoder.embed_tokens.weight.mul_(20)  # drawn with a deviation of 0.02, words would be all alike
    network.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    if tokenizer:
        _whisper_tokenizer().save_pretrained(folder)
    return folder


def _whisper_tokenizer():
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    pieces = sorted(ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]  # Ġ is the space
    pieces += [left + right for left, right in merges]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    special += [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer = WhisperTokenizer({piece: k for k, piece in enumerate([*pieces, special[0]])}, merges)
    tokenizer.add_special_tokens({"extra_special_tokens": special[1:]})
    return tokenizer


def speech_like(n_samples: int, seed: int) -> np.ndarray:
    """Noise with a changing envelope and an offset: what statistics over time would notice."""
    random = np.random.default_rng(seed)
    envelope = 0.05 + np.abs(np.sin(np.arange(n_samples) / (900 + 37 * seed)))
    return (0.1 * envelope * random.standard_normal(n_samples) + 0.01 * seed).astype(np.float32)


def corpus(folder: Path, waveforms, segments=(), sample_rate: int = 16_000, **columns):
    """A corpus of waveforms u0, u1, ..., written as float WAV files so that every sample is exact.

    ``segments``: (number of the utterance, tier, first sample, one past the last, label), at 16 kHz.
    ``columns``: metadata, a list each.
    """
    import soundfile

    from layertool import Corpus

    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for k, waveform in enumerate(waveforms):
        soundfile.write(folder / f"u{k}.wav", waveform, sample_rate, subtype="FLOAT")
        given = {name: values[k] for name, values in columns.items()}
        utterances.append({"utterance": f"u{k}", "audio": str(folder / f"u{k}.wav"), **given})
    table = [
        {"utterance": f"u{k}", "tier": tier, "start": start / 16_000, "end": end / 16_000, "label": label}
        for k, tier, start, end, label in segments
    ]
    return Corpus.build(utterances, table, "synthetic")


def random_segments(lengths, seed: int = 0) -> list[tuple]:
    """Words that follow one another and phones inside them, at any sample; the last ends with the audio."""
    random = np.random.default_rng(seed)
    rows = []
    for k, n_samples in enumerate(lengths):
        edges = np.unique([*random.integers(0, n_samples, max(2, n_samples // 4_000)), n_samples])
        for start, end in pairwise(edges):
            rows.append((k, "word", int(start), int(end), f"w{random.integers(5)}"))
            inner = np.unique([start, *random.integers(start, end, 3), end])
            for left, right in pairwise(inner):
                rows.append((k, "phone", int(left), int(right), f"p{random.integers(8)}"))
    return rows
