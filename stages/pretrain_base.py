"""Train the bundled base model from scratch and save it as a standard checkpoint."""

from typing import Annotated

import typer

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch


def main(
    smoke: Annotated[bool, typer.Option(help="Train a tiny model for a few steps, to test that this runs.")] = False,
) -> None:
    """Train the base model and save it to models/base; an interrupted run continues when it is started again."""
    from narrowband.pretrain.bundled_model import SMOKE, Recipe, pretrain, save

    set_up_torch()
    out = paths.SMOKE_MODEL if smoke else paths.BUNDLED_MODEL
    checkpoint = paths.CHECKPOINTS / f"pretrain_{out.name}.safetensors"
    model, tokenizer = pretrain(SMOKE if smoke else Recipe(), checkpoint)
    save(model, tokenizer, out)
    checkpoint.unlink()
    console.print(f"saved {out}")


if __name__ == "__main__":
    run(main)
