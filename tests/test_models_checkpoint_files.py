"""What a checkpoint's own files say comes before any guess; what they lack, hide or say twice is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import models
import numpy as np
import pytest
import references
import safetensors.torch
import torch
from commands import refused, succeeds

import layertool
from layertool.analysis.lexical.scorer import WhisperScorer
from layertool.errors import LayertoolWarning, ModelError, UsageError
from layertool.extractors.load import open_extractor
from layertool.models import melhubert, pruned
from layertool.models.checkpoint_files import normalises
from layertool.models.checkpoints import read_config
from layertool.models.open import Model
from layertool.models.whisper import is_multilingual, load_tokenizer
from layertool.training.encoders import open_encoder
from layertool.training.plans import look

FAMILIES = {
    "Wav2Vec2": (
        "Model",
        "ForCTC",
        "ForPreTraining",
        "ForSequenceClassification",
        "ForAudioFrameClassification",
        "ForXVector",
    ),
    "Hubert": ("Model", "ForCTC", "ForSequenceClassification"),
    "WavLM": ("Model", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"),
    "Data2VecAudio": ("Model", "ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"),
    "UniSpeech": ("Model", "ForCTC", "ForPreTraining", "ForSequenceClassification"),
    "UniSpeechSat": ("Model", "ForCTC", "ForPreTraining", "ForSequenceClassification", "ForXVector"),
    "Wav2Vec2Conformer": ("Model", "ForCTC", "ForPreTraining", "ForSequenceClassification", "ForXVector"),
}
CLASSES = [f"{family}{head}" for family, heads in FAMILIES.items() for head in heads]
WHISPERS = ["WhisperModel", "WhisperForConditionalGeneration", "WhisperForAudioClassification"]


def told(work) -> tuple:
    """What a function gives, and the sentences that are said meanwhile."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = work()
    return result, [str(one.message) for one in found if issubclass(one.category, LayertoolWarning)]


def opened(model: Path, layers=None, **options):
    """The extractor of a model for some layers, all but the decoder's unless they are said."""
    extractor = open_extractor(str(model), device="cpu", **options)
    extractor.restrict(layers or [name for name in extractor.layers if not name.startswith("D")])
    return extractor


def write(file: Path, **settings) -> None:
    file.write_text(json.dumps(settings))


def change(file: Path, **settings) -> None:
    said = json.loads(file.read_text()) | settings
    write(file, **{key: value for key, value in said.items() if value is not None})


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small wav2vec 2.0 whose files a test changes."""
    return models.save("wav2vec2-base", tmp_path / "m")


@pytest.fixture
def english(tmp_path) -> Path:
    """A small Whisper with an English tokenizer."""
    return models.whisper(tmp_path / "m", tokenizer="english")


def without_preprocessor(name: str, folder: Path) -> Path:
    (models.save(name, folder) / "preprocessor_config.json").unlink()
    return folder


def drop(folder: Path, *parts: str) -> list[str]:
    """Take weights out of a folder: those whose names hold one of ``parts``."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    gone = sorted(name for name in weights if any(part in name for part in parts))
    assert gone
    kept = {name: value for name, value in weights.items() if name not in gone}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return gone


def small_whisper(kind: str, folder: Path) -> Path:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=60,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        num_mel_bins=128,
    )
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


# --- every family opens as save_pretrained writes it, without a preprocessor -------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_every_family_opens_without_a_preprocessor(kind, tmp_path):
    import transformers

    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    network = cls(cls.config_class(**models.SMALL, vocab_size=30)).eval()
    network.save_pretrained(tmp_path / "m")
    extractor, said = told(lambda: opened(tmp_path / "m"))
    has_layer_norm = kind.startswith("Data2Vec")
    assert extractor.provenance["normalise"] is has_layer_norm
    (sentence,) = said
    assert (
        f"{tmp_path / 'm'} has no preprocessor_config.json: its waveforms are "
        f"{'' if has_layer_norm else 'not '}normalised" in sentence
    )
    assert open_encoder(str(tmp_path / "m")).model.normalises is has_layer_norm if "Conformer" not in kind else True
    waveform = models.speech_like(8_000, 1)
    given = references.standardised(waveform) if has_layer_norm else waveform
    assert np.allclose(extractor.normalise(waveform), given, atol=1e-5)


@pytest.mark.parametrize("kind", WHISPERS)
def test_whisper_opens_without_a_preprocessor(kind, tmp_path):
    folder = small_whisper(kind, tmp_path / "m")
    extractor, said = told(lambda: opened(folder))
    assert any(f"{folder} has no preprocessor_config.json" in one and "of 128 bands" in one for one in said)
    assert extractor.mel.feature_size == 128
    store = layertool.extract(
        str(folder), models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)]), tmp_path / "s", "frame"
    )
    assert store.layers == ["C1", "C2", "T0", "T1", "T2", "final"]


