"""Fit the PCA of windows of training prompts."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Fit on the training questions; write artifacts/pca and metrics/pca.json."""
    params = load_params()

    from narrowband.codec.config import geometry_of
    from narrowband.codec.fitting import fit_coder, fit_pca
    from narrowband.data.prompts import encode_prompts, say_truncated, truncated_share
    from narrowband.data.settled import read_settled
    from narrowband.data.squad import stream_squad
    from narrowband.data.vocabulary import mixed_in, plain_tokens
    from narrowband.lm.frozen import FrozenLM
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.files import write_json
    from narrowband.runtime.rounding import rounded

    set_up_torch()
    lm = FrozenLM.load(params.base_model, params.source)
    vector_dim = params.vector_dim(lm.hidden_size)
    prompt = read_settled(params.prompt)
    prompts = encode_prompts(lm.tokenizer, stream_squad(checked(paths.QA / "train.json")), prompt)
    cut = truncated_share(prompts)
    say_truncated(cut, prompt)
    share = params.vocabulary_share
    mixed = mixed_in(prompts, share, plain_tokens(lm.tokenizer), f"{params.seed}/vocabulary/pca")
    pca = fit_pca(lm, mixed, params.compress_dim, params.window)
    coding = params.latent_coding
    if coding.kind == "entropy":
        # without random vocabulary tokens, even if the PCA had some
        fit_coder(lm, prompts, pca, coding, params.magnitude).save(paths.PCA)
    made_with = {
        "latent_coding": coding.model_dump(),
        "prompt": prompt.model_dump(),
        "vocabulary_share": share,
    }
    pca.save(paths.PCA, {**geometry_of(params), **made_with})
    figures = {"explained_variance": pca.explained_share, "truncated_share": cut}
    write_json(paths.METRICS / "pca.json", rounded(figures))
    console.print(f"{params.compress_dim} of {vector_dim} components explain {pca.explained_share:.1%} of the variance")


if __name__ == "__main__":
    run(main, needs_less_memory="lower window (the covariance grows with its square) or prompt.max_length")
