"""Fit the PCA of windows of training prompts."""

from pathlib import Path

from narrowband.stage import console, run, set_up_torch

BATCH = 256  # prompts embedded at a time


def main(qa: Path, out: Path, metrics: Path) -> None:
    """Fit on the training questions in QA; write the PCA to OUT and its figures to METRICS."""
    from narrowband.codec.pca import PCA
    from narrowband.codec.windows import cut
    from narrowband.data.embedded import embedded
    from narrowband.data.encoded import read_prompts
    from narrowband.files import write_json
    from narrowband.lm import FrozenLM
    from narrowband.params import load_params
    from narrowband.progress import track

    set_up_torch()
    params = load_params()
    lm = FrozenLM.load(params.base_model)
    vector_dim = params.vector_dim(lm.hidden_size)
    prompts = read_prompts(lm.tokenizer, qa / "train.json", params.prompt)
    batches = track(embedded(lm, prompts, BATCH), "PCA", -(-len(prompts) // BATCH), console)
    pca = PCA.fit((cut(embeddings, coded, params.window) for embeddings, coded in batches), params.compress_dim)
    pca.save(out, {"base_model": params.base_model, "window": params.window, "compress_dim": params.compress_dim})
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
    run(main)