def test_a_melhubert_opens_as_it_is(tmp_path):
    network = melhubert.MelHuBERT(
        melhubert.Config(encoder_layers=2, encoder_embed_dim=32, encoder_attention_heads=4, encoder_ffn_embed_dim=48)
    )
    melhubert.save(network, network.config, tmp_path / "m")
    assert told(lambda: opened(tmp_path / "m"))[1] == []


# --- completeness is judged for the layers asked -----------------------------------------------------


def test_an_encoder_alone_has_its_layers_and_no_others(tmp_path):
    folder = small_whisper("WhisperForAudioClassification", tmp_path / "m")
    extractor, said = told(lambda: opened(folder))
    assert list(extractor.layers) == ["C1", "C2", "T0", "T1", "T2", "final"]
    assert f"{folder} lacks 50 weights of its architecture (first: decoder." in said[-1]
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    own = [value for name, value in weights.items() if name.startswith("encoder.")]
    assert extractor.n_parameters == sum(value.numel() for value in own)  # random numbers are not counted
    corpus = models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)], text=["the"])
    with pytest.raises(UsageError, match="'D1' is no layer of m: it has C1-C2, T0-T2, final"):
        layertool.extract(str(folder), corpus, tmp_path / "s", "utterance", "D1")
    with pytest.raises(ModelError, match="has no tokenizer"):
        WhisperScorer(folder)


def test_the_encoder_alone_gives_what_it_gives_in_its_model(tmp_path):
    import transformers

    whole = small_whisper("WhisperForConditionalGeneration", tmp_path / "whole")
    network = transformers.WhisperForConditionalGeneration.from_pretrained(whole)
    alone = transformers.WhisperForAudioClassification(network.config)
    alone.encoder.load_state_dict(network.model.encoder.state_dict())
    alone.save_pretrained(tmp_path / "alone")
    corpus = models.corpus(tmp_path / "c", [models.speech_like(16_000, 1)])
    stores = [
        layertool.extract(str(tmp_path / name), corpus, tmp_path / f"s{name}", "frame") for name in ("whole", "alone")
    ]
    for name in stores[1].layers:
        assert np.array_equal(stores[0].read("frame", name), stores[1].read("frame", name))


@pytest.mark.parametrize(
    ("family", "part", "highest_without", "lowest_with"),
    [
        ("wav2vec2-base", "encoder.layers.2.", "T2", "T3"),
        ("wav2vec2-base", "encoder.layers.0.attention.q", "T0", "T1"),
        ("wav2vec2-base", "conv_layers.3.", "C3", "C4"),
        ("wav2vec2-base", "feature_projection", "C7", "T0"),
        ("wav2vec2-base", "pos_conv_embed", "C7", "T0"),
        ("wav2vec2-base", "encoder.layer_norm", "C7", "T0"),  # before the first block
        ("wav2vec2-large", "encoder.layer_norm", "T3", "final"),  # after the last one
        ("wavlm-large", "rel_attn_embed", "T0", "T1"),
        ("data2vec-audio", "pos_conv_embed", "C7", "T0"),
        ("conformer-relative", "encoder.layers.1.conv_module", "T1", "T2"),
    ],
)
def test_weights_are_missed_by_the_layers_that_need_them(tmp_path, family, part, highest_without, lowest_with):
    folder, whole = models.save(family, tmp_path / "m"), models.save(family, tmp_path / "whole")
    gone = drop(folder, part)
    corpus = models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)])
    store, said = told(lambda: layertool.extract(str(folder), corpus, tmp_path / "s", "utterance", highest_without))
    assert any(f"{folder} lacks {len(gone)} weights of its architecture" in one for one in said)
    expected = layertool.extract(str(whole), corpus, tmp_path / "w", "utterance", highest_without)
    assert np.array_equal(store.read("utterance", highest_without), expected.read("utterance", highest_without))
    with pytest.raises(
        ModelError, match=rf"lacks {len(gone)} weights of its own architecture .*, which {lowest_with} need"
    ):
        layertool.extract(str(folder), corpus, tmp_path / "t", "utterance", lowest_with)
    with pytest.raises(ModelError, match="lacks"):
        layertool.extract(str(folder), corpus, tmp_path / "u", "utterance")
    with pytest.raises(ModelError, match="lacks"):  # training takes all of it
        Model.open(folder).load()


