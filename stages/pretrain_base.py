"""Train the embedded base model from nothing and save it as a standard checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from narrowband.runtime.entry import console, run, set_up_torch


def main(
    out: Path, smoke: Annotated[bool, typer.Option(help="A tiny model and a few steps, to see that it runs.")] = False
) -> None:
    """Train the base model into the folder OUT; run again after a kill and it goes on where it was."""
    from narrowband.pretrain.run import SMOKE, Recipe, pretrain, save

    set_up_torch()
    checkpoint = Path(".checkpoints") / ("pretrain_smoke.safetensors" if smoke else "pretrain_base.safetensors")
    model, tokenizer = pretrain(SMOKE if smoke else Recipe(), checkpoint, console)
    save(model, tokenizer, out)
    checkpoint.unlink()
    console.print(f"saved {out}")


if __name__ == "__main__":
    run(main)
