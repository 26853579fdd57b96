"""Plays tracker modules with libopenmpt, some of their instruments at a time."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections import Counter
from collections.abc import Collection
from functools import lru_cache

import numpy as np

from latent_diffusion.errors import DataError

INSTALL = "apt-get install --no-install-recommends libopenmpt0"

_INT, _DOUBLE, _POINTER, _SIZE = ctypes.c_int32, ctypes.c_double, ctypes.c_void_p, ctypes.c_size_t
# What the library returns and takes: libopenmpt.h and libopenmpt_ext.h of version 0.6.
_FUNCTIONS = {
    "module_ext_create_from_memory": (_POINTER, (_POINTER, _SIZE, *(_POINTER,) * 7)),
    "module_ext_get_module": (_POINTER, (_POINTER,)),
    "module_ext_get_interface": (ctypes.c_int, (_POINTER, ctypes.c_char_p, _POINTER, _SIZE)),
    "module_ext_destroy": (None, (_POINTER,)),
    "module_read_float_mono": (_SIZE, (_POINTER, _INT, _SIZE, _POINTER)),
    "module_get_num_instruments": (_INT, (_POINTER,)),
    "module_get_num_samples": (_INT, (_POINTER,)),
    "module_get_num_channels": (_INT, (_POINTER,)),
    "module_get_num_orders": (_INT, (_POINTER,)),
    "module_get_num_patterns": (_INT, (_POINTER,)),
    "module_get_instrument_name": (_POINTER, (_POINTER, _INT)),
    "module_get_sample_name": (_POINTER, (_POINTER, _INT)),
    "module_get_order_pattern": (_INT, (_POINTER, _INT)),
    "module_get_pattern_num_rows": (_INT, (_POINTER, _INT)),
    "module_get_pattern_row_channel_command": (ctypes.c_uint8, (_POINTER, _INT, _INT, _INT, ctypes.c_int)),
    "free_string": (None, (_POINTER,)),
}
_NOTE, _INSTRUMENT = 0, 1  # the first two of a pattern cell's commands
_HIGHEST_NOTE = 120  # above are note-off, note-cut and fade
_SET_MUTE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _INT, ctypes.c_int)
_CHUNK = 1 << 16


class _Interactive(ctypes.Structure):
    """The library's table of functions of its "interactive" extension; only one of them is used."""

    _fields_ = [
        ("before", _POINTER * 12),
        ("set_instrument_mute_status", _SET_MUTE),
        ("after", _POINTER * 3),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """libopenmpt, its functions declared.

    Raises:
        DataError: it is not installed, or too old.
    """
    name = ctypes.util.find_library("openmpt") or "libopenmpt.so.0"
    try:
        found = ctypes.CDLL(name)
        for function, (result, arguments) in _FUNCTIONS.items():
            declared = getattr(found, f"openmpt_{function}")
            declared.restype, declared.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise DataError(f"libopenmpt cannot be used ({error}); install it with: {INSTALL}") from error
    return found


class Module:
    """A tracker module, from its first order to its end.

    Args:
        data: the file's bytes.

    Attributes:
        names: of the instruments, or of the samples where the format has no instruments (MOD, S3M).

    Raises:
        DataError: libopenmpt is missing, or does not know the format.
    """

    def __init__(self, data: bytes) -> None:
        self._library, self._data = library(), data
        extended, module = self._open()
        try:
            call = self._library
            count, name = call.openmpt_module_get_num_instruments(module), call.openmpt_module_get_instrument_name
            if count == 0:
                count, name = call.openmpt_module_get_num_samples(module), call.openmpt_module_get_sample_name
            self.names = [self._text(name(module, index)) for index in range(count)]
            self._notes = self._count_notes(module)
        finally:
            call.openmpt_module_ext_destroy(extended)

    def _open(self) -> tuple[int, int]:
        silent = ctypes.cast(self._library.openmpt_log_func_silent, _POINTER)
        nothing = (None,) * 5
        extended = self._library.openmpt_module_ext_create_from_memory(
            self._data, len(self._data), silent, *nothing, None
        )
        if not extended:
            raise DataError("is no tracker module that libopenmpt knows")
        return extended, self._library.openmpt_module_ext_get_module(extended)

    def _text(self, pointer: int) -> str:
        text = ctypes.string_at(pointer).decode("utf-8", "replace")
        self._library.openmpt_free_string(pointer)
        return text

    def _count_notes(self, module: int) -> Counter[int]:
        """Notes by instrument, patterns counted as often as the list of orders names them."""
        call, counts = self._library, Counter[int]()
        cell, patterns = (
            call.openmpt_module_get_pattern_row_channel_command,
            call.openmpt_module_get_num_patterns(module),
        )
        orders = [
            call.openmpt_module_get_order_pattern(module, order)
            for order in range(call.openmpt_module_get_num_orders(module))
        ]
        for channel in range(call.openmpt_module_get_num_channels(module)):
            instrument = 0  # a note without one goes on with the channel's last
            for pattern in orders:
                rows = call.openmpt_module_get_pattern_num_rows(module, pattern) if 0 <= pattern < patterns else 0
                for row in range(rows):
                    instrument = cell(module, pattern, row, channel, _INSTRUMENT) or instrument
                    if instrument and 0 < cell(module, pattern, row, channel, _NOTE) <= _HIGHEST_NOTE:
                        counts[instrument - 1] += 1
        return counts

    def notes(self, instruments: Collection[int]) -> int:
        """Number of notes that the instruments play, by the list of orders; jumps and loops are not followed."""
        return sum(self._notes[index] for index in instruments)

    def render(self, instruments: Collection[int], rate: int, longest_seconds: float) -> np.ndarray:
        """Plays some instruments; all others are muted, but still act on the song (jumps, tempo).

        Args:
            instruments: indices into `names`.
            rate: of the result, in Hz.
            longest_seconds: playing ends there.

        Returns:
            Mono float32 (N,).

        Raises:
            DataError: the installed libopenmpt cannot mute instruments.
        """
        call = self._library
        extended, module = self._open()
        try:
            table = _Interactive()
            size = ctypes.sizeof(table)
            if not call.openmpt_module_ext_get_interface(extended, b"interactive", ctypes.byref(table), size):
                raise DataError(f"the installed libopenmpt cannot mute instruments; install 0.6 with: {INSTALL}")
            for index in range(len(self.names)):
                table.set_instrument_mute_status(extended, index, int(index not in instruments))
            parts, left = [], round(longest_seconds * rate)
            while left > 0:
                buffer = np.empty(min(_CHUNK, left), dtype=np.float32)
                got = call.openmpt_module_read_float_mono(module, rate, len(buffer), buffer.ctypes.data)
                if got == 0:
                    break
                parts.append(buffer[:got])
                left -= got
            return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        finally:
            call.openmpt_module_ext_destroy(extended)