def test_whispers_decoder_is_missed_by_its_layers(english, tmp_path):
    drop(english, "decoder.layers.1.")
    corpus = models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)], text=["the"])
    layertool.extract(str(english), corpus, tmp_path / "s", "utterance", "all,D0-D1")
    with pytest.raises(ModelError, match="which D2 need"):
        layertool.extract(str(english), corpus, tmp_path / "t", "utterance", "D2")
    drop(english, "encoder.layers.0.")
    layertool.extract(str(english), corpus, tmp_path / "u", "utterance", "C1-C2,T0")
    with pytest.raises(ModelError, match="which D0 need"):
        layertool.extract(str(english), corpus, tmp_path / "v", "utterance", "D0")


def test_parts_that_only_training_uses_are_not_missed(tmp_path):
    import transformers

    config = transformers.Wav2Vec2Config(**models.SMALL)
    transformers.Wav2Vec2ForPreTraining(config).save_pretrained(tmp_path / "m")
    write(tmp_path / "m" / "preprocessor_config.json", do_normalize=False)
    drop(tmp_path / "m", "quantizer", "project_q", "project_hid", "masked_spec_embed")
    assert told(lambda: opened(tmp_path / "m"))[1] == []
    with pytest.raises(ModelError, match="has no masked_spec_embed among its weights"):
        open_extractor(str(tmp_path / "m")).time_mask(0)


def test_more_blocks_than_the_configuration_says_are_told(folder):
    change(folder / "config.json", num_hidden_layers=2)
    _, said = told(lambda: opened(folder))
    assert (
        f"{folder} has 16 weights that its config.json does not speak of, and that are not used (first: "
        "encoder.layers.2." in said[0]
    )


# --- adapters ----------------------------------------------------------------------------------------


def adapted(folder: Path) -> Path:
    models.save("wav2vec2-base", folder)
    write(
        folder / "adapter_config.json",
        peft_type="LORA",
        base_model_name_or_path="org/base",
        r=2,
        target_modules=["q_proj"],
    )
    name = "base_model.model.encoder.layers.0.attention.q_proj.lora_{}.weight"
    weights = {name.format("A"): torch.ones(2, 48), name.format("B"): torch.ones(48, 2)}
    safetensors.torch.save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


OPENERS = {
    "extract": lambda model: open_extractor(model),
    "encoder": lambda model: open_encoder(model),
    "look": lambda model: look(model),
    "lexical": lambda model: WhisperScorer(model),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_an_adapter_beside_a_model_is_refused_everywhere(tmp_path, opener):
    says = r"m holds.*adapter_config\.json.*beside a model.*merge_and_unload\(\)\.save_pretrained\('NEW'\).*org/base"
    with pytest.raises(ModelError, match=says):
        OPENERS[opener](str(adapted(tmp_path / "m")))


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("adapter_model.safetensors", "holds an adapter of peft (adapter_config.json) beside a model"),
        ("adapter_config.json", "holds an adapter of peft (adapter_model.safetensors) beside a model"),
        ("config.json", "holds an adapter of peft (adapter_config.json) and no model"),
    ],
)
def test_half_an_adapter_is_one_too(tmp_path, gone, says):
    (adapted(tmp_path / "m") / gone).unlink()
    not_opened(tmp_path / "m", says)


@pytest.mark.slow
def test_an_adapter_does_not_depend_on_what_is_installed(tmp_path):
    """With a package called peft that can be imported, and without."""
    folder, site = adapted(tmp_path / "m"), tmp_path / "site"
    (site / "peft").mkdir(parents=True)
    (site / "peft" / "__init__.py").write_text("__version__ = '0.99.0'\n")
    (site / "peft-0.99.0.dist-info").mkdir()
    (site / "peft-0.99.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.99.0\n")
    code = (
        f"import sys; sys.path[:0] = {{}}; from transformers.utils import is_peft_available\n"
        f"print(is_peft_available())\n"
        f"from layertool.extractors.load import open_extractor\n"
        f"try: open_extractor({str(folder)!r}, device='cpu')\n"
        f"except Exception as error: print(type(error).__name__, error)"
    )
    run = [
        subprocess.run(
            [sys.executable, "-c", code.format(paths)], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for paths in ([], [str(site)])
    ]
    assert [lines[0] for lines in run] == ["False", "True"]
    assert run[0][1:] == run[1][1:]
    assert run[0][1].startswith("ModelError")


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.0.attention.q_proj.lora_A.default.weight",
        "encoder.layers.0.attention.q_proj.lora_magnitude_vector.default.weight",
        "encoder.layers.0.attention.k_proj.ia3_l.default",
        "encoder.layers.0.attention.k_proj.base_layer.weight",
        "feature_projection.projection.modules_to_save.default.weight",
        "base_model.model.encoder.layers.0.attention.q_proj.weight",
    ],
)
def test_weights_with_an_adapter_inside_are_refused(folder, name):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights[name] = torch.ones(2, 48)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    not_opened(folder, "has the weights of an adapter of peft among its own")


