"""Checkpoints of strangers: nothing is fetched or run, nothing grows beyond the files, each error is one sentence."""

from __future__ import annotations

import json
import socket
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import fairseq_writer
import models
import pytest
import safetensors.torch
import torch
from crafted_pickles import crafted, text

from layertool.errors import LayertoolWarning, ModelError
from layertool.extractors.load import open_extractor
from layertool.models import melhubert, pruned
from layertool.models.checkpoints import read_config
from layertool.models.foreign import check_tensors, read_checkpoint
from layertool.models.open import Model
from layertool.models.whisper import load_tokenizer


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    """The ways by which transformers gets code and kernels, and the network itself, fail loudly."""
    import transformers
    from transformers import dynamic_module_utils, modeling_utils
    from transformers.integrations import hub_kernels

    def refuse(*arguments, **_named):
        pytest.fail(f"code or kernels are fetched: {arguments}")

    monkeypatch.setattr(dynamic_module_utils, "get_class_from_dynamic_module", refuse)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", refuse)
    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", refuse, raising=False)
    monkeypatch.setattr(hub_kernels, "get_kernel", refuse, raising=False)
    monkeypatch.setattr(transformers.quantizers.auto.AutoHfQuantizer, "from_config", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return models.save("wav2vec2-base", tmp_path_factory.mktemp("small") / "m")


@pytest.fixture
def folder(small, tmp_path) -> Path:
    (tmp_path / "m").mkdir()
    for file in small.iterdir():
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "m"


def change(folder: Path, name: str = "config.json", **settings) -> None:
    file = folder / name
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(said | settings))


def opened(folder: Path, **options):
    extractor = open_extractor(str(folder), device="cpu", **options)
    extractor.restrict([name for name in extractor.layers if not name.startswith("D")])
    return extractor


def refused(work, match: str = ".") -> str:
    """The sentence of the ModelError that ``work`` ends in."""
    with pytest.raises(ModelError, match=match) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def peak(work) -> int:
    """Bytes that Python had at most while ``work`` ran, which ends in a ModelError."""
    tracemalloc.start()
    try:
        refused(work)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("untrained", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "paged|sdpa"},
        {"_attn_implementation_internal": "someone/kernel:name"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"text_config": {"_attn_implementation": "someone/kernel"}},
        {"encoder": [{"deep": {"attn_implementation": "someone/kernel"}}]},
        {"_experts_implementation": "someone/kernel"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"fusion_config": {"patch_embeddings": True}},
        {"transformers_weights": "../other.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"per_layer_config": {"1": {"hidden_size": 8}}},
        {"use_kernels": True},
    ],
)
def test_settings_that_ask_for_code_are_refused_by_name(folder, settings, untrained):
    change(folder, **settings)
    says = r"m/config\.json says \w*(implementation|config|kernels|weights|files).*never does that"
    refused(lambda: opened(folder, random_init=0 if untrained else None), says)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json", "generation_config.json"])
def test_so_are_those_of_the_other_files(tmp_path, file):
    whisper = models.whisper(tmp_path / "w", tokenizer="english")
    change(whisper, file, _attn_implementation="someone/kernel")

    refused(lambda: opened(whisper).restrict(["D1"]), rf"{file} says _attn_implementation")


@pytest.mark.parametrize("value", ["sdpa", "eager", None])
def test_what_transformers_computes_itself_may_be_said(folder, value):
    change(folder, _attn_implementation=value, quantization_config=None, _attn_implementation_autoset=True)
    opened(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoModel": "someone/repo--modeling.Evil", "AutoConfig": "configuration.Evil"}},
        {"auto_map": "modeling.Evil"},
        {"custom_pipelines": {"x": {"impl": "x.Evil"}}},
        {"trust_remote_code": True},
    ],
)
def test_code_beside_a_known_network_is_told_and_left_aside(folder, settings):
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    (folder / "configuration.py").write_text("raise SystemExit('run')")
    change(folder, **settings)
    with pytest.warns(LayertoolWarning, match=rf"names code of its own \({next(iter(settings))}\), which is not run"):
        opened(folder)
    change(folder, model_type="evil")
    refused(lambda: opened(folder), r"run code that comes with|'evil', which transformers does not know")


