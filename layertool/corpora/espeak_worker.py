"""Speaks one utterance with eSpeak NG and ends: ``python -m layertool.corpora.espeak_worker``.

eSpeak NG keeps state from one utterance to the next (a sentence spoken twice by one process gives other bytes the
second time), so that only a fresh process with a fixed seed gives the same bytes whatever was said before and by
however many workers. Nothing but the standard library and the C interface (espeak-ng/speak_lib.h) is imported:
speaking takes less time than NumPy.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

SEED = 0  # of the noise generators, the same for every utterance
WORD, END, PHONEME = 1, 5, 7  # espeak_EVENT_TYPE
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: espeak_Synth returns when all is spoken
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000  # espeakINITIALIZE_...
_UTF8, _END_PAUSE = 1, 0x1000  # espeakCHARS_UTF8, espeakENDPAUSE
_POSITION_CHARACTER = 1


class Event(NamedTuple):
    """What eSpeak NG reports: kind, sample at the engine's rate, character (from 1) in the text, phone name."""

    kind: int
    sample: int
    position: int
    name: str


class _Event(ctypes.Structure):
    """espeak_EVENT of eSpeak NG 1.52. ``sample`` counts from the start of the utterance, at the engine's rate."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),  # a union: a number in WORD events, ended by a zero byte when shorter than 8
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _speak(text: str, voice: str, rate: int, pitch: int) -> tuple[dict, bytes]:
    """Speak once; to be called once per process. Leaves with a sentence on stderr when it cannot."""
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    ]
    engine_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _PHONEME_EVENTS | _DONT_EXIT)
    if engine_rate <= 0:
        raise SystemExit(f"its data in {data} cannot be read, install espeakng-loader again")
    # The library ignores an unknown variant without a word, and speaks with its default voice after an error.
    _, _, variant = voice.partition("+")
    if variant and not (data / "voices" / "!v" / variant).is_file():
        raise SystemExit(f"it has no variant '{variant}' (of '{voice}'), take one in {data / 'voices' / '!v'}")
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise SystemExit(f"it has no voice '{voice}', take a language in {data / 'lang'}, for example en or en-us")
    library.espeak_SetParameter(_RATE, rate, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    library.espeak_ng_SetRandSeed(SEED)

    blocks: list[bytes] = []
    events: list[Event] = []

    def receive(wave, n_samples, reported) -> int:
        k = 0
        while reported[k].type != 0:
            event = reported[k]
            name = event.name.decode() if event.type == PHONEME else ""
            if event.type in (WORD, END, PHONEME):
                events.append(Event(event.type, event.sample, event.text_position, name))
            k += 1
        if wave and n_samples > 0:
            blocks.append(ctypes.string_at(wave, n_samples * ctypes.sizeof(ctypes.c_short)))
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode()
    status = library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _UTF8 | _END_PAUSE, None, None)
    if status != 0 or not blocks:
        raise SystemExit(f"it gave no sound (status {status})")
    version = library.espeak_Info(None).decode().split()[0]
    return {"version": version, "rate": engine_rate, "events": events}, b"".join(blocks)


if __name__ == "__main__":
    header, pcm = _speak(**json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + pcm)