@pytest.mark.parametrize("beside", [True, False])
def test_adapters_in_folders_of_their_own_are_told(tmp_path, beside):
    """As peft writes an adapter that has a name."""
    folder = models.save("wav2vec2-base", tmp_path / "m") if beside else tmp_path / "m"
    (folder / "speakers").mkdir(parents=True)
    write(folder / "speakers" / "adapter_config.json", base_model_name_or_path="org/base")
    not_opened(
        folder,
        f"{folder} holds an adapter of peft (speakers/adapter_config.json)",
        f"from_pretrained(BASE, '{folder / 'speakers'}')",
        "(org/base)",
    )


def test_adapters_of_other_kinds_of_folder_are_refused(tmp_path):
    network = melhubert.MelHuBERT(
        melhubert.Config(encoder_layers=1, encoder_embed_dim=32, encoder_attention_heads=4, encoder_ffn_embed_dim=48)
    )
    melhubert.save(network, network.config, tmp_path / "mel")
    pruned.save(references.load(models.save("hubert-base", tmp_path / "h")).float(), tmp_path / "pruned", False)
    for folder in (tmp_path / "mel", tmp_path / "pruned"):
        write(folder / "adapter_config.json", peft_type="LORA")
        not_opened(folder, "holds an adapter of peft")
    with pytest.raises(ModelError, match="holds an adapter of peft"):
        pruned.load(tmp_path / "pruned")


def test_adapters_of_languages_are_told_and_recorded(tmp_path):
    """As MMS has them: the layers are those of the adapter among the main weights."""
    folder = models.save("wav2vec2-base", tmp_path / "m", adapter_attn_dim=8)
    for code in ("deu", "fra"):
        shutil.copy(folder / "model.safetensors", folder / f"adapter.{code}.safetensors")
    extractor, said = told(lambda: opened(folder))
    assert extractor.provenance["adapter"] == "main weights"
    assert "has adapters of single languages" in said[0]
    assert "(adapter.deu.safetensors, adapter.fra.safetensors)" in said[0]
    assert "adapter" not in opened(models.save("wav2vec2-base", tmp_path / "n")).provenance
    shutil.copy(folder / "adapter.fra.safetensors", tmp_path / "n")  # which its config.json knows nothing of
    said = told(lambda: opened(tmp_path / "n"))[1]
    assert "(adapter.fra.safetensors), of which none is used" in said[0]


# --- two files that have to agree --------------------------------------------------------------------


@pytest.mark.parametrize("said", [True, False])
def test_the_file_of_transformers_5_is_read_alone(tmp_path, said):
    folder = without_preprocessor("wav2vec2-large", tmp_path / "m")
    write(
        folder / "processor_config.json",
        feature_extractor={"do_normalize": said, "feature_extractor_type": "Wav2Vec2FeatureExtractor"},
    )
    extractor, notes = told(lambda: opened(folder))
    assert extractor.provenance["normalise"] is said
    assert notes == []


def test_files_that_disagree_on_the_input_are_told(folder):
    write(folder / "processor_config.json", feature_extractor={"do_normalize": True})
    extractor, said = told(lambda: opened(folder))
    assert extractor.provenance["normalise"] is True
    assert said == [
        f"{folder}: processor_config.json and preprocessor_config.json disagree (do_normalize true and false): the "
        "first is followed; "
        "correct one of them"
    ]
    write(folder / "processor_config.json", processor_class="Wav2Vec2Processor")  # as it was before transformers 5
    assert told(lambda: opened(folder))[1] == []


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("rate", [8_000, 44_100, "16k"])
def test_another_sampling_rate_is_refused(tmp_path, file, rate):
    wave, whisper = without_preprocessor("wav2vec2-base", tmp_path / "m"), models.whisper(tmp_path / "w")
    (whisper / "preprocessor_config.json").unlink()
    for folder in (wave, whisper):
        said = {"do_normalize": True, "sampling_rate": rate}
        write(folder / file, **(said if file.startswith("pre") else {"feature_extractor": said}))
        with pytest.raises(ModelError, match=f"takes audio of {rate} Hz, and layertool gives every model 16000 Hz"):
            open_extractor(str(folder))
    with pytest.raises(ModelError, match="16000 Hz"):
        open_extractor(str(wave), normalise=True)


