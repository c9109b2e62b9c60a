"""Shakespeare by characters: the small language-modelling task of char-rnn and nanoGPT."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from steepest.datamodules.download import download
from steepest.datamodules.text import Split, TextDataModule

FILE = "input.txt"
BYTES = 1_115_394
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # its MD5: 6fb458f1232090904fb40fe944165e91
MIRRORS = ["https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"]
VOCABULARY_SIZE = 65


class ShakespeareCharacters(TextDataModule):
    """40,000 lines of Shakespeare's plays, 1,115,394 characters, 65 different ones (Karpathy 2015).

    The file `input.txt` is taken from `data_dir/tinyshakespeare` or `data_dir`; otherwise it is downloaded into the
    first, with checked digest. A file that is there is taken as it is, also another text. The last tenth is for
    validation, as in nanoGPT: 1,003,854 characters for training, 111,540 for validation.

    Args:
        data_dir: Folder of the data sets.
        download: Whether a missing file is downloaded.
        mirrors: Addresses of folders (http, https, file) that are tried in turn; null takes char-rnn's repository.
        **kwargs: See `TextDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self, data_dir: str | Path = "data", download: bool = True, mirrors: list[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if mirrors is not None and not mirrors:
            raise ValueError("mirrors must name at least one address, or be null for char-rnn's repository; got []")
        self.data_dir = Path(data_dir).expanduser()
        self.download = download
        self.mirrors = mirrors

    @property
    def vocabulary_size(self) -> int:
        """Number of different characters; known before the file is there."""
        return super().vocabulary_size if self._find() else VOCABULARY_SIZE

    def prepare_data(self) -> None:
        """Download the file if it is missing.

        Raises:
            FileNotFoundError: If the file is missing and `download` is false.
            OSError: If no mirror has a good copy, or the folder cannot be written.
        """
        found = self._find()
        if found is None:
            if not self.download:
                raise FileNotFoundError(self._missing())
            download(FILE, SHA256, self.mirrors or MIRRORS, self._folders()[0])
        elif found.stat().st_size != BYTES:
            rank_zero_info(f"{found} is not the usual text of {BYTES:,} bytes: it is taken as it is")

    def sources(self) -> dict[Split, list[Path]]:
        """Return the file.

        Raises:
            FileNotFoundError: If it is missing.
        """
        found = self._find()
        if found is None:
            raise FileNotFoundError(self._missing())
        return {"train": [found]}

    def _folders(self) -> list[Path]:
        return [self.data_dir / "tinyshakespeare", self.data_dir]

    def _find(self) -> Path | None:
        return next((path for folder in self._folders() if (path := folder / FILE).is_file()), None)

    def _missing(self) -> str:
        return f"{FILE} is in none of {', '.join(map(str, self._folders()))}; put it there, or set download to true"