@pytest.mark.parametrize(
    "settings",
    [
        {"torch_dtype": "load"},
        {"dtype": "system"},
        {"torch_dtype": 7},
        {"num_labels": 10**9},
        {"name_or_path": "/etc", "_name_or_path": "/etc"},
        {"tokenizer_class": "EvilTokenizer", "processor_class": "EvilProcessor"},
        {"layertool_pruned_": 1, "base_model_tp_plan": {"x": "y"}},
    ],
)
def test_other_settings_are_no_part_of_the_network(folder, small, settings):
    change(folder, **settings)
    extractor = opened(folder)
    assert next(extractor.network.parameters()).dtype == torch.float32
    first, second = (
        {k: v for k, v in one.provenance.items() if "description" not in k} for one in (extractor, opened(small))
    )
    assert first == second


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["tok.Evil", None]}},
        {"processor_class": "EvilProcessor", "chat_template": "{{ ''.__class__.__mro__ }}"},
        {"tokenizer_class": "LlamaTokenizer"},
    ],
)
def test_a_tokenizer_is_whispers_whatever_it_is_called(tmp_path, settings):
    whisper = models.whisper(tmp_path / "w", tokenizer="english")
    before = load_tokenizer(str(whisper), None, read_config(str(whisper)))[1]
    change(whisper, "tokenizer_config.json", **settings)
    (whisper / "chat_template.jinja").write_text("{% for x in range(10**12) %}{% endfor %}")
    (whisper / "tok.py").write_text("raise SystemExit('run')")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer, prefix = load_tokenizer(str(whisper), None, read_config(str(whisper)))
    assert prefix == before
    assert type(tokenizer).__name__ == "WhisperTokenizer"


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"{}", b"[]", b"\xff\xfe", b"", b'{"added_tokens": 7, "model": {"type": "Evil"}}']
)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizers_that_are_none(tmp_path, file, content):
    whisper = models.whisper(tmp_path / "w", tokenizer="english")
    (whisper / file).write_bytes(content)
    if (file, content) == ("tokenizer_config.json", b"{}"):
        return
    refused(lambda: load_tokenizer(str(whisper), None, read_config(str(whisper))))


# --- sizes that no file backs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings", "says"),
    [
        ("wav2vec2-base", {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        (
            "wav2vec2-base",
            {"hidden_size": 10**7, "num_attention_heads": 1, "num_conv_pos_embedding_groups": 1},
            "network of .* numbers",
        ),
        ("wav2vec2-base", {"intermediate_size": 10**9}, "network of .* numbers"),
        ("wav2vec2-base", {"num_conv_pos_embeddings": 10**9}, "network of .* numbers"),
        ("wav2vec2-base", {"add_adapter": True, "num_adapter_layers": 10**6}, "num_adapter_layers"),
        ("wav2vec2-base", {"intermediate_size": 10**30}, "."),
        ("wav2vec2-base", {"hidden_size": -48}, "."),
        ("wav2vec2-base", {"num_hidden_layers": "12"}, "."),
        ("wav2vec2-base", {"num_attention_heads": 0}, "."),
        ("wav2vec2-base", {"conv_stride": [5]}, "."),
        ("wav2vec2-base", {"hidden_act": "os.system"}, "."),
        ("data2vec-audio", {"num_conv_pos_embeddings": 10**6}, "num_conv_pos_embeddings"),
        ("data2vec-audio", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ],
)
@pytest.mark.parametrize("untrained", [False, True])
@pytest.mark.timeout(60)
def test_networks_that_no_file_backs(tmp_path, family, settings, says, untrained):
    folder = models.save(family, tmp_path / "m")
    change(folder, **settings)
    refused(lambda: opened(folder, random_init=0 if untrained else None), says)


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_layers": 10**6},
        {"decoder_layers": 10**6},
        {"d_model": 10**6},
        {"num_mel_bins": 10**8},
        {"vocab_size": 10**9},
    ],
)
@pytest.mark.timeout(60)
def test_whispers_that_no_file_backs(tmp_path, settings):
    folder = models.whisper(tmp_path / "w")
    for file in ("preprocessor_config.json", "processor_config.json"):
        (folder / file).unlink(missing_ok=True)
    change(folder, **settings)
    refused(lambda: opened(folder))