@pytest.mark.parametrize(
    "said",
    [
        {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80},
        {"do_normalize": "yes"},
        {"do_normalize": True, "feature_size": 80},
    ],
)
def test_an_input_of_another_kind_is_refused(folder, said):
    write(folder / "preprocessor_config.json", **said)
    with pytest.raises(ModelError, match="give --normalise or --no-normalise"):
        open_extractor(str(folder))
    assert open_extractor(str(folder), normalise=False).provenance["normalise"] is False


def test_a_preprocessor_that_says_nothing_has_the_default_of_transformers(folder):
    write(folder / "preprocessor_config.json", sampling_rate=16_000)
    result, said = told(lambda: normalises(str(folder), None, read_config(str(folder))))
    assert result is True
    assert "does not say do_normalize" in said[0]


@pytest.mark.parametrize(
    ("file", "changed", "says"),
    [
        ("preprocessor_config.json", {"feature_size": 128}, "feature_size 128 instead of 80"),
        ("preprocessor_config.json", {"chunk_length": 10}, "chunk_length 10 instead of 30"),
        ("preprocessor_config.json", {"hop_length": 320}, "hop_length 320 instead of 160"),
        ("preprocessor_config.json", {"n_fft": 512}, "n_fft 512 instead of 400"),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
            "feature_extractor_type Wav2Vec2FeatureExtractor",
        ),
        ("config.json", {"max_source_positions": 750}, "max_source_positions 750 instead of 1500"),
    ],
)
def test_the_input_of_another_whisper_is_refused_when_it_is_opened(english, file, changed, says):
    change(english / file, **changed)
    for opener in (open_extractor, WhisperScorer):
        with pytest.raises(ModelError, match=says):
            opener(str(english))


# --- one language or many ----------------------------------------------------------------------------

START, ENGLISH, FRENCH, TRANSCRIBE, NO_TIMES = 260, 261, 267, 362, 366


def prefix_of(folder: Path, **options) -> tuple[list[int], list[str]]:
    (_, prefix), said = told(lambda: load_tokenizer(str(folder), None, read_config(str(folder)), **options))
    return prefix, said


@pytest.mark.parametrize(
    ("tokenizer", "generation", "config", "multilingual", "notes"),
    [
        ("multilingual", {"is_multilingual": False}, {}, False, 0),  # English, with tokens added
        ("english", {"is_multilingual": True}, {}, True, 0),  # many languages, with tokens taken away
        ("english", {"lang_to_id": {"<|en|>": ENGLISH}, "task_to_id": {"transcribe": TRANSCRIBE}}, {}, True, 0),
        ("multilingual", {"is_multilingual": False, "lang_to_id": {"<|en|>": ENGLISH}}, {}, False, 1),
        ("multilingual", {"forced_decoder_ids": [[1, NO_TIMES]]}, {}, False, 0),
        ("english", {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE]]}, {}, True, 0),
        ("multilingual", None, {"forced_decoder_ids": [[1, NO_TIMES]]}, False, 0),
        ("english", {}, {"is_multilingual": True}, True, 0),
        ("multilingual", None, {}, True, 1),  # nothing says it: the size, which is told
        ("english", {"max_length": 448}, {}, False, 1),
    ],
)
def test_files_say_whether_a_whisper_is_multilingual(tmp_path, tokenizer, generation, config, multilingual, notes):
    folder = models.whisper(tmp_path / "m", tokenizer=tokenizer)
    if generation is not None:
        write(folder / "generation_config.json", **generation)
    change(folder / "config.json", **config)
    prefix, said = prefix_of(folder)
    assert prefix == ([START, ENGLISH, TRANSCRIBE, NO_TIMES] if multilingual else [START, NO_TIMES])
    assert len(said) == notes, said
    assert WhisperScorer(folder).decoder.prefix == prefix  # one place decides
    extractor = opened(folder, ["D1"])
    assert extractor.provenance["decoder_prefix"] == prefix
    if multilingual:
        assert prefix_of(folder, language="fr")[0] == [START, FRENCH, TRANSCRIBE, NO_TIMES]
        assert prefix_of(folder, language="french", timestamps=True)[0] == [START, FRENCH, TRANSCRIBE]
    else:
        for opener in (lambda: prefix_of(folder, language="fr"), lambda: open_extractor(str(folder), language="fr")):
            with pytest.raises(UsageError, match="is an English-only checkpoint: leave out --language fr"):
                opener()


