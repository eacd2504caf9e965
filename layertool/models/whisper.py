"""Whisper in two halves: encode a clip once, then force any number of tokens through the decoder.

The halves are transformers' modules; what is own here is how they are called. The encoder may see the
clip alone instead of 30 s, in padded batches that change nothing. The decoder keeps the keys and values
of one clip's states, and its tokens are a tree: a token sees its ancestors, so that words which begin
alike share their beginning, and any set of words is one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from layertool.errors import AudioError, ModelError, UsageError, tell
from layertool.geometry import FRAME_FIELD, FRAME_HOP, MODEL_HOP, SAMPLE_RATE, FrameGeometry
from layertool.models.checkpoint_files import (
    GENERATION,
    PREPROCESSOR,
    TOKENIZER,
    check_rate,
    find,
    read_preprocessor,
    read_settings,
)
from layertool.models.hooks import block_taps, tapped
from layertool.models.padding import inside
from layertool.models.strangers import BROKEN, first_line, opening

WINDOW_SAMPLES = 30 * SAMPLE_RATE  # what the encoder was trained on
WINDOW_POSITIONS = WINDOW_SAMPLES // MODEL_HOP
# log-mel frames: 400 samples centred on every 160th; conv1 sees 3 of them, conv2 3 of conv1's
CONV1 = FrameGeometry(FRAME_HOP, 400 + 2 * FRAME_HOP, -(200 + FRAME_HOP), centred=True)
CONV2 = FrameGeometry(MODEL_HOP, 400 + 4 * FRAME_HOP, -(200 + 2 * FRAME_HOP), centred=True)
# What the encoder sees, and what the decoder sees of it.
WINDOWS = {
    "30s": "30 s, padded with silence, all 1500 positions",
    "clip": "30 s, padded with silence, but only the positions of the clip are kept",
    "exact": "the clip alone",
}
START, NO_TIMESTAMPS, END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"


def n_positions(n_samples: int) -> int:
    """Encoder positions that belong to ``n_samples`` of audio: one for every 20 ms begun."""
    return -(-n_samples // MODEL_HOP)


def is_multilingual(name: str, revision: str | None, config: Any, vocabulary: Mapping[str, int]) -> bool:
    """Whether a checkpoint's prefix has a language and a task, by what its own files say.

    generation_config.json first (``is_multilingual``, ``lang_to_id``, ``forced_decoder_ids``), then config.json, then
    the tokens of languages and tasks, without which there is nothing to say; then which of OpenAI's two tokenizers the
    checkpoint has, and the size of the vocabulary last: told.
    """
    said = read_settings(name, revision, GENERATION) or {}
    languages = _ids(said, "lang_to_id")
    for claim in (said.get("is_multilingual"), getattr(config, "is_multilingual", None)):
        if isinstance(claim, bool):
            if languages and not claim:
                tell(
                    f"{name}/{GENERATION} says is_multilingual = false and has languages (lang_to_id): the first is "
                    "followed"
                )
            return claim
    if languages:
        return True
    for forced in (said.get("forced_decoder_ids"), getattr(config, "forced_decoder_ids", None)):
        if isinstance(forced, list) and forced:
            return len(forced) > 1  # language, task, no timestamps; English-only models are forced to the last
    if "<|transcribe|>" not in vocabulary or not any(f"<|{code}|>" in vocabulary for code in _languages()):
        return False
    # its number is how many tokens of text OpenAI's tokenizers have
    found = {50256: False, 50257: True}.get(vocabulary.get(END, -1))
    by = f"the number of {END} in its tokenizer ({vocabulary.get(END)})"
    if found is None:  # multilingual checkpoints have more entries than 51864, and fine-tuned ones may
        found, by = config.vocab_size > 51864, f"the size of its vocabulary ({config.vocab_size})"
    tell(
        f"{name} does not say whether it is multilingual: by {by}, it is taken to be "
        f"{'multilingual' if found else 'English-only'}; add is_multilingual to its {GENERATION}"
    )
    return found


def _ids(said: Mapping[str, Any], key: str) -> dict[str, int]:
    """Names of tokens and their numbers, as generation_config.json says them."""
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def _languages() -> dict[str, str]:
    """Codes of Whisper's languages, and their names."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES


