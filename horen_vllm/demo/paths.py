"""Where the committed demo model lies."""

from pathlib import Path


def demo_model_dir() -> Path:
    """Return the folder of the demo model that ships inside the package.

    Returns
    -------
    pathlib.Path
        Absolute folder holding ``config.json``, ``model.safetensors`` and the tokenizer. It is not
        checked to exist, so that the training script can name it before it is written.
    """
    return Path(__file__).resolve().parent / "model"
