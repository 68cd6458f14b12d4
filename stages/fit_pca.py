"""Fit the PCA of windows of training prompts."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import console, run, set_up_torch


def main(qa: Path, out: Path, metrics: Path) -> None:
    """Fit on the training questions in QA; write the PCA to OUT and its figures to METRICS."""
    params = load_params()

    from narrowband.codec.batches import token_windows
    from narrowband.codec.pca import PCA
    from narrowband.data.encoded import read_prompts
    from narrowband.lm.frozen import FrozenLM
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.files import write_json
    from narrowband.runtime.progress import bar

    set_up_torch()
    lm = FrozenLM.load(params.base_model)
    vector_dim = params.vector_dim(lm.hidden_size)
    prompts = read_prompts(lm.tokenizer, checked(qa / "train.json"), params.prompt)
    vectors, windows = token_windows(lm, prompts, params.window)
    with bar("PCA", params.window * (params.window + 1) // 2, console) as advance:
        pca = PCA.fit(vectors, params.compress_dim, windows, advance=advance)
    pca.save(out, params)
    write_json(
        metrics,
        {
            "explained_variance": pca.explained_share,
            "compression_ratio": vector_dim / params.compress_dim,
            "truncated_share": sum(prompt.truncated for prompt in prompts) / len(prompts),
        },
    )
    console.print(f"{params.compress_dim} of {vector_dim} components explain {pca.explained_share:.1%} of the variance")


if __name__ == "__main__":
    run(main, needs_less_memory="lower window, as the covariance is square in it, or prompt.max_length")
