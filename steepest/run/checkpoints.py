"""The run that a checkpoint belongs to: its folder, its config, and whether a resumed run has the same options."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.former_names import use_present_paths
from steepest.parsing.words import read_config

CONFIG = "config.yaml"
# Where files lie and how fast the network and the optimizer run do not make another run.
_IRRELEVANT = (".data_dir", ".download", ".encoding_dir", ".sample_length", ".compile", ".compiled")


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


def entry_of(path: Path, key: str) -> Any:
    """One entry of a config file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a config or has no such entry.
    """
    entry = read_config(path).get(key)
    if entry is None:
        raise ValueError(f"--config: {path} has no `{key}`")
    return entry


def check_checkpoint(path: Path, chosen: dict[str, Any], compared: Sequence[str]) -> dict[str, Any]:
    """Refuse a checkpoint of another model or of a run with other options.

    Args:
        path: The checkpoint.
        chosen: Options of this command as plain values: model, data, seed_everything, optimizer, schedule and so on.
        compared: The options of these that must be the checkpoint's.

    Returns:
        What the resumed run notes of its parent: the checkpoint's path and step.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the checkpoint is damaged, or differs; the message names the first difference.
    """
    content = read_checkpoint(path)
    stored = content.get("steepest", {}).get("chosen")
    use_present_paths(stored)
    if stored is not None:
        differences: list[str] = []
        for key in compared:
            differences += _differences(key, stored.get(key), chosen.get(key))
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise ValueError(
                f"{path} belongs to a run with other options: {differences[0]}{more}; give the same options, or "
                f"--config {content['steepest'].get('config') or 'the config.yaml of its run folder'}"
            )
    return {"checkpoint": str(path), "global_step": content.get("global_step")}


def _differences(key: str, stored: Any, given: Any) -> list[str]:
    if key.endswith(_IRRELEVANT):
        return []
    if isinstance(stored, dict) and isinstance(given, dict):
        names = [*stored, *(name for name in given if name not in stored)]
        # Another class makes every option of it differ: its name says it all.
        if stored.get("class_path") != given.get("class_path"):
            names = ["class_path"]
        return [line for name in names for line in _differences(f"{key}.{name}", stored.get(name), given.get(name))]
    if stored == given:
        return []
    option = "--" + key.replace(".init_args", "").removesuffix(".class_path")
    return [f"{option} was {_shown(stored)}, now {_shown(given)}"]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("class_path", value)
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if value.replace(".", "").replace("_", "").isalnum() else repr(value)
    return str(value)
