"""Take an array apart, arrange it anew, make something and go on from it: `python -m examples.stems [MODEL] [FOLDER]`.

MODEL is a name, a file or a run folder (default: quickstart); FOLDER gets the wav files (default: example_out). The
marks `# %%` make cells of it in Jupyter (jupytext), VS Code and Spyder.
"""

# %% What is needed
import sys
from pathlib import Path

import numpy as np
import soundfile

from latent_diffusion import MultiTrackPipeline, SamplingSettings

MODEL = sys.argv[1] if len(sys.argv) > 1 else "quickstart"
OUT = Path(sys.argv[2] if len(sys.argv) > 2 else "example_out")


def save(name: str, stems: dict, rate: int) -> None:
    """Write each stem, (channels, samples), and say what was written."""
    (OUT / name).mkdir(parents=True, exist_ok=True)
    for stem, waveform in stems.items():
        soundfile.write(OUT / name / f"{stem}.wav", waveform.numpy().T, rate, subtype="FLOAT")
    print(f"{OUT / name}: {', '.join(stems)}")


# %% A model
pipeline = MultiTrackPipeline.from_checkpoint(MODEL)  # device="cuda" where there is a GPU
model_rate = pipeline.settings.mel.sample_rate
print(f"{', '.join(pipeline.stems)}; windows of {pipeline.settings.mel.window_seconds:g} s at {model_rate} Hz")

# %% Three seconds of stereo: a bass note, a click on every beat, a chord. soundfile.read gives you your own music.
rate = 44_100
t = np.arange(3 * rate) / rate
beat = np.exp(-30 * (t % 0.5))
bass = 0.2 * np.sin(2 * np.pi * 55 * t)
clicks = 0.2 * beat * np.random.default_rng(0).standard_normal(len(t))
chord = 0.05 * sum(np.sin(2 * np.pi * hz * t) for hz in (220.0, 277.2, 329.6))
song = np.stack([bass + clicks + chord, bass + 0.5 * clicks + chord])  # (channels, samples)

# %% Separate it: stems at the song's own rate and channels, which sum to it
quick = SamplingSettings(sampler="dpm++", steps=4)  # more steps sound better
stems = pipeline.separate(song, rate, sampling=quick)
save("separated", stems, rate)
print(f"the stems' sum is off by {abs(sum(stems.values()).numpy() - song).max():.0e}")

# %% Keep one stem and let the model make the others
kept = pipeline.stems[0]
arranged = pipeline.arrange({kept: stems[kept]}, rate, seed=1, sampling=quick)
save("arranged", arranged, model_rate)

# %% Make two seconds from nothing, with a bar of progress, then go on for another two
made = pipeline.generate(2.0, seed=2, sampling=quick, progress=lambda done, total: print(f"{done}/{total}", end="\r"))
longer = pipeline.generate(2.0, seed=3, sampling=quick, continue_from=made, sample_rate=model_rate)
save("generated", longer, model_rate)
