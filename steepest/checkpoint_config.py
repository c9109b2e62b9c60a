"""The config of the run that a checkpoint belongs to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from callbacks.checkpoints import read_checkpoint
from steepest.parsing import given_value
from steepest.run_folder import newest_checkpoint

CONFIG = "config.yaml"


def run_folder_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint; beside the checkpoint if it lies in no `checkpoints` folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def config_of(checkpoint: Path, content: Mapping[str, Any] | None = None) -> Path:
    """The resolved config of the run that a checkpoint belongs to.

    Args:
        checkpoint: The checkpoint's path.
        content: What it holds, if it has been read already.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or no config of its run.
        ValueError: if the checkpoint is damaged.
    """
    stored = (content or read_checkpoint(checkpoint)).get("steepest", {}).get("config")
    # Beside the checkpoint first: a run folder may have been moved or copied since.
    for path in (run_folder_of(checkpoint) / CONFIG, *([Path(stored)] if stored is not None else [])):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{checkpoint} has no config.yaml of its run at {run_folder_of(checkpoint) / CONFIG}: give --config"
    )


def with_config_of_run(words: Sequence[str]) -> list[str]:
    """The command line with the config of the checkpoint's run in front, unless one is given.

    Args:
        words: A command that takes `--ckpt_path`, and its options.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or no config of its run.
        ValueError: if no checkpoint is given, or "last" or "best" without a name of the run.
    """
    words = list(words)
    if given_value(words, "config") is not None or {"-h", "--help"} & set(words):
        return words
    given = given_value(words, "ckpt_path")
    if given is None:
        raise ValueError(f"{words[0]} needs --ckpt_path, the checkpoint of a run")
    if given in ("last", "best"):
        name = given_value(words, "name")
        if name is None:
            raise ValueError(f"--ckpt_path {given} needs --config or --name to say which run is meant")
        given = str(newest_checkpoint(Path(given_value(words, "runs_dir") or "runs"), name, given))
    return [words[0], "--config", str(config_of(Path(given))), *words[1:]]


def read_config(path: Path, key: str) -> Any:
    """One entry of a config file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a config or has no such entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict) or content.get(key) is None:
        raise ValueError(f"--config: {path} has no `{key}`")
    return content[key]
