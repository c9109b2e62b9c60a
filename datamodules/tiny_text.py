"""A small text that comes with scikit-learn: no download, a run takes seconds."""

from pathlib import Path
from typing import Any

from steepest.datamodules.text import Split, TextDataModule


class TinyText(TextDataModule):
    """English prose of some 43,000 characters: the descriptions of the data sets in scikit-learn, in alphabetic order.

    Args:
        validation_size: End of the text that is kept for validation: a count of characters or a fraction in [0, 1).
        test_size: End of the text that is kept for testing, in the same way.
        **kwargs: See `TextDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(self, validation_size: int | float = 0.1, test_size: int | float = 0.1, **kwargs: Any) -> None:
        super().__init__(validation_size=validation_size, test_size=test_size, **kwargs)

    def sources(self) -> dict[Split, list[Path]]:
        """Return the files of scikit-learn."""
        import sklearn  # here, as it takes a second that other data sets need not pay

        return {"train": sorted((Path(sklearn.__file__).parent / "datasets" / "descr").glob("*.rst"))}
