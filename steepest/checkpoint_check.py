"""What must agree between a checkpoint and the command that loads it."""

from pathlib import Path
from typing import Any

from callbacks.checkpoints import read_checkpoint
from steepest.commands import COMMANDS

# Where files lie and how fast the network and the optimizer run do not make another run.
_IRRELEVANT = (".data_dir", ".download", ".encoding_dir", ".sample_length", ".compile", ".compiled")


def check_checkpoint(path: Path, chosen: dict[str, Any], command: str) -> dict[str, Any]:
    """Refuse a checkpoint of another model or of a run with other options.

    Args:
        path: The checkpoint.
        chosen: Options of this command as plain values: model, data, seed_everything, optimizer, schedule and so on.
        command: Its name; see `Command.compared`.

    Returns:
        What the resumed run notes of its parent: the checkpoint's path and step.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the checkpoint is damaged, or differs; the message names the first difference.
    """
    content = read_checkpoint(path)
    stored = content.get("steepest", {}).get("chosen")
    if stored is not None:
        differences: list[str] = []
        for key in COMMANDS[command].compared:
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
