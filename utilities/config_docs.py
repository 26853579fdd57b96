"""The table of all configuration keys: `python -m utilities.config_docs > docs/configuration.md`."""

from __future__ import annotations

from .config import KeyDoc, key_docs

TITLES = {
    "msgld": "MSG-LD (`model.target: latent_diffusion.musicldm.MusicLDM`)",
    "autoencoder": "VAE (`model.target: latent_diffusion.first_stage.training.AutoencoderTraining`)",
    "vocoder": "Vocoder (`model.target: latent_diffusion.first_stage.training.VocoderTraining`)",
}


def _row(doc: KeyDoc) -> str:
    text = doc.doc + (" *(published key without effect here)*" if doc.unused else "")
    cells = [f"`{doc.key}`", doc.expected, f"`{doc.default}`", "+" if doc.ours else "", text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def configuration_markdown() -> str:
    """All keys of all three kinds of model, those that differ from the first kind only once."""
    lines = [
        "# Configuration keys",
        "",
        "Written by `python -m utilities.config_docs` from `utilities/config_*.py`. A `+` marks keys that",
        "the published code does not have. `base: FILE` at the top of a file puts its keys over those of another file,",
        "relative to it. On the command line `key=value` overrides any key.",
    ]
    seen: set[str] = set()
    for kind, title in TITLES.items():
        rows = [row for doc in key_docs(kind) if (row := _row(doc)) not in seen]
        seen.update(rows)
        lines += ["", f"## {title}", "", "| key | value | default | + | meaning |", "|---|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(configuration_markdown(), end="")