def load_mel(name: str, revision: str | None, config: Any) -> Any:
    """The checkpoint's own log-mel input; without a file that says it, Whisper's with the network's bands: told.

    Raises ModelError for an input that is not what the network takes, or another than Whisper's 30 s, 10 ms and 16 kHz.
    """
    from transformers import WhisperFeatureExtractor

    said = read_preprocessor(name, revision)
    if said is None:
        tell(
            f"{name} has no {PREPROCESSOR}: its input is taken to be Whisper's log-mel energies, of "
            f"{config.num_mel_bins} bands"
        )
        said = {}
    check_rate(name, said)
    known = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config.num_mel_bins,
        "hop_length": FRAME_HOP,
        "n_fft": FRAME_FIELD,
        "chunk_length": WINDOW_SAMPLES // SAMPLE_RATE,
        "n_samples": WINDOW_SAMPLES,
        "nb_max_frames": 2 * WINDOW_POSITIONS,
        "dither": 0.0,
        "padding_value": 0.0,
    }
    differing = [
        f"{key} {said[key]} instead of {value}" for key, value in known.items() if said.get(key) not in (None, value)
    ]
    if config.num_mel_bins > 1000:
        differing.append(f"num_mel_bins {config.num_mel_bins} instead of 80 or 128")
    if config.max_source_positions != WINDOW_POSITIONS:
        differing.append(f"max_source_positions {config.max_source_positions} instead of {WINDOW_POSITIONS}")
    if differing:
        raise ModelError(
            f"{name} has files of an input that does not fit its network, or is not Whisper's "
            f"({'; '.join(differing)}): take {PREPROCESSOR} and config.json of one checkpoint"
        )
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins)


@opening
def load_tokenizer(
    name: str, revision: str | None, config: Any, language: str | None = None, timestamps: bool = False
) -> tuple[Any, list[int]]:
    """The checkpoint's tokenizer, and the tokens it puts before a transcription.

    Multilingual: start, language (None: English), transcribe; English-only: start; and then, unless ``timestamps``, the
    token that says there are none. Raises UsageError for another language than English with an English-only model,
    ModelError for a checkpoint without tokenizer or language, or with one that is not its own.
    """
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    # without these files transformers makes a tokenizer of special tokens alone, with other numbers
    if not find(name, revision, "tokenizer.json") and not find(name, revision, "vocab.json"):
        raise ModelError(f"{name} has no tokenizer, which Whisper's decoder needs: add tokenizer.json")
    read_settings(name, revision, TOKENIZER)  # names of other classes, templates and code are left aside
    try:
        tokenizer = WhisperTokenizer.from_pretrained(name, revision=revision or "main")
        vocabulary = tokenizer.get_vocab()
    except BROKEN as error:
        raise ModelError(
            f"{name} has a tokenizer that cannot be read ({first_line(error)}): copy its files again"
        ) from error
    if START not in vocabulary:
        raise ModelError(f"{name} has a tokenizer without {START}, which is not Whisper's: add its own tokenizer.json")
    multilingual = is_multilingual(name, revision, config, vocabulary)
    if language not in (None, "en") and not multilingual:
        raise UsageError(f"{name} is an English-only checkpoint: leave out --language {language}")
    code = TO_LANGUAGE_CODE.get(str(language), language) or "en"
    prefix = [
        START,
        *([f"<|{code}|>", "<|transcribe|>"] if multilingual else []),
        *([] if timestamps else [NO_TIMESTAMPS]),
    ]
    if lacking := [token for token in prefix if token not in vocabulary]:
        if multilingual and lacking[0] == f"<|{code}|>" and any(f"<|{other}|>" in vocabulary for other in _languages()):
            raise ModelError(f"{name} does not know the language '{language or code}': choose another --language")
        raise ModelError(
            f"{name} is {'multilingual' if multilingual else 'English-only'} by its {GENERATION} or config.json, and "
            f"its tokenizer has no {' and no '.join(lacking)}: add the tokenizer that it was trained with"
        )
    if max(vocabulary.values()) >= config.vocab_size:
        raise ModelError(
            f"{name} has a tokenizer of {max(vocabulary.values()) + 1} tokens, and its network knows "
            f"{config.vocab_size}: take the tokenizer and config.json of one checkpoint"
        )
    tokenizer.language = tokenizer.task = None  # a fine-tuned checkpoint may have saved some
    if multilingual and code in _languages():
        tokenizer.set_prefix_tokens(language=code, task="transcribe", predict_timestamps=timestamps)
    else:
        tokenizer.set_prefix_tokens(predict_timestamps=timestamps)
    _compare_tokens(name, revision, vocabulary, prefix)
    return tokenizer, [vocabulary[token] for token in prefix]