@pytest.mark.parametrize(("end", "multilingual"), [(50256, False), (50257, True)])
@pytest.mark.parametrize("size", [51_864, 51_866])
def test_the_tokenizer_tells_more_than_the_size(tmp_path, end, multilingual, size):
    folder = models.whisper(tmp_path / "m", tokenizer="multilingual")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = read_config(str(folder))
    config.vocab_size = size
    vocabulary = {"<|transcribe|>": 50_359, "<|en|>": 50_259, "<|endoftext|>": end}
    found, said = told(lambda: is_multilingual(str(folder), None, config, vocabulary))
    assert found is multilingual
    assert f"by the number of <|endoftext|> in its tokenizer ({end})" in said[0]


def retokenised(folder: Path, *gone: str) -> Path:
    """A multilingual model whose tokenizer has lost some of its tokens."""
    models.whisper(folder, tokenizer="multilingual")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        for token in gone:
            text = text.replace(json.dumps(token), json.dumps(f"gone{token.strip('<|>')}"))
        (folder / name).write_text(text)
    return folder


def test_a_language_without_its_token_is_not_known(tmp_path):
    folder = retokenised(tmp_path / "m", "<|fr|>")
    write(folder / "generation_config.json", is_multilingual=True)
    with pytest.raises(ModelError, match="does not know the language 'fr': choose another --language"):
        prefix_of(folder, language="fr")
    assert prefix_of(folder)[0] == [START, ENGLISH, TRANSCRIBE, NO_TIMES]


@pytest.mark.parametrize("gone", ["<|transcribe|>", "<|notimestamps|>"])
def test_a_prefix_without_its_tokens_is_refused(tmp_path, gone):
    folder = retokenised(tmp_path / "m", gone)
    write(folder / "generation_config.json", is_multilingual=True)
    says = f"is multilingual by its generation_config.json or config.json, and its tokenizer has no {re.escape(gone)}"
    with pytest.raises(ModelError, match=says):
        prefix_of(folder)


def test_without_tokens_of_tasks_there_is_nothing_to_guess(tmp_path):
    assert prefix_of(retokenised(tmp_path / "m", "<|transcribe|>")) == ([START, NO_TIMES], [])


def test_numbers_of_tokens_that_differ_are_told(tmp_path):
    folder = models.whisper(tmp_path / "m", tokenizer="multilingual")
    write(
        folder / "generation_config.json",
        is_multilingual=True,
        decoder_start_token_id=START,
        no_timestamps_token_id=NO_TIMES + 1,
        lang_to_id={"<|en|>": ENGLISH + 1},
        task_to_id={"transcribe": TRANSCRIBE},
    )
    prefix, said = prefix_of(folder)
    assert prefix == [START, ENGLISH, TRANSCRIBE, NO_TIMES]
    assert len(said) == 1
    assert (
        f"number tokens differently (<|en|> is {ENGLISH} and {ENGLISH + 1}, <|notimestamps|> is {NO_TIMES} and"
        in said[0]
    )


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    folder, other = models.whisper(tmp_path / "m"), models.whisper(tmp_path / "n", tokenizer="english")
    for file in other.glob("tokenizer*"):
        shutil.copy(file, folder)
    with pytest.raises(ModelError, match="has a tokenizer of 367 tokens, and its network knows 60"):
        prefix_of(folder)


def test_special_tokens_alone_are_no_tokenizer(english):
    """transformers makes one of them, in which the start is number 1."""
    (english / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer, which Whisper's decoder needs"):
        prefix_of(english)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", "{", "has a tokenizer that cannot be read"),
        ("tokenizer.json", "[]", "has a tokenizer that cannot be read"),
        ("tokenizer.json", "{}", "has a tokenizer that cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json is a JSON list, not settings with names"),
        ("generation_config.json", "[]", "generation_config.json is a JSON list, not settings with names"),
        ("generation_config.json", '{"lang_to_id": [1], "forced_decoder_ids": 5, "task_to_id": 3}', None),
    ],
)
def test_files_of_tokens_that_are_damaged(english, file, content, says):
    (english / file).write_text(content)
    if says is None:  # nothing that is known: as if it were not there
        assert prefix_of(english)[0] == [START, NO_TIMES]
        return
    with pytest.raises(ModelError, match=says):
        prefix_of(english)


HUB = """
import json, sys, warnings
warnings.simplefilter("error")  # what is told is an error here
from layertool.errors import LayertoolError
from layertool.extractors.load import open_extractor
for name in sys.argv[1:]:
    try: print(name, open_extractor(name, device="cpu").provenance["normalise"])
    except (LayertoolError, UserWarning) as error: print(error)
"""


