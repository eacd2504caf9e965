"""Small random models of every family, saved as Hugging Face folders; and plain references."""

from __future__ import annotations

import json
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
    "distilhubert": ("HubertConfig", {"num_hidden_layers": 2}, True),
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


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a small random model of a family; every parameter is drawn, so that no norm is the identity."""
    import transformers

    kind, options, normalises = FAMILIES[name]
    config = getattr(transformers, kind)(**{**SMALL, **options})
    torch.manual_seed(seed)
    network = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.dtype.is_floating_point and ("norm" in key or key.endswith("bias")):
                noise = 0.2 * torch.randn_like(value)
                value.copy_(noise.abs() + 0.5 if "running_var" in key else value + noise)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": normalises, "sampling_rate": 16000})
    )
    return folder


def whisper(folder: Path, seed: int = 0) -> Path:
    """Write a small random Whisper encoder-decoder without a tokenizer."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=80, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    WhisperModel(config).eval().save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def speech_like(n_samples: int, seed: int) -> np.ndarray:
    """Noise with a changing envelope and an offset: what statistics over time would notice."""
    random = np.random.default_rng(seed)
    envelope = 0.05 + np.abs(np.sin(np.arange(n_samples) / (900 + 37 * seed)))
    return (0.1 * envelope * random.standard_normal(n_samples) + 0.01 * seed).astype(np.float32)