def test_an_index_names_files_of_its_own_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    for name in (
        "../elsewhere.safetensors",
        str(tmp_path / "elsewhere.safetensors"),
        "..",
        "a/../../elsewhere.safetensors",
        "",
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        refused(lambda: opened(folder), "names files of other places")


# --- safetensors -----------------------------------------------------------------------------------------


def with_header(file: Path, header: bytes, n: int | None = None, body: bytes = b"\0" * 64) -> None:
    file.write_bytes(struct.pack("<Q", len(header) if n is None else n) + header + body)


@pytest.mark.parametrize(
    ("header", "n"),
    [
        (b"{}", 2**60),
        (b"{}", 2**63),
        (b"[" * 100_000, None),
        (b'{"a":' * 50_000, None),
        (
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
            b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            None,
        ),
        (
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
            b'"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}',
            None,
        ),
        (b'{"a":{"dtype":"F32","shape":[400],"data_offsets":[0,1600]}}', None),
        (b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,64]}}', None),
        (b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}', None),
        (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', None),
        (b'{"a":{"dtype":"OBJECT","shape":[4],"data_offsets":[0,16]}}', None),
        (b'{"\xff":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', None),
        (b'{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,16]}}', None),
        (b"", None),
    ],
)
def test_headers_of_safetensors(folder, tmp_path, header, n):
    with_header(folder / "model.safetensors", header, n)
    refused(lambda: opened(folder))
    mel = tmp_path / "mel"
    network = melhubert.MelHuBERT(
        melhubert.Config(encoder_layers=1, encoder_embed_dim=16, encoder_attention_heads=2, encoder_ffn_embed_dim=8)
    )
    melhubert.save(network, network.config, mel)
    with_header(mel / "model.safetensors", header, n)
    refused(lambda: opened(mel))


# --- pickles ---------------------------------------------------------------------------------------------


def whole(n: int) -> bytes:
    raw = n.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tensor(size: tuple, stride: tuple, offset: int = 0, n: int = 12) -> bytes:
    sizes = [b"(" + b"".join(map(whole, one)) + b"t" for one in (size, stride)]
    row = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(n) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + row + whole(offset) + sizes[0] + sizes[1] + b"\x89)tR"