@pytest.mark.slow
def test_ids_of_the_hub_are_judged_by_the_same_files(tmp_path):
    """In a cache, without network: what is known not to be there is no unknown."""
    cache = tmp_path / "hub"
    whole = models.save("wav2vec2-base", tmp_path / "whole")
    for name, absent in (
        ("whole", ()),
        ("bare", ("preprocessor_config.json", "processor_config.json")),
        ("part", ()),
        ("peft", ()),
    ):
        root = cache / f"models--org--{name}"
        shutil.copytree(whole, root / "snapshots" / ("a" * 40))
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("a" * 40)
        (root / ".no_exist" / ("a" * 40)).mkdir(parents=True)
        for file in absent:
            (root / ".no_exist" / ("a" * 40) / file).touch()
        if name in ("bare", "part"):
            (root / "snapshots" / ("a" * 40) / "preprocessor_config.json").unlink()
        if name == "peft":
            write(root / "snapshots" / ("a" * 40) / "adapter_config.json", peft_type="LORA")
    names = [f"org/{name}" for name in ("whole", "bare", "part", "peft")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", HUB, *names], capture_output=True, text=True, check=True, env=environment
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "org/whole False"
    assert lines[1].startswith("org/bare has no preprocessor_config.json: its waveforms are not normalised")
    assert lines[2].startswith("org/part has no preprocessor_config.json that can be read without network")
    assert lines[3].startswith("org/peft holds an adapter of peft (adapter_config.json) beside a model")


@pytest.mark.slow
def test_an_english_model_with_a_token_more_is_the_same_model(shared, tmp_path):
    """The case that was met, with real weights: one added token made it multilingual."""
    import transformers

    original = shared / "models/whisper-tiny.en"
    network = transformers.WhisperForConditionalGeneration.from_pretrained(original, dtype=torch.float32)
    network.resize_token_embeddings(51_865)
    network.save_pretrained(tmp_path / "m")
    for file in original.glob("*.json"):
        if file.name not in ("config.json", "model.safetensors"):
            (tmp_path / "m" / file.name).unlink(missing_ok=True)
            shutil.copy(file, tmp_path / "m")
    waveform = models.speech_like(32_000, 0)
    corpus = models.corpus(tmp_path / "c", [waveform], text=["the cat"])
    stores = [
        layertool.extract(str(model), corpus, tmp_path / f"s{k}", "utterance", "D0-D4")
        for k, model in enumerate((original, tmp_path / "m"))
    ]
    for name in stores[0].layers:
        assert references.worst_row(stores[1].read("utterance", name), stores[0].read("utterance", name)) < 1e-5
    scores = [
        WhisperScorer(model, device="cpu").log_probs(waveform, ["cat", "dog"]) for model in (original, tmp_path / "m")
    ]
    assert np.allclose(scores[0], scores[1], atol=1e-3)


# --- places that hold no checkpoint ------------------------------------------------------------------

FOREIGN = {
    "tf_model.h5": "weights of TensorFlow",
    "flax_model.msgpack": "weights of Flax",
    "model.onnx": "a network of ONNX",
    "model-q4.gguf": "a network of llama.cpp or whisper.cpp",
    "openvino_model.xml": "a network of OpenVINO",
    "model.nemo": "an archive of NeMo",
    "checkpoint_best.pt": "a file of PyTorch",
    "model.bin": "a network of CTranslate2",
}


def not_opened(path: Path, *says) -> None:
    for opener in (open_extractor, open_encoder):
        with pytest.raises(ModelError) as error:
            opener(str(path))
        for text in (path, *says):
            assert str(text) in str(error.value), str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", FOREIGN)
def test_networks_of_other_kinds_are_named(tmp_path, file):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / file).write_bytes(b"x")
    not_opened(folder, "has no config.json: it holds ", FOREIGN[file], file)


@pytest.mark.parametrize(
    "file", ["tf_model.h5", "flax_model.msgpack", "model.onnx", "model-q4.gguf", "model.fp16.safetensors", None]
)
def test_a_configuration_without_weights(folder, file):
    (folder / "model.safetensors").unlink()
    if file:
        (folder / file).write_bytes(b"x")
    not_opened(
        folder, "has a config.json but no weights (model.safetensors or pytorch_model.bin): ", file or "copy them, too"
    )
    assert open_extractor(str(folder), random_init=0).provenance["random_init"] == 0  # needs none


