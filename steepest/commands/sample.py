"""`steepest sample`: text that a trained language model writes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning import LightningModule

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.compat import option_names
from steepest.datamodules.tokenizers import tokenizer_from
from steepest.errors import BAD_INPUT, fail
from steepest.lightning_modules import (
    LanguageModel,
    networks,  # noqa: F401 - makes short class names known
)
from steepest.lightning_modules.generation import check_sampling
from steepest.parsing.messages import explain
from steepest.parsing.parser import Parser
from steepest.run.checkpoints import config_of, entry_of
from steepest.run.defaults import quiet
from steepest.shipped import with_shipped_configs


def run_sample(words: Sequence[str]) -> None:
    """Parse the options of `sample` and print what it returns.

    Args:
        words: The options, as typed.
    """
    quiet()
    parser = _Parser(
        prog="steepest sample", description="Write text with a trained language model.", exit_on_error=True
    )
    parser.add_function_arguments(sample)
    options = parser.parse_args(with_shipped_configs(words))
    for text in sample(**options.as_dict()):
        sys.stdout.write(text + "\n")


def sample(
    ckpt_path: str,
    prompt: str = "",
    length: int = 500,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int | None = 200,
    seed: int = 0,
    device: str = "auto",
    encoding_dir: str | None = None,
    config: str | None = None,
) -> list[str]:
    """Continue a text with the model of a checkpoint; needs no data.

    Args:
        ckpt_path: Checkpoint of a run with `LanguageModel`.
        prompt: Text to continue; without one the model starts anew.
        length: Tokens to write, at least 1.
        samples: Number of continuations, each with randomness of its own, at least 1.
        temperature: Below 1 likely tokens become likelier; 0 always takes the likeliest.
        top_k: Only the so many likeliest tokens are drawn; null for all.
        seed: Seed of the randomness, at least 0.
        device: Where to run, such as cpu, cuda or mps; auto takes a GPU if there is one.
        encoding_dir: Folder with GPT-2's encoder.json and vocab.bpe, for models of its tokens; null takes tiktoken's.
        config: Config with the model; null takes config.yaml of the checkpoint's run folder.

    Returns:
        Prompt and continuation, as often as asked for.

    Raises:
        FileNotFoundError: if the checkpoint or the config is missing.
        ValueError: if an option is out of range, or the checkpoint is of another kind.
    """
    check_sampling(temperature, top_k)
    for name, value, minimum in (("length", length, 1), ("samples", samples, 1), ("seed", seed, 0)):
        if value < minimum:
            raise ValueError(f"--{name} must be at least {minimum}, got {value}")
    path = Path(ckpt_path)
    content = read_checkpoint(path)
    model = _model(path, content, None if config is None else Path(config))
    description = content.get("tokenizer")
    if description is None:
        raise ValueError(f"{path} does not say what its tokens are: it was not trained on a text data set of Steepest")
    tokenizer = tokenizer_from(description, encoding_dir)
    where = _device(device)
    model = model.to(where).eval()
    beginning = tokenizer.encode(prompt).astype("int64") if prompt else [tokenizer.start]
    drawn = model.sample(
        torch.as_tensor(beginning, device=where).repeat(samples, 1),
        length,
        vocabulary_size=tokenizer.vocabulary_size,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator(where).manual_seed(seed),
    )
    skipped = 0 if prompt else 1  # the token that stands for an empty beginning is not text
    return [tokenizer.decode(row[skipped:]) for row in drawn.tolist()]


def _model(path: Path, content: dict[str, Any], config: Path | None) -> LanguageModel:
    """The model that a config describes, with the weights of a checkpoint."""
    parser = Parser(prog="steepest sample")
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    entry = entry_of(config_of(path, content) if config is None else config, "model")
    model = parser.instantiate_classes(parser.parse_object(Namespace(model=entry)))["model"]
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{config or path} is for {type(model).__name__}: `steepest sample` needs a LanguageModel")
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise ValueError(f"the weights of {path} do not fit the model of the config: {lines[-1].strip()}") from None
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"--device {name!r} is not available: {reason}") from None
    return device


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        fail(explain(message, None, option_names(self)), BAD_INPUT)
        raise AssertionError("not reached")
