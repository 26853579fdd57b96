"""Statistics of tracks and of a split: what was made, and whether anything about it looks wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.rendering import SAMPLE_RATE, active_rms_db

# Below this a frame counts as silence (dBFS over 50 ms).
_SILENCE_DB = -60.0


def _db(power: float) -> float:
    return round(max(-120.0, 10.0 * float(np.log10(power + 1e-30))), 2)


def _centroid_hz(sound: np.ndarray) -> float:
    """Centre of gravity of the magnitude spectrum, averaged over the frames by their energy."""
    size = 2048
    count = len(sound) // size
    if count == 0 or not np.any(sound):
        return 0.0
    frames = sound[: count * size].reshape(count, size) * np.hanning(size).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames, axis=1)).sum(axis=0)
    return round(float((magnitude * np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)).sum() / magnitude.sum()), 1)


def describe_stems(stems: Mapping[str, np.ndarray], notes: Mapping[str, int]) -> dict:
    """Measures a track.

    Args:
        stems: int16 samples (N,) at SAMPLE_RATE by stem.
        notes: number of notes by stem.

    Returns:
        seconds, mixture_peak, clipped_samples, and for every stem: notes, notes_per_second, silence_share (of 50 ms
        frames below -60 dBFS), rms_db (whole track), active_rms_db (where it sounds), centroid_hz.
    """
    length = len(next(iter(stems.values())))
    seconds = length / SAMPLE_RATE
    frame = SAMPLE_RATE // 20
    result: dict = {
        "seconds": round(seconds, 2),
        "mixture_peak": round(float(np.abs(sum(s.astype(np.int32) for s in stems.values())).max()) / 32768.0, 4),
        "clipped_samples": int(sum(np.count_nonzero((s == 32767) | (s == -32768)) for s in stems.values())),
        "stems": {},
    }
    for stem, pcm in stems.items():
        sound = pcm.astype(np.float32) / 32768.0
        power = (sound[: length // frame * frame].reshape(-1, frame) ** 2).mean(axis=1)
        result["stems"][stem] = {
            "notes": notes[stem],
            "notes_per_second": round(notes[stem] / seconds, 2),
            "silence_share": round(float((power < 10 ** (_SILENCE_DB / 10)).mean()), 3) if len(power) else 1.0,
            "rms_db": _db(float((sound**2).mean())),
            "active_rms_db": round(active_rms_db(sound), 2),
            "centroid_hz": _centroid_hz(sound),
        }
    return result


def line(name: str, song: Mapping) -> str:
    """One line about a track, for the terminal."""
    what = [name, f"{song['seconds']:5.1f} s", f"peak {song['mixture_peak']:.2f}"]
    if "style" in song:
        what += [f"{song['style']:<11}", f"{song['tempo']:3.0f}/min", f"{song['metre']}", f"{song['key']:<12}"]
    for stem, numbers in song["stems"].items():
        program = f" p{song['programs'][stem]:<3}" if isinstance(song["programs"].get(stem), int) else ""
        what.append(
            f"{stem}{program} {numbers['notes_per_second']:4.1f}/s {numbers['rms_db']:6.1f} dB"
            f" {numbers['silence_share']:3.0%} silent"
        )
    return "  ".join(what)


def summarise(songs: Mapping[str, Mapping]) -> dict:
    """Statistics over a split, with warnings.

    Args:
        songs: metadata by track.

    Returns:
        tracks, seconds, counts of what varies, means by stem, and `warnings`: one line each.
    """
    tracks = list(songs.values())
    summary: dict = {
        "tracks": len(tracks),
        "seconds": round(sum(song["seconds"] for song in tracks), 1),
        "stems": {},
        "warnings": [],
    }
    for key in ("style", "metre", "key", "tempo"):
        values = [song[key] for song in tracks if key in song]
        if values:
            summary[f"distinct_{key}"] = len(set(values))
    if any("tempo" in song for song in tracks):
        tempi = [song["tempo"] for song in tracks]
        summary["tempo_range"] = [min(tempi), max(tempi)]
    stem_names: Sequence[str] = list(tracks[0]["stems"]) if tracks else []
    for stem in stem_names:
        numbers = [song["stems"][stem] for song in tracks]
        sounding = [n for n in numbers if n["notes"]]
        summary["stems"][stem] = {
            "tracks": len(sounding),
            "programs": sorted({p for song in tracks for p in _programs(song, stem)}),
            **{
                f"mean_{key}": round(float(np.mean([n[key] for n in sounding])), 3) if sounding else None
                for key in ("notes_per_second", "silence_share", "rms_db", "active_rms_db", "centroid_hz")
            },
        }
    summary["warnings"] = _warnings(songs, summary)
    return summary


def _programs(song: Mapping, stem: str) -> list[int]:
    programs = song["programs"].get(stem, [])
    return [programs] if isinstance(programs, int) else list(programs)


def _warnings(songs: Mapping[str, Mapping], summary: Mapping) -> list[str]:
    found: list[str] = []
    for name, song in songs.items():
        composed = "style" in song
        for stem, numbers in song["stems"].items():
            if numbers["silence_share"] > 0.98 and (composed or numbers["notes"]):
                found.append(f"{name}: {stem} is silent throughout")
        if song["clipped_samples"]:
            found.append(f"{name}: {song['clipped_samples']} samples are clipped")
        if song["mixture_peak"] > 0.9:
            found.append(f"{name}: the mixture's peak is {song['mixture_peak']}, above 0.9")
    for key in ("style", "key", "tempo"):
        distinct, expected = summary.get(f"distinct_{key}"), max(1, min(6, summary["tracks"] // 3))
        if distinct is not None and distinct < expected:
            found.append(f"low variety: {distinct} different values of {key} in {summary['tracks']} songs")
    for stem, numbers in summary["stems"].items():
        if not numbers["tracks"]:
            found.append(f"no track has {stem}")
    return found