def _compare_tokens(name: str, revision: str | None, vocabulary: Mapping[str, int], prefix: Sequence[str]) -> None:
    """Tell where generation_config.json has other numbers for the tokens of a prefix than the tokenizer."""
    said = read_settings(name, revision, GENERATION) or {}
    ids = {NO_TIMESTAMPS: said.get("no_timestamps_token_id"), **_ids(said, "lang_to_id")}
    ids |= {f"<|{task}|>": number for task, number in _ids(said, "task_to_id").items()}
    if not said.get("_from_model_config"):  # then it is no more than what config.json defaults to
        ids[START] = said.get("decoder_start_token_id")
    differing = [token for token in prefix if ids.get(token) not in (None, vocabulary[token])]
    if differing:
        told = ", ".join(f"{token} is {vocabulary[token]} and {ids[token]}" for token in differing)
        tell(
            f"{name}: its tokenizer and its {GENERATION} number tokens differently ({told}): the tokenizer is "
            "followed; one of the two may be of another checkpoint"
        )


def log_mel(mel: Any, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
    """The encoder's input: waveforms (n_samples,) at 16 kHz, of up to 30 s each -> (clips, mel bands, 3000).

    Raises AudioError for a clip that is longer.
    """
    for waveform in waveforms:
        if len(waveform) > WINDOW_SAMPLES:
            raise AudioError(
                f"a clip of {len(waveform)} samples ({len(waveform) / SAMPLE_RATE:.2f} s) is longer than the 30 s that "
                f"Whisper takes ({WINDOW_SAMPLES}): cut it"
            )
    with torch.autocast("cpu", enabled=False):  # one by one: a batch would be padded to the same 30 s
        inputs = [mel(one, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"][0] for one in waveforms]
    return torch.from_numpy(np.stack(inputs))


def encode(encoder: Any, features: torch.Tensor, positions: Sequence[int] | None = None) -> torch.Tensor:
    """States of clips: features (clips, mel bands, 3000) -> (clips, positions, width), after the encoder's last norm.

    ``positions``: None for the whole 30 s; else the encoder sees only so many positions of each clip, as if it were
    alone: rows beyond a clip's own are padding. transformers' blocks and norms; hooks on them see every layer.
    """
    if positions is None:
        return encoder(features).last_hidden_state
    longest = max(positions)
    own = inside(positions, longest, features.device)
    twice = own.repeat_interleave(2, dim=1)[:, None]
    hidden = functional.gelu(encoder.conv1(features[:, :, : 2 * longest] * twice))  # zeros, as at an end
    hidden = functional.gelu(encoder.conv2(hidden)).transpose(1, 2) + encoder.embed_positions.weight[:longest]
    mask = None
    if min(positions) < longest:
        away = torch.zeros(own.shape, dtype=hidden.dtype, device=hidden.device)
        mask = away.masked_fill(~own, torch.finfo(hidden.dtype).min)[:, None, None]
    for block in encoder.layers:
        hidden = block(hidden, mask)
    return encoder.layer_norm(hidden)


def encoder_layers(
    encoder: Any, features: torch.Tensor, positions: Sequence[int] | None, layers: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Layers T0 to TL (the blocks' inputs and outputs) and final of clips, as ``encode`` sees them: name -> states."""
    found: dict[str, torch.Tensor] = {}
    with tapped(block_taps(encoder.layers, encoder.layer_norm), layers, found.__setitem__):
        encode(encoder, features, positions)
    return {name: found[name] for name in layers}


class ForcedDecoder:
    """The decoder of one network with the prefix of its transcriptions.

    ``network``: transformers' WhisperForConditionalGeneration. ``prefix``: tokens before every word.
    """

    def __init__(self, network: Any, prefix: Sequence[int]):
        self.decoder, self.project = network.model.decoder, network.proj_out
        self.prefix = list(prefix)
        self.n_layers = len(self.decoder.layers)
        self.max_tokens = network.config.max_target_positions

    def hear(self, states: torch.Tensor) -> Heard:
        """One clip's states (positions, width), to be read more than once."""
        return Heard(self, states)

    def read(self, heard: Heard | torch.Tensor, layer: int | None = None) -> Reading:
        """Begin with one clip, or its states (positions, width).

        ``layer``: read the tokens after so many blocks, not all.
        """
        heard = heard if isinstance(heard, Heard) else self.hear(heard)
        return Reading(self, heard, self.n_layers if layer is None else layer)


class Heard:
    """One clip at the decoder: keys and values of its states for each block, computed when first asked for, once."""

    def __init__(self, decoder: ForcedDecoder, states: torch.Tensor):
        self._blocks, self._states = decoder.decoder.layers, states[None]
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def keys_values(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of block ``k``, each (1, heads, positions, width of a head)."""
        if k not in self._known:
            attention = self._blocks[k].encoder_attn
            keys, values = attention.k_proj(self._states), attention.v_proj(self._states)
            self._known[k] = _heads(attention, keys), _heads(attention, values)
        return self._known[k]


class Reading:
    """A tree of tokens on one clip. Node 0 is the last token of the prefix; every other has its parent.

    Keys and values of each token are computed once. Gradients flow.
    """

    def __init__(self, decoder: ForcedDecoder, heard: Heard, n_layers: int):
        self.of, self.heard = decoder, heard
        self.blocks = decoder.decoder.layers[:n_layers]
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of each block, those of the tokens so far
        self.paths: list[list[int]] = []  # of each token, its ancestors' places and its own
        self.start = self._extend(decoder.prefix, list(range(-1, len(decoder.prefix) - 1)))[-1:]  # node 0, read out

    @property
    def n_nodes(self) -> int:
        """Nodes so far; the next one is numbered so."""
        return len(self.paths) - len(self.of.prefix) + 1

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Add tokens below nodes, which may be among the new ones if they come earlier; nodes are numbered on.

        Returns what is read after them, (len(tokens), width), normed. Raises ModelError for too long a sequence.
        """
        return self._extend(list(tokens), [parent + len(self.of.prefix) - 1 for parent in parents])

    def _extend(self, tokens: list[int], parents: list[int]) -> torch.Tensor:
        first = len(self.paths)
        paths: list[list[int]] = []
        for k, parent in enumerate(parents):
            before = [] if parent < 0 else self.paths[parent] if parent < first else paths[parent - first]
            paths.append([*before, first + k])
        longest = max(map(len, paths))
        if longest > self.of.max_tokens:
            raise ModelError(
                f"a word of {longest} tokens (with the prefix) is more than the decoder takes ({self.of.max_tokens})"
            )
        self.paths += paths
        decoder = self.of.decoder
        device = decoder.embed_tokens.weight.device
        places = torch.tensor([[*path, *[path[-1]] * (longest - len(path))] for path in paths], device=device)
        depths = torch.tensor([len(path) - 1 for path in paths], device=device)
        seen = torch.arange(longest, device=device) <= depths[:, None]
        hidden = decoder.embed_tokens(torch.tensor(tokens, device=device)) + decoder.embed_positions.weight[depths]
        for k, block in enumerate(self.blocks):
            hidden = hidden + self._attend_to_path(k, block, hidden, places, seen)
            hidden = hidden + _attend_to_clip(block, hidden, *self.heard.keys_values(k))
            hidden = hidden + block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(hidden))))
        return decoder.layer_norm(hidden)

    def _attend_to_path(self, k: int, block: Any, hidden, places, seen) -> torch.Tensor:
        attention = block.self_attn
        normed = block.self_attn_layer_norm(hidden)
        keys, values = attention.k_proj(normed), attention.v_proj(normed)
        if k in self.kept:
            keys, values = (torch.cat(parts) for parts in zip(self.kept[k], (keys, values), strict=True))
        self.kept[k] = (keys, values)
        n, longest = places.shape
        query = attention.q_proj(normed).view(n, 1, attention.num_heads, -1).transpose(1, 2)
        keys, values = (
            part[places].view(n, longest, attention.num_heads, -1).transpose(1, 2) for part in (keys, values)
        )
        out = functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen[:, None, None])
        return attention.out_proj(out.transpose(1, 2).reshape(n, -1))

    def log_probs(self, read: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token: (n, width) -> (n, vocabulary), float32."""
        return functional.log_softmax(self.of.project(read).float(), dim=-1)


def _attend_to_clip(block: Any, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Cross-attention of all tokens at once: they do not see each other, so they are one row of queries."""
    attention = block.encoder_attn
    query = _heads(attention, attention.q_proj(block.encoder_attn_layer_norm(hidden))[None])
    out = functional.scaled_dot_product_attention(query, keys, values)
    return attention.out_proj(out.transpose(1, 2).reshape(len(hidden), -1))


def _heads(attention: Any, rows: torch.Tensor) -> torch.Tensor:
    """(1, n, width) -> (1, heads, n, width of a head)."""
    return rows.view(1, rows.shape[1], attention.num_heads, -1).transpose(1, 2)
