"""Train the bundled base model from nothing and save it as a standard checkpoint."""

from typing import Annotated

import typer

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch


def main(
    smoke: Annotated[bool, typer.Option(help="A tiny model and a few steps, to see that it runs.")] = False,
) -> None:
    """Train the base model into models/base; run again after a kill and it goes on where it was."""
    from narrowband.pretrain.run import SMOKE, Recipe, pretrain, save

    set_up_torch()
    out = paths.SMOKE_MODEL if smoke else paths.BUNDLED_MODEL
    checkpoint = paths.CHECKPOINTS / f"pretrain_{out.name}.safetensors"
    model, tokenizer = pretrain(SMOKE if smoke else Recipe(), checkpoint, console)
    save(model, tokenizer, out)
    checkpoint.unlink()
    console.print(f"saved {out}")


if __name__ == "__main__":
    run(main)