BIG = whole(10**13)
BOMBS = {
    "deep tuples": b")" + b"\x85" * 300_000,
    "deep lists": b"]" * 200_000 + b"a" * 199_999,
    "a loop": b"]q\x00h\x00a",
    "a loop of objects": b"cargparse\nNamespace\n)Rq\x00}" + text("x") + b"h\x00sb",
    "nested tuples as a key": b"})q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"Ns",
    "nested tuples in a set": b"c__builtin__\nset\n])q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"a\x85R",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(30_000))
    + b"u",
    "a decimal of many digits": b"L" + b"9" * 300_000 + b"L\n",
    "a size": tensor((10**13,), (1,)),
    "a negative size": tensor((-12,), (1,)),
    "sizes that overflow": tensor((2**40, 2**40), (0, 0)),
    "a negative stride": tensor((12,), (-1,)),
    "an offset": tensor((12,), (1,), offset=2**40),
    "a storage larger than the file": tensor((12,), (1,), n=10**12),
    "many dimensions": tensor((1,) * 100, (1,) * 100),
    "a number as a shape": b"ctorch._utils\n_rebuild_tensor_v2\n(" + BIG * 6 + b"tR",
    "a sparse tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
    "a name": b"cos\nsystem\n" + text("touch boom") + b"\x85R",
    "a name of builtins": b"c__builtin__\neval\n" + text("1") + b"\x85R",
    "a name made of parts": b"\x8c\x02os\x8c\x06system\x93" + text("touch boom") + b"\x85R",
    "an instance": b"(" + text("touch boom") + b"ios\nsystem\n",
    "an extension": b"\x82\x01",
    "more than there is": b"0" * 50,
    "a memo that was never written": b"h\x63",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(20)
def test_pickles_that_explode_do_not(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = crafted(tmp_path / "x.pt", BOMBS[name])
    refused(lambda: read_checkpoint(file), r"x\.pt")
    assert not (tmp_path / "boom").exists()
    assert peak(lambda: read_checkpoint(file)) < 200 * file.stat().st_size


@pytest.mark.parametrize(
    "value",
    [
        b"c__builtin__\nbytes\n" + BIG + b"\x85R",
        b"c__builtin__\nbytearray\n" + BIG + b"\x85R",
        b"c__builtin__\nlist\n" + BIG + b"\x85R",
        b"ctorch\nTensor\n" + BIG + b"\x85R",
        b"ctorch\nFloatStorage\n" + BIG + b"\x85R",
        b"c__builtin__\nstr\n" + BIG + b"\x85R",
        b"Nr\xff\xff\xff\xff",  # the place in the memo is 2^32 - 1
        b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000,
    ],
)
def test_names_are_never_called(tmp_path, value):
    file = crafted(tmp_path / "x.pt", value)
    tracemalloc.start()
    read_checkpoint(file)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_strides_that_repeat_a_few_numbers(tmp_path):
    found = read_checkpoint(crafted(tmp_path / "x.pt", tensor((6, 6), (1, 1))))
    refused(lambda: check_tensors(found, "x.pt"), "repeats a few numbers")


def test_many_names_on_one_storage(tmp_path):
    row = torch.ones(120_000)
    file = tmp_path / "x.pt"
    torch.save({f"w{k}": row for k in range(300)}, file)
    found = read_checkpoint(file)
    refused(lambda: check_tensors(found, file), "4 times as many numbers")
    torch.save({f"w{k}": row for k in range(3)} | {"v": row[2:9]}, file)  # tied weights, and a part of them
    check_tensors(read_checkpoint(file), file)


def test_a_weights_file_of_pickles_is_bounded_too(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    whole_network = Model.open(folder).load()
    assert all(torch.equal(whole_network.state_dict()[key], value) for key, value in state.items())
    name = max(state, key=lambda key: state[key].numel())
    state[name] = torch.zeros(1).expand(state[name].shape)
    torch.save(state, folder / "pytorch_model.bin")
    refused(lambda: opened(folder), "repeats a few numbers")
    for bomb in ("a size", "a name", "deep tuples"):
        crafted(folder / "pytorch_model.bin", BOMBS[bomb])
        refused(lambda: opened(folder))


@pytest.mark.parametrize("kind", ["compressed", "cut", "twice", "none", "empty", "half a name"])
def test_archives_that_are_none_of_torch(tmp_path, kind):
    file = crafted(tmp_path / "x.pt", b"N", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED)
    content = file.read_bytes()
    if kind == "twice":
        with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(archive.namelist()[0], b"other")
    elif kind == "none":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme", b"x")
    elif kind != "compressed":
        file.write_bytes({"cut": content[:-30], "empty": b"", "half a name": content[:40]}[kind])
    refused(lambda: read_checkpoint(file), r"x\.pt")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_writes_is_what_is_read(tmp_path, is_zip, protocol):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "plain": base,
        "columns": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "half": base.half(),
        "brain": base.bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "truth": base > 3,
        "parameter": torch.nn.Parameter(base[2]),
        "long": torch.arange(7),
        "odd": torch.arange(3, dtype=torch.int8),
    }
    other = {"x": (1, -2, 2**40, 1.5, None, True, b"ab", "é", {"s"}, [1, [2]]), 3: "number"}
    torch.save(
        {"model": state, **other}, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip
    )
    found = read_checkpoint(tmp_path / "x.pt")
    assert found["x"] == (1, -2, 2**40, 1.5, None, True, b"ab", "é", ("s",), [1, [2]])
    assert found[3] == "number"
    for name, value in state.items():
        assert torch.equal(found["model"][name], value)
        assert found["model"][name].dtype == value.dtype
    assert (
        found["model"]["plain"].data_ptr() + 4 * 12 == found["model"]["parameter"].data_ptr()
    )  # as they were: one storage
    found["model"]["plain"][:] = 7.0  # a copy: the file stays
    assert torch.equal(read_checkpoint(tmp_path / "x.pt")["model"]["plain"], base)


# --- where the errors end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ImportError("no module named flash"),
        MemoryError(),
        RecursionError("too deep"),
        OverflowError("x"),
        struct.error("x"),
        KeyError("k"),
    ],
)
def test_errors_of_libraries_end_in_a_sentence(folder, tmp_path, monkeypatch, error):
    import transformers

    def fail(*_arguments, **_named):
        raise error

    fairseq_writer.write("wav2vec2-base", tmp_path)
    monkeypatch.setattr(transformers.Wav2Vec2Model, "__init__", fail)
    monkeypatch.setattr(melhubert.MelHuBERT, "__init__", fail)
    for work in (
        lambda: Model.open(folder).load(),
        lambda: Model.open(folder, random_init=0).load(),
        lambda: open_extractor(f"fairseq:{next(tmp_path.glob('*.pt'))}", device="cpu"),
    ):
        sentence = refused(work)
        assert type(error).__name__ in sentence or str(error).strip("'") in sentence


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"{" * 1000, b"\xff", b"7", b'{"model_type": ["wav2vec2"]}', b'{"model_type": NaN}']
)
def test_configurations_that_are_none(folder, content):
    (folder / "config.json").write_bytes(content)
    assert not melhubert.is_folder(folder)
    assert not pruned.is_folder(folder)
    refused(lambda: opened(folder), r"m(/config\.json)? ")
