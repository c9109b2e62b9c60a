"""The config of the run that wrote a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def config_of_run(checkpoint: Path, content: Mapping[str, Any]) -> Path:
    """Find the resolved config of a checkpoint's run: in its run folder, or where it was when the run wrote it.

    Args:
        checkpoint: The checkpoint's path, `<run folder>/checkpoints/<name>.ckpt`.
        content: What it holds.

    Raises:
        FileNotFoundError: if there is none; the message names the places.
    """
    noted = content.get("steepest", {}).get("config")
    places = [checkpoint.parent.parent / "config.yaml", *([Path(noted)] if noted else [])]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no config of {checkpoint} at {' or '.join(map(str, places))}: give it with --config")
    return found


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
