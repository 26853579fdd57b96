"""Sound files: find, read, decode, resample, stream and write them. Nothing else in `utilities` opens one."""

from latent_diffusion.resampling import resample, resampled_length

from .containers import check_not_cut_off
from .find import is_readable, stem_files, stem_named, walk, why_unreadable
from .levels import is_silent
from .read import AudioInfo, audio_info, inspect_for_windows, read_audio, read_stretch, read_window, to_mono
from .stream import FileSource
from .write import are_there, encode, write_stems, write_wav

__all__ = [
    "AudioInfo",
    "FileSource",
    "are_there",
    "audio_info",
    "check_not_cut_off",
    "encode",
    "inspect_for_windows",
    "is_readable",
    "is_silent",
    "read_audio",
    "read_stretch",
    "read_window",
    "resample",
    "resampled_length",
    "stem_files",
    "stem_named",
    "to_mono",
    "walk",
    "why_unreadable",
    "write_stems",
    "write_wav",
]