def test_folders_that_hold_checkpoints_say_where(tmp_path):
    for step in (500, 1000):
        models.save("wav2vec2-base", tmp_path / "run" / f"checkpoint-{step}")
    not_opened(
        tmp_path / "run",
        "(checkpoint-500, checkpoint-1000); give one of them, e.g. " + str(tmp_path / "run/checkpoint-1000"),
    )
    snapshot = models.save("wav2vec2-base", tmp_path / "hub" / "models--org--name" / "snapshots" / "abc")
    not_opened(snapshot.parents[1], f"it is the cache of a hub id; give {snapshot}, or the id")
    not_opened(tmp_path / "hub", "it is a cache of the hub; give an id, such as org/name")
    (tmp_path / "empty").mkdir()
    not_opened(tmp_path / "empty", "it is empty")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"x")
    not_opened(tmp_path / "weights", "it has weights, but nothing says of which network")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("a.safetensors", "is a file of weights; give its folder"),
        ("a.bin", "is a file of weights; give its folder"),
        ("a.pt", "is a file of PyTorch; give fairseq:"),
        ("a.nemo", "is an archive of NeMo"),
        ("a.onnx", "is a network of ONNX"),
        ("a.gguf", "is a network of llama.cpp"),
        ("a.txt", "is a file; a Hugging Face checkpoint is a folder"),
    ],
)
def test_files_are_no_folders(tmp_path, file, says):
    (tmp_path / file).write_bytes(b"x")
    not_opened(tmp_path / file, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "config.json is a JSON list, not settings with names"),
        ("5", "config.json is a JSON int"),
        ("", "config.json is damaged or no JSON"),
        ("{}", "has a config.json without model type"),
        ('{"model_type": null}', "has a config.json without model type"),
        ('{"model_type": ["wav2vec2"]}', "has a config.json without model type"),
        ('{"model_type": "nothing"}', "has the model type 'nothing', which transformers does not know"),
        ({"num_hidden_layers": 0}, "has 0 blocks by its config.json"),
        ({"num_hidden_layers": -1}, "has -1 blocks by its config.json"),
        ({"num_hidden_layers": "3"}, "expected int, got str"),  # the reason stands in the second line
        ({"conv_dim": [24] * 6}, "len(config.conv_dim) = 6"),
    ],
)
def test_configurations_of_no_network(folder, content, says):
    if isinstance(content, dict):
        change(folder / "config.json", **content)
    else:
        (folder / "config.json").write_text(content)
    not_opened(folder, says)


def test_a_whisper_without_blocks(tmp_path):
    folder = models.whisper(tmp_path / "m")
    change(folder / "config.json", encoder_layers=0)
    not_opened(folder, "has 0 blocks by its config.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list, a checkpoint is a dict"),
        (torch.nn.Linear(2, 2), "layertool does not run code of a checkpoint"),
        (b"<html>not found</html>" * 9, "is cut short or no checkpoint of torch"),
    ],
)
def test_files_of_pytorch_without_weights(folder, content, says):
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, folder / "pytorch_model.bin")
    not_opened(folder, says)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_parts_of_weights_that_are_not_there(folder, name):
    (folder / "model.safetensors").unlink()
    shards = [f"part-{k}" for k in (1, 2)]
    (folder / "part-1").write_bytes(b"x")
    write(folder / f"{name}.index.json", weight_map={"a": shards[0], "b": shards[1]})
    not_opened(folder, f"lacks 1 of the 2 files of weights that {name}.index.json names (part-2)")
    write(folder / f"{name}.index.json", weight_map=[])
    not_opened(folder, "names no files of weights")


def test_a_pointer_to_weights_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    not_opened(folder, "is a pointer of Git LFS, not weights: type git lfs pull in")


# --- on the command line -----------------------------------------------------------------------------


def test_what_is_told_is_one_sentence_on_stderr(tmp_path):
    folder = without_preprocessor("data2vec-audio", tmp_path / "m")
    corpus = models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)]).write(tmp_path / "c")
    result = succeeds("extract", folder, corpus, "-o", tmp_path / "s", "--units", "utterance")
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("note: "))
    assert line.startswith(f"note: {folder} has no preprocessor_config.json: its waveforms are normalised")
    assert ".py" not in line


@pytest.mark.parametrize(
    "command",
    [["extract", "{m}", "{c}", "-o", "{o}", "--units", "utterance"], ["finetune", "ctc", "{m}", "{c}", "-o", "{o}"]],
)
def test_an_adapter_is_one_sentence_on_the_command_line(tmp_path, command):
    folder = adapted(tmp_path / "m")
    corpus = models.corpus(tmp_path / "c", [models.speech_like(8_000, 1)] * 2, text=["the", "cat"]).write(
        tmp_path / "c"
    )
    sentence = refused(*(part.format(m=folder, c=corpus, o=tmp_path / "o") for part in command))
    assert "holds an adapter of peft (adapter_config.json) beside a model" in sentence
