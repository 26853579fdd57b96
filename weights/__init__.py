"""Trained models: `<name>/model.safetensors`, found by `--model <name>`. A package only so that they are installed."""
