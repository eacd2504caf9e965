"""Views of a store in blocks against plain indexing, and which rows of two sets belong together."""

import models
import numpy as np
import pytest
import small

import layertool
from layertool.errors import UsageError
from layertool.layerwise import rows, views
from layertool.layerwise.rows import Rows
from layertool.layerwise.views import LayerView, TableView, pair
from layertool.store.layout import MASKED_ROW_DTYPE, NO_LABEL, ROW_DTYPE

UNITS = ("frame", "phone", "word", "utterance")
NAMES = ("A", "B")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small.corpus(tmp_path_factory.mktemp("corpus"), 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def mel(corpus, folder):
    """Frames [160 j, 160 j + 400), in shards of one utterance."""
    return layertool.extract("mel:pasad", corpus, folder / "pasad", UNITS, shard_seconds=0.5)


@pytest.fixture(scope="module")
def wave(model, corpus, folder):
    """Frames [320 i, 320 i + 400), C1 to C6 at 10 ms."""
    return layertool.extract(model, corpus, folder / "wave", UNITS, "C3,C7,T1")


def every(store, unit, layer):
    return rows.select(store, unit, layer)


# --- blocks -------------------------------------------------------------------------------------------


def indices(n):
    """Positions in any order, by name."""
    random = np.random.default_rng(0)
    some = np.sort(random.choice(n, n // 3, replace=False))
    return {
        "all": np.arange(n),
        "some": some,
        "one": np.array([n // 2]),
        "last": np.array([n - 1]),
        "shuffled": random.permutation(n)[:80],
        "backwards": np.arange(n)[::-5],
        "twice": np.repeat(some, 2),
        "again and again": np.tile(some, 3),
        "same": np.full(40, 5),
        "rolled": np.roll(np.arange(n), n // 2),
        "drawn": random.integers(0, n, 60),
    }


@pytest.mark.slow
@pytest.mark.parametrize("block_rows", [1, 7, 100, 8192])
@pytest.mark.parametrize("name", indices(10))
def test_blocks_are_plain_indexing(mel, monkeypatch, name, block_rows):
    monkeypatch.setattr(views, "BLOCK_ROWS", block_rows)
    whole = mel.read("frame", "mel")
    index = indices(len(whole))[name]
    view = LayerView(mel, "frame", "mel", index)
    blocks = list(view.blocks())
    assert len(view) == len(index)
    assert [len(block) for block in blocks[:-1]] == [block_rows] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= block_rows
    np.testing.assert_array_equal(np.concatenate(blocks), whole[index])
    np.testing.assert_array_equal(view.read(), whole[index])
    turned = view.rolled()
    np.testing.assert_array_equal(turned.read(), np.roll(whole[index], len(index) // 2, axis=0))
    assert [len(block) for block in turned.blocks()] == [len(block) for block in blocks]


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit(mel, wave, unit):
    for store in (mel, wave):
        for layer in store.layers_of(unit):
            whole = store.read(unit, layer)
            assert whole.dtype == np.float32
            order = np.random.default_rng(1).permutation(len(whole))
            np.testing.assert_array_equal(LayerView(store, unit, layer, order).read(), whole[order])


def test_the_fixture_has_many_shards(mel):
    assert len(mel.index) == 7


def test_blocks_are_of_8192_rows(mel):
    whole = mel.read("frame", "mel")
    assert views.BLOCK_ROWS == 8192
    index = np.tile(np.arange(len(whole)), 18_000 // len(whole) + 1)
    view = LayerView(mel, "frame", "mel", index)
    lengths = [len(block) for block in view.blocks()]
    assert lengths == [8192, 8192, len(index) - 2 * 8192]
    np.testing.assert_array_equal(view.read(), whole[index])
    codes = np.arange(len(index)) % 5
    assert [
        len(block) for block in TableView(codes, np.eye(5)).blocks()
    ] == lengths  # so that they can be read together


def test_blocks_can_be_read_again(mel):
    view = LayerView(mel, "frame", "mel", np.arange(50))
    np.testing.assert_array_equal(next(iter(view.blocks())), next(iter(view.blocks())))
    np.testing.assert_array_equal(view.rolled().rolled().read(), view.read())  # an even number of rows


def test_no_more_shards_are_read_than_needed(mel, monkeypatch):
    opened = []
    dataset = type(mel)._dataset

    def told(self, entry, name):
        opened.append(entry["shard"])
        return dataset(self, entry, name)

    monkeypatch.setattr(type(mel), "_dataset", told)
    lengths = [entry["rows"]["frame/rows"] for entry in mel.index.values()]
    index = sum(lengths[:3]) + np.arange(lengths[3])
    assert len(LayerView(mel, "frame", "mel", index).read()) == lengths[3]
    assert opened == [3]


def test_a_table_in_blocks(monkeypatch):
    monkeypatch.setattr(views, "BLOCK_ROWS", 8)
    random = np.random.default_rng(0)
    codes, table = random.integers(0, 5, 27), random.standard_normal((5, 3))
    view = TableView(codes, table)
    blocks = list(view.blocks())
    assert [len(block) for block in blocks] == [8, 8, 8, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), table[codes])
    assert len(view) == 27


# --- frames of different rates ------------------------------------------------------------------------


def frames(lengths, hop, field, offset=0, dtype=ROW_DTYPE):
    """Frames [hop i + offset, hop i + offset + field) that begin in utterances of these lengths."""
    parts = []
    for utterance, length in enumerate(lengths):
        part = np.zeros(max(0, (length - field) // hop + 1), dtype)
        part["utterance"], part["label"] = utterance, NO_LABEL
        part["start"] = hop * np.arange(len(part)) + offset
        part["end"] = part["start"] + field
        parts.append(part)
    table = np.concatenate(parts)
    return Rows(np.arange(len(table)), table)


def nearest(slow, fast, hop):
    """Pairs of positions: of each slow frame and the fast one whose centre is nearest, the earlier of two."""
    out, taken = [], set()
    for i, row in enumerate(slow.table):
        mine = np.flatnonzero(fast.table["utterance"] == row["utterance"])
        distance = np.abs(fast.table["start"][mine] + fast.table["end"][mine] - row["start"] - row["end"]) / 2
        if len(mine) and distance.min() <= hop / 2:
            j = int(mine[distance.argmin()])
            if j not in taken:  # two can be equally near to one
                taken.add(j)
                out.append((i, j))
    return out


LENGTHS = (16_000, 400, 23_456, 719, 5_003, 15_999, 8_080)


def test_a_filterbank_meets_every_other_frame_by_hand():
    slow, fast = frames(LENGTHS, 320, 400), frames(LENGTHS, 160, 400)
    x, y = pair(slow, fast, "frame", NAMES)
    assert len(x) == len(slow)
    np.testing.assert_array_equal(x.index, slow.index)
    np.testing.assert_array_equal(y.table["utterance"], x.table["utterance"])
    np.testing.assert_array_equal(y.table["start"], x.table["start"])  # no offset
    position = x.table["start"] // 320
    first = np.searchsorted(fast.table["utterance"], x.table["utterance"])
    np.testing.assert_array_equal(y.index, first + 2 * position)


def test_a_filterbank_meets_every_other_frame_of_a_real_store(wave, mel):
    for layer in ("C7", "T1"):
        slow, fast = every(wave, "frame", layer), every(mel, "frame", "mel")
        x, y = pair(slow, fast, "frame", NAMES)
        assert len(x) == len(slow) == sum((n - 400) // 320 + 1 for n in wave.utterances["n_samples"])
        for code in range(7):
            mine = x.table["utterance"] == code
            i = np.arange(mine.sum())
            first_x, first_y = (int(np.argmax(r.table["utterance"] == code)) for r in (slow, fast))
            np.testing.assert_array_equal(x.index[mine], first_x + i)
            np.testing.assert_array_equal(y.index[mine], first_y + 2 * i)


def test_frames_of_one_rate_are_paired_one_to_one(wave, mel):
    x, y = pair(every(wave, "frame", "C3"), every(mel, "frame", "mel"), "frame", NAMES)
    np.testing.assert_array_equal(x.index, np.arange(wave.n_rows("frame", "C3")))
    np.testing.assert_array_equal(y.index, x.index)


GEOMETRIES = {
    "filterbank": ((320, 400, 0), (160, 400, 0)),
    "centred filterbank": ((320, 400, 0), (160, 400, -200)),
    "equal": ((320, 400, 0), (320, 400, 0)),
    "half a hop off": ((320, 400, 0), (320, 400, 160)),
    "a little off": ((320, 400, 0), (320, 400, -100)),
    "other field": ((320, 400, 0), (320, 1025, 0)),
    "40 ms": ((640, 1025, 0), (160, 400, 0)),
    "no multiple": ((320, 400, 0), (200, 401, 0)),
    "nearly alike": ((320, 400, 0), (300, 400, -37)),
    "mel 12.5 ms": ((320, 400, 0), (200, 1024, -512)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_frames_meet_the_nearest(name):
    (hop, *mine), (other_hop, *yours) = GEOMETRIES[name]
    slow, fast = frames(LENGTHS, hop, *mine), frames(LENGTHS, other_hop, *yours)
    expected = nearest(slow, fast, other_hop)
    assert len(expected) > 150 * 320 / hop
    x, y = pair(slow, fast, "frame", NAMES)
    assert list(zip(x.index, y.index, strict=True)) == expected
    np.testing.assert_array_equal(x.table, slow.table[x.index])
    np.testing.assert_array_equal(y.table, fast.table[y.index])
    if hop != other_hop:  # the slower side decides, whichever it is
        y, x = pair(fast, slow, "frame", NAMES)
        assert list(zip(x.index, y.index, strict=True)) == expected


@pytest.mark.parametrize("name", ["filterbank", "centred filterbank", "no multiple", "equal"])
def test_frames_that_one_side_lacks(name):
    """Whole utterances and single frames are missing on either side; ``index`` is that of the store."""
    (hop, *mine), (other_hop, *yours) = GEOMETRIES[name]
    slow, fast = frames(LENGTHS, hop, *mine), frames(LENGTHS, other_hop, *yours)
    random = np.random.default_rng(0)
    slow = slow.of((slow.table["utterance"] != 2) & (random.random(len(slow)) < 0.7))
    fast = fast.of((fast.table["utterance"] != 4) & (random.random(len(fast)) < 0.7))
    x, y = pair(slow, fast, "frame", NAMES)
    expected = nearest(slow, fast, other_hop)
    assert len(expected) > 20
    assert list(zip(x.index, y.index, strict=True)) == [(slow.index[i], fast.index[j]) for i, j in expected]


def test_one_frame_of_each_utterance():
    """A single frame shows no hop; the other side's decides how near is near (``--where start=0``)."""
    slow, fast = frames(LENGTHS, 320, 400), frames(LENGTHS, 160, 400, -60)
    first = slow.of(slow.table["start"] == 0)
    expected = nearest(first, fast, 160)
    assert len(expected) == len(LENGTHS)
    x, y = pair(first, fast, "frame", NAMES)
    assert list(zip(x.index, y.index, strict=True)) == [(first.index[i], j) for i, j in expected]


def test_frames_of_no_common_utterance():
    slow, fast = frames(LENGTHS, 320, 400), frames(LENGTHS, 160, 400)
    with pytest.raises(UsageError, match=r"A and B have no frame row in common: were they made from one corpus\?"):
        pair(slow.of(slow.table["utterance"] < 3), fast.of(fast.table["utterance"] >= 3), "frame", NAMES)


def test_frames_that_say_whether_they_are_masked():
    """A run with the time mask on against the same model without: the frames are the same."""
    for hop in (320, 160):
        mine, yours = frames(LENGTHS, 320, 400, dtype=MASKED_ROW_DTYPE), frames(LENGTHS, hop, 400)
        mine.table["masked"][::3] = True
        for some in (mine, mine.of(mine.table["masked"])):
            x, y = pair(some, yours, "frame", NAMES)
            np.testing.assert_array_equal(x.index, some.index)
            np.testing.assert_array_equal(y.table["start"], some.table["start"])
            np.testing.assert_array_equal(y.table["utterance"], some.table["utterance"])


def test_masked_and_unmasked_stores(model, wave, corpus, folder):
    masked = layertool.extract(
        model, corpus, folder / "masked", "frame", "T1", mask_seed=1, mask_prob=0.5, mask_length=3
    )
    x, y = pair(every(masked, "frame", "T1"), every(wave, "frame", "T1"), "frame", NAMES)
    np.testing.assert_array_equal(x.index, y.index)
    assert len(x) == wave.n_rows("frame", "T1")


# --- other rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["phone", "word", "utterance"])
def test_segments_of_two_models_are_the_same(wave, mel, unit):
    x, y = every(wave, unit, "T1"), every(mel, unit, "mel")
    assert pair(x, y, unit, NAMES) == (x, y)


def test_segments_that_one_side_lacks(mel):
    whole = every(mel, "word", "mel")
    x, y = whole.of(np.array([0, 2, 3, 4, 7, 8, 11, 12])), whole.of(np.array([2, 3, 5, 6, 7, 11, 13]))
    a, b = pair(x, y, "word", NAMES)
    assert list(a.index) == list(b.index) == [2, 3, 7, 11]
    np.testing.assert_array_equal(a.table, whole.table[a.index])
    assert a.notes == ["left out: 3 word rows that only one of A and B has"]
    assert b.notes == []


def test_segments_are_matched_by_what_they_are_not_by_where_they_stand(mel):
    """The other store has them in another order, and one word was cut or named differently there."""
    whole = every(mel, "word", "mel")
    order = np.random.default_rng(0).permutation(len(whole))
    table = whole.table[order].copy()
    table["end"][order == 3] += 1
    table["label"][order == 5] = 2 - table["label"][order == 5]  # x, y, z: 0, 1, 2
    differs = whole.table["label"][5] != 1
    other = Rows(100 + np.arange(len(whole)), table)
    x, y = pair(whole, other, "word", NAMES)
    expected = [k for k in range(len(whole)) if k != 3 and not (k == 5 and differs)]
    assert list(x.index) == expected
    assert list(order[y.index - 100]) == expected


def test_segments_that_stand_twice(mel):
    whole = every(mel, "word", "mel")
    twice = whole.of(np.array([0, 0, 1, 2]))
    with pytest.raises(UsageError, match="A and B hold other rows, and some of them twice"):
        pair(twice, whole, "word", NAMES)
    with pytest.raises(UsageError, match="some of them twice"):
        pair(whole, twice, "word", NAMES)
    assert pair(twice, twice, "word", NAMES)[0] is twice  # the same rows on both sides may


def test_no_segment_in_common(mel):
    whole = every(mel, "word", "mel")
    with pytest.raises(UsageError, match="A and B have no word row in common"):
        pair(whole.of(np.arange(4)), whole.of(np.arange(4, 9)), "word", NAMES)
