"""The bundled base model, trained from scratch: a standard Llama checkpoint, small enough for a Git repository."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from narrowband.data.prompts import qa_prompt
from narrowband.pretrain.curriculum import questions, recall, roster, sequence
from narrowband.pretrain.held_spectrum import HOLD_EVERY, hold_spectrum, token_counts
from narrowband.pretrain.init import initialize
from narrowband.pretrain.muon import Muon
from narrowband.pretrain.tokenizer import train_tokenizer
from narrowband.runtime.entry import console
from narrowband.runtime.files import folder_of_files
from narrowband.runtime.fingerprint import stage_fingerprint
from narrowband.training.loop import Evaluation, Schedule, StepLoss, Trainer
from narrowband.world.completions import make_document
from narrowband.world.names import Split
from narrowband.world.passages import make_passage

LLAMA_RMS = 0.53 / 4096**0.5
"""RMS of a component of Llama-3.1-8B's token embeddings: a norm of 0.53 over sqrt(4096 dimensions)."""


@dataclass(frozen=True)
class Recipe:
    """Size and training of the bundled model; sequence length in tokens, batch size in sequences.

    `embedding_noise` is the maximum RMS of the noise that is added to embeddings, as a multiple of theirs.
    """

    hidden_size: int = 256
    layers: int = 4
    intermediate_size: int = 512
    vocab_size: int = 2048
    tokenizer_texts: int = 20_000
    sequence_length: int = 256
    batch_size: int = 12
    steps: int = 5600
    warmup: int = 50
    lr_matrices: float = 1e-2
    lr_vectors: float = 3e-3
    embedding_noise: float = 0.7
    evaluate_every: int = 200
    seed: int = 0


SMOKE = Recipe(
    hidden_size=128,
    layers=2,
    intermediate_size=64,
    vocab_size=512,
    tokenizer_texts=500,
    batch_size=2,
    sequence_length=64,
    steps=8,
    evaluate_every=2,
)
"""Small enough to run in a test."""


def sample_texts(seed: int, n: int) -> Iterator[str]:
    """Text to train the tokenizer on: passages with questions, and completion documents."""
    rng = Random(f"{seed}/tokenizer")
    for _ in range(n):
        passage = make_passage(rng, "train")
        yield qa_prompt(passage.text, " ".join(f"{q.text} {q.answer}" for q in rng.choices(passage.questions, k=6)))
        if rng.random() < 0.3:
            yield make_document(rng)


def sample_prompts(seed: int, n: int) -> Iterator[str]:
    """Prompts as in the training split, to count tokens in: a passage with one question."""
    rng = Random(f"{seed}/spectrum")
    for _ in range(n):
        passage = make_passage(rng, "train")
        yield qa_prompt(passage.text, rng.choice(passage.questions).text)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama with heads of size 64, rotary base 1e6, attention biases and tied embeddings."""
    config = LlamaConfig(
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden_size // 64,
        num_key_value_heads=recipe.hidden_size // 64,
        vocab_size=recipe.vocab_size,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        attention_bias=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(config)
    initialize(model, recipe.seed)
    return model


def batch(
    recipe: Recipe, step: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Token ids and loss weights of the batch of `step`; they depend on the arguments alone."""
    progress = step / recipe.steps
    draws = [Random(f"{recipe.seed}/train/{step}/{i}") for i in range(recipe.batch_size)]
    rows = [sequence(rng, "train", progress, tokenizer, recipe.sequence_length) for rng in draws]
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([weights for _, weights in rows])


def add_noise(embeddings: Tensor, most: float) -> Tensor:
    """Add Gaussian noise to token embeddings [batch, seq, hidden]; each sequence draws its RMS from 0 to `most` times theirs.

    Noise on embeddings regularises (Jain et al. 2023, "NEFTune", arXiv:2310.05914). It also makes the model tolerate small
    differences between an embedding and its reconstruction.
    """
    rms = embeddings.detach().square().mean().sqrt()
    amplitude = most * rms * torch.rand(len(embeddings), 1, 1, device=embeddings.device)
    return embeddings + amplitude * torch.randn_like(embeddings)


