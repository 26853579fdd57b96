"""The benchmarks' plain baseline computes what our code computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published import PublishedAttention, PublishedPipeline, WholeFileDataset, as_published
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mix
from latent_diffusion.tasks import Separation
from tests.tiny import MEL, STEMS, model, pipeline, tones, write_songs
from utilities.data.stems import StemDataset


@pytest.fixture(scope="module")
def tiny() -> MultiTrackPipeline:
    return pipeline()


def test_networks(tiny: MultiTrackPipeline) -> None:
    published, waveforms = PublishedPipeline(tiny), tones(MEL.window_samples)
    z, log_mels = tiny.encode(waveforms, torch.ones(4, 4, 16, 8))
    torch.testing.assert_close(published.encode(waveforms, torch.ones(4, 4, 16, 8)), z, atol=1e-4, rtol=0)
    for ours, theirs in zip(tiny.decode(z), published.decode(z), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    t = torch.tensor([700])
    ours = tiny.unet(z[None], t, z[:1])
    for both in (True, False):
        torch.testing.assert_close(published.predict(z[None], t, z[:1], 1.0, both), ours, atol=1e-4, rtol=0)
    kinds = [type(part) for part in published.unet.modules()]
    assert PublishedAttention in kinds and PublishedAttention not in [type(part) for part in tiny.unet.modules()]
    keys = published.first_stage.vocoder.state_dict()
    assert "conv_pre.weight_g" in keys and "conv_pre.weight_g" not in tiny.first_stage.vocoder.state_dict()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_separation(tiny: MultiTrackPipeline, scale: float) -> None:
    stems = tones(MEL.window_samples)
    log_mels, waveforms = PublishedPipeline(tiny).separate(stems, seed=3, scale=scale, steps=5)
    sampling = SamplingSettings("ddim", 5, 1.0)
    ours = tiny.run(Separation(scale), mix(stems)[None], seeds=[3], sampling=sampling)
    torch.testing.assert_close(log_mels, ours.log_mels[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(waveforms, ours.waveforms[0], atol=1e-4, rtol=0)


def test_training(tmp_path: Path) -> None:
    """Equal windows, losses and gradients."""
    folder = write_songs(tmp_path / "songs", tracks=2, seconds=1.0)
    ours, theirs = (kind(folder, STEMS, MEL, shift=True) for kind in (StemDataset, WholeFileDataset))
    a, b = ours[1, 7], theirs[1, 7]
    assert torch.equal(a["stems"], b["stems"]) and torch.equal(a["mixture"], b["mixture"])
    first, second = model(), as_published(model())
    batch = {"stems": a["stems"][None], "mixture": a["mixture"][None], "name": ["song"]}
    losses = [m.losses(batch, torch.Generator().manual_seed(0), 0.1)["loss"] for m in (first, second)]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=0)
    for loss in losses:
        loss.backward()
    for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-3)
