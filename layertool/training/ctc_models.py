"""Networks with a CTC head as folders: transformers' own for waveforms, ours for MelHuBERT, a head alone for frozen
encoders."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from layertool.errors import ModelError, StoreError
from layertool.files import read_json, write_json
from layertool.models import pruned
from layertool.models.computing import shapes_only
from layertool.models.melhubert import MelHuBERT
from layertool.models.open import Model
from layertool.training.ctc import BLANK, CTC, PhoneProbe
from layertool.training.ctc_data import BLANK as BLANK_TOKEN
from layertool.training.ctc_data import BOUNDARY, UNKNOWN, Vocabulary, Writing
from layertool.training.encoders import Opened, open_encoder

RECORD, HEAD, VOCABULARY, TOKENIZER = "ctc.json", "head.safetensors", "vocab.json", "tokenizer_config.json"
MADE_BY = "layertool finetune ctc"
MODEL_FILES = (
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "source.json",
    HEAD,
    VOCABULARY,
    TOKENIZER,
)
Learner = CTC | PhoneProbe


def save(network: Learner, opened: Opened, vocabulary: Vocabulary, writing: Writing, folder: Path, step: int) -> None:
    """Write a fine-tuned network as a MODEL folder, or the head and the layer weights of a frozen one."""
    if isinstance(network, PhoneProbe):
        folder.mkdir(parents=True)
        _save_head(network, folder)
    elif isinstance(network.encoder, MelHuBERT):
        opened.save(network.encoder, folder, step, MADE_BY)
        _save_head(network, folder)
    else:
        opened.save(_of_transformers(network, len(vocabulary)), folder, step, MADE_BY)
    write_json(folder / VOCABULARY, vocabulary.ids)
    if writing.units == "characters":  # transformers' tokenizer spells characters only
        described = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": BLANK_TOKEN,
            "unk_token": UNKNOWN,
            "bos_token": None,
            "eos_token": None,
            "word_delimiter_token": BOUNDARY,
            "do_lower_case": False,
            "replace_word_delimiter_char": " ",
        }
        write_json(folder / TOKENIZER, described)


def _save_head(network: Learner, folder: Path) -> None:
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if not name.startswith("encoder.")
    }
    safetensors.torch.save_file(state, folder / HEAD, metadata={"format": "pt"})


def _of_transformers(network: CTC, n_tokens: int) -> Any:
    from transformers import AutoModelForCTC

    config = deepcopy(network.encoder.config)
    config.vocab_size, config.pad_token_id = n_tokens, BLANK
    with shapes_only():
        whole = AutoModelForCTC.from_config(config)
    setattr(whole, whole.base_model_prefix, network.encoder)
    whole.lm_head = network.head
    return whole


def load(folder: Path, model: Model | str | None = None) -> tuple[Learner, Opened, Vocabulary, Writing]:
    """The network of a finished run on the CPU, with its input, tokens and what they write.

    ``model``: the MODEL of a frozen run where it lies elsewhere now. Raises StoreError for other folders, ModelError
    for weights that are missing or damaged, and for another MODEL than the run had.
    """
    if not (folder / RECORD).exists():
        raise StoreError(f"{folder} has no {RECORD}: give the folder of a finished 'layertool finetune ctc'")
    record = read_json(folder / RECORD, "the record of a CTC run")
    if not isinstance(record, dict) or record.get("finished") is not True:
        raise StoreError(f"{folder} holds no finished CTC run: run the same command again, it goes on there")
    tokens = read_json(folder / VOCABULARY, "a vocabulary")
    vocabulary = Vocabulary(tuple(sorted(tokens, key=tokens.get)))
    recipe, said = record["recipe"], record["model"]
    writing, tuned = Writing(recipe["tokens"], recipe["case"]), None if recipe["freeze"] else pruned.load(folder)
    if tuned is None:
        opened = open_encoder(model or record["opened_as"], record["statistics"])
        if opened.model.sha256 != said["sha256"]:
            raise ModelError(
                f"{opened.name} has other weights than the model that {folder} was trained on: give that one, or "
                "train again"
            )
        network: Learner = PhoneProbe(opened.encoder, len(vocabulary), recipe["normalise_layers"])
    elif isinstance(tuned, MelHuBERT):
        opened = open_encoder(str(folder), record["statistics"])
        network = CTC(opened.encoder, len(vocabulary))
    else:
        encoder = tuned.base_model
        opened = Opened(Model.of(encoder, str(folder), said["normalise"], said["epsilon"]), encoder)
        network = CTC(encoder, len(vocabulary))
        network.head = tuned.lm_head
        return network.eval(), opened, vocabulary, writing
    load_head(network, folder)
    return network.eval(), opened, vocabulary, writing


def load_head(network: Learner, folder: Path) -> None:
    """Put the head (and layer weights) of a folder into a network. Raises ModelError for another one."""
    try:
        state = safetensors.torch.load_file(folder / HEAD)
        found = network.load_state_dict(state, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{folder / HEAD} is missing, damaged or of another network ({str(error).splitlines()[0]}): copy it again"
        ) from error
    lacking = [name for name in found.missing_keys if not name.startswith("encoder.")] + found.unexpected_keys
    if lacking:
        raise ModelError(f"{folder / HEAD} lacks {lacking[0]}, or has it besides: copy it again")