def weighted_cross_entropy(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Next-token cross-entropy in nats, a mean weighted by the predicted tokens' weights.

    Shapes: `logits` [batch, seq, vocab], `ids` and `weights` [batch, seq].
    """
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def answer_accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    kind: Callable[[Random, Split, int], list[tuple[str, float]]],
    n: int,
) -> float:
    """Percent of answers (pieces of weight 1) in `n` validation lines of `kind` with every token predicted correctly."""
    right = total = 0
    for index in range(n):
        pieces = kind(Random(f"accuracy/{index}"), "validation", 8)
        encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False).input_ids
        ids = torch.tensor([[token for piece in encoded for token in piece]], device=model.device)
        hits = (model(input_ids=ids).logits[0, :-1].argmax(-1) == ids[0, 1:]).tolist()
        end = 0
        for (_, weight), piece in zip(pieces, encoded, strict=True):
            begin, end = end, end + len(piece)
            if weight == 1.0:
                right += all(hits[begin - 1 : end - 1])
                total += 1
    return 100 * right / total


def pretrain(recipe: Recipe, checkpoint: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Train tokenizer and model; resumes from `checkpoint` if recipe and world are the same."""
    tokenizer = train_tokenizer(sample_texts(recipe.seed, recipe.tokenizer_texts), recipe.vocab_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(recipe, tokenizer)
    model.to(device)  # type: ignore[arg-type]
    console.print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}")
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    vectors = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=recipe.lr_matrices),
        torch.optim.AdamW(vectors, lr=recipe.lr_vectors, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    counts = token_counts(sample_prompts(recipe.seed, 3000), tokenizer)

    def step_losses(step: int) -> list[StepLoss]:
        if step % HOLD_EVERY == 0:
            hold_spectrum(model.model.embed_tokens.weight, counts)
        ids, weights = batch(recipe, step, tokenizer)
        embeddings = add_noise(
            model.get_input_embeddings()(ids.to(device)), recipe.embedding_noise * min(1, 3 * (step / recipe.steps))
        )
        logits = model(inputs_embeds=embeddings).logits
        return [StepLoss(weighted_cross_entropy(logits, ids.to(device), weights.to(device)), {})]

    trainer = Trainer(
        model,
        optimizers,
        Schedule(recipe.steps, recipe.warmup, recipe.evaluate_every),
        checkpoint,
        stage_fingerprint("pretrain_base") + json.dumps(asdict(recipe)),
        lambda step, values: None,
        "base model",
    )
    outcome = trainer.train(step_losses, lambda: _evaluate(model, tokenizer), recipe.seed)
    model.load_state_dict(outcome.best, strict=False)
    return model, tokenizer


def _evaluate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Evaluation:
    """Accuracy in percent on validation lines of each kind; the score is the accuracy on passages."""
    kinds = {"recall": (recall, 24), "roster": (roster, 24), "reading": (questions, 48)}
    metrics = {name: answer_accuracy(model, tokenizer, kind, n) for name, (kind, n) in kinds.items()}
    return Evaluation(metrics["reading"], metrics)


@torch.no_grad()
def rescale(model: LlamaForCausalLM, rms: float) -> None:
    """Give the embeddings the root mean square `rms` without changing the model's output.

    Every block reads the residual stream through an RMSNorm. So the embeddings and everything that blocks write can be
    multiplied by one factor, and the norms' epsilon by its square; the gain of the last norm is divided by it, because the
    head is tied to the embeddings.
    """
    embeddings = model.model.embed_tokens.weight
    factor = rms / float(embeddings.square().mean().sqrt())
    embeddings.mul_(factor)
    for layer in cast(list[LlamaDecoderLayer], model.model.layers):
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            for parameter in projection.parameters():
                parameter.mul_(factor)
    model.model.norm.weight.div_(factor)
    model.config.rms_norm_eps *= factor**2


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Save float16 safetensors and the tokenizer in the folder `out`, with embeddings as large as those of Llama-3.1-8B."""
    rescale(model, LLAMA_RMS)
    with folder_of_files(out) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
