import gzip
import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.datamodules.mnist import FILES, MNIST, FashionMNIST

TRAIN, TEST = 30, 10


def encode(tensor: torch.Tensor) -> bytes:
    return (
        bytes([0, 0, 8, tensor.ndim]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape) + tensor.numpy().tobytes()
    )


def contents(seed: int = 0) -> dict[str, bytes]:
    """Return small files of the right form by their names."""
    generator = torch.Generator().manual_seed(seed)
    files = {}
    for part, samples in (("train", TRAIN), ("t10k", TEST)):
        images = torch.randint(0, 256, (samples, 28, 28), dtype=torch.uint8, generator=generator)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(encode(images), mtime=0)
        labels = torch.randint(0, 10, (samples,), dtype=torch.uint8, generator=generator)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(encode(labels), mtime=0)
    return files


class SmallMNIST(MNIST):
    """The real code with the digests of the small files."""

    @classmethod
    def resources(cls):
        return [], {name: hashlib.md5(content).hexdigest() for name, content in contents().items()}


def write(folder: Path, files: dict[str, bytes], *, plain: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (name.removesuffix(".gz") if plain else name)
        path.write_bytes(gzip.decompress(content) if plain else content)
    return folder


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests/datamodules/test_every_data_set.py: options that find the small files written here."""
    return {"data_dir": write(folder, contents()), "validation_size": 10}


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts a server and returns its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(handler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


class Truncating(BaseHTTPRequestHandler):
    def do_GET(self):
        content = contents()[self.path.strip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, format, *args):
        pass


def all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def refuse(data: MNIST, *words: str) -> None:
    """Check that the download fails in one line with these words, and leaves nothing."""
    with pytest.raises(ConnectionError) as raised:
        data.prepare_data()
    message = str(raised.value)
    assert "\n" not in message
    for word in (FILES[0], str(data.data_dir / "MNIST/raw" / FILES[0]), *words):
        assert word in message
    assert all_files(data.data_dir) == []


# Finding and reading


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("cls", "folder"),
    [
        *[(MNIST, folder) for folder in ("MNIST/raw", "mnist", ".")],
        *[(FashionMNIST, folder) for folder in ("FashionMNIST/raw", "fashion-mnist", ".")],
    ],
)
def test_files_are_found_where_people_keep_them(tmp_path, cls, folder, plain):
    write(tmp_path / folder, contents(), plain=plain)
    data = cls(data_dir=str(tmp_path), mirrors=["http://127.0.0.1:9/"])
    before = all_files(tmp_path)
    data.prepare_data()
    assert all_files(tmp_path) == before
    for train, samples in ((True, TRAIN), (False, TEST)):
        images, labels = data.load(train)
        name = "train" if train else "t10k"
        pixels = gzip.decompress(contents()[f"{name}-images-idx3-ubyte.gz"])[16:]
        assert images.shape == (samples, 1, 28, 28)
        assert images.numpy().tobytes() == pixels
        assert labels.tolist() == list(gzip.decompress(contents()[f"{name}-labels-idx1-ubyte.gz"])[8:])
        assert labels.dtype == torch.int64


def test_files_of_two_folders_are_not_mixed(tmp_path):
    own, other = contents(0), contents(1)
    write(tmp_path / "MNIST/raw", {name: own[name] for name in FILES[:2]})
    write(tmp_path, {name: other[name] for name in FILES[2:]})
    data = SmallMNIST(tmp_path, mirrors=[write(tmp_path.with_name("mirror"), own).as_uri()])
    with pytest.raises(FileNotFoundError):
        data.load(train=False)
    data.prepare_data()
    assert {path.name: path.read_bytes() for path in all_files(tmp_path / "MNIST/raw")} == own


def test_missing_files_without_download(tmp_path):
    data = FashionMNIST(tmp_path, download=False)
    for action in (data.prepare_data, lambda: data.load(train=True)):
        with pytest.raises(FileNotFoundError, match="FashionMNIST is not complete") as raised:
            action()
        assert "\n" not in str(raised.value)
        assert str(tmp_path / "FashionMNIST/raw") in str(raised.value)
        assert all(name in str(raised.value) for name in FILES)


def test_loaders(tmp_path):
    write(tmp_path, contents())
    data = MNIST(tmp_path, batch_size=4, validation_size=6)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 1, 28, 28)
    assert labels.shape == (4,)
    assert len(data.train_dataloader()) == (TRAIN - 6) // 4
    normalized = (data.load(train=False)[0].float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(torch.cat(list(data.predict_dataloader())), normalized)


def test_images_and_labels_must_fit_together(tmp_path):
    files = contents()
    files[FILES[1]] = gzip.compress(encode(torch.zeros(7, dtype=torch.uint8)), mtime=0)
    write(tmp_path, files)
    with pytest.raises(ValueError, match="30 images but 7 labels"):
        MNIST(tmp_path, validation_size=0).setup("fit")


def test_empty_mirrors_are_refused():
    with pytest.raises(ValueError, match="mirrors"):
        MNIST(mirrors=[])


def test_the_published_files_are_the_four(tmp_path):
    for cls in (MNIST, FashionMNIST):
        mirrors, digests = cls.resources()
        assert tuple(digests) == FILES
        assert mirrors
        assert all(mirror.startswith("http") for mirror in mirrors)


# Downloading


def test_download_from_a_server(tmp_path, serve):
    mirror = serve(partial(Quiet, directory=str(write(tmp_path / "mirror", contents()))))
    data = SmallMNIST(tmp_path / "data", mirrors=[mirror], validation_size=0)
    data.prepare_data()
    raw = tmp_path / "data/MNIST/raw"
    assert {path.name: path.read_bytes() for path in all_files(tmp_path / "data")} == contents()
    assert all(path.parent == raw for path in all_files(tmp_path / "data"))
    data.setup()
    assert sum(len(labels) for _, labels in data.test_dataloader()) == TEST


def test_download_from_a_folder_and_only_what_is_missing(tmp_path):
    files = contents()
    mirror = write(tmp_path / "mirror", {FILES[3]: files[FILES[3]]})
    write(tmp_path / "data/MNIST/raw", {name: files[name] for name in FILES[:3]}, plain=True)
    data = SmallMNIST(tmp_path / "data", mirrors=[mirror.as_uri() + "/"])
    data.prepare_data()
    assert data.load(train=False)[0].shape == (TEST, 1, 28, 28)


def test_a_wrong_digest_is_refused(tmp_path, serve):
    mirror = serve(partial(Quiet, directory=str(write(tmp_path / "mirror", contents(seed=1)))))
    refuse(SmallMNIST(tmp_path / "data", mirrors=[mirror]), mirror, "digest")


def test_a_truncated_transfer_is_refused(tmp_path, serve):
    mirror = serve(Truncating)
    refuse(SmallMNIST(tmp_path / "data", mirrors=[mirror]), mirror, "IncompleteRead")


def test_a_missing_file_on_the_server_is_refused(tmp_path, serve):
    mirror = serve(partial(Quiet, directory=str(write(tmp_path / "mirror", {}))))
    refuse(SmallMNIST(tmp_path / "data", mirrors=[mirror]), mirror, "404")


def test_a_refused_connection(tmp_path, serve):
    refuse(SmallMNIST(tmp_path / "data", mirrors=["http://127.0.0.1:9/"]), "http://127.0.0.1:9/", "refused")


@pytest.mark.parametrize("mirror", ["no-address", "http://:x", "file:///nowhere/"])
def test_an_address_that_leads_nowhere(tmp_path, mirror):
    refuse(SmallMNIST(tmp_path / "data", mirrors=[mirror]), mirror)


def test_the_next_mirror_is_tried(tmp_path, serve):
    mirrors = [
        "http://127.0.0.1:9/",
        serve(Truncating),
        serve(partial(Quiet, directory=str(write(tmp_path / "bad", contents(seed=1))))),
        serve(partial(Quiet, directory=str(write(tmp_path / "good", contents())))),
    ]
    SmallMNIST(tmp_path / "data", mirrors=mirrors).prepare_data()
    assert {path.name: path.read_bytes() for path in all_files(tmp_path / "data")} == contents()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    data = SmallMNIST(tmp_path / "data", mirrors=[write(tmp_path / "mirror", contents()).as_uri()])
    with pytest.raises(OSError, match=r"cannot write .*train-images.* \(Not a directory\)") as raised:
        data.prepare_data()
    assert not isinstance(raised.value, ConnectionError)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_half_written(tmp_path):
    (tmp_path / "data/MNIST/raw" / FILES[0]).mkdir(parents=True)  # a folder has its name
    data = SmallMNIST(tmp_path / "data", mirrors=[write(tmp_path / "mirror", contents()).as_uri()])
    with pytest.raises(OSError, match="cannot write"):
        data.prepare_data()
    assert all_files(tmp_path / "data") == []
