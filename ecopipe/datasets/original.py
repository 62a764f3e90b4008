"""One file of a corpus, by path or URL, as bytes at offsets.

A plain file is read in place. One that is compressed (gzip, bzip2, xz) or lies at a URL is brought once into an
anonymous temporary file (``TMPDIR`` says where, and needs room for it) and read from there. There is no position that
readers share: threads, forked processes and pickled copies read alike.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import tempfile
import threading
import zlib
from typing import IO, Any, cast

from ecopipe.storage import files
from ecopipe.storage.retries import without_credentials
from ecopipe.vocabulary.errors import CorpusError, EcopipeError, OutputError

FETCH_AGAIN = "Fetch the file again, and compare its size or checksum with its publisher's."
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""What decompressing raises on damaged bytes, beside OSError."""

MOST_UNPACKED, MOST_RATIO = 1 << 30, 250
"""A compressed file that unpacks to more than so many bytes, and so many times its own, is a decompression bomb."""

_PIECE = 1 << 20
_OPENERS: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_opening = threading.Lock()


class Original:
    """The bytes of one file, decompressed if it is compressed.

    Args:
        path: A path or a URL.
        encoding: Of a text that is wanted in UTF-8; empty for the bytes as they are.

    Raises:
        CorpusError: It cannot be read, is damaged, or unpacks to absurdly much.
        OutputError: There is no room for the temporary file.
    """

    def __init__(self, path: str, *, encoding: str = "") -> None:
        self.path, self._encoding = path, encoding
        self.name = without_credentials(path)
        """How messages call it."""
        self._closed = False
        self._file: IO[bytes] | None = None
        self.size = os.fstat(self._descriptor()).st_size
        """Bytes, after decompression."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; of the temporary one nothing stays."""
        self._closed = True
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            file.close()

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes at an offset; fewer where the file ends before.

        Raises:
            CorpusError: The file cannot be read, or has been closed.
        """
        descriptor = self._descriptor()
        try:
            data = os.pread(descriptor, size, offset)
            while len(data) < size:  # one call may return less than asked for, and never more than 2 GiB
                more = os.pread(descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise CorpusError(f"{self.name} cannot be read: {error.strerror or error}. Check the disk.") from error
        return data

    def stream(self, offset: int = 0) -> io.BufferedReader:
        """The bytes from an offset on, with a position of its own."""
        return io.BufferedReader(_Positioned(self, offset), _PIECE)

    def _descriptor(self) -> int:
        file = self._file
        if file is None:
            with _opening:
                if self._closed:
                    raise CorpusError(f"{self.name} has been closed. Open the corpus again to read on.")
                file = self._file = self._file or self._open()
        return file.fileno()

    def _open(self) -> IO[bytes]:
        remote = files.is_url(self.path)
        try:
            source = cast(IO[bytes], files.open_binary(self.path))
            head = source.read(6)
            source.seek(0)
            opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
            file = source
            if remote or opener is not None or self._encoding:
                with source:
                    file = self._copied(source, opener)
        except EcopipeError:
            raise
        except Exception as error:  # each protocol has errors of its own
            if not (remote or isinstance(error, OSError)):
                raise
            remedy = "Check the address" if remote else "Give yourself permission to read it, or check the path"
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CorpusError(without_credentials(f"{self.name} cannot be read: {reason}. {remedy}.")) from error
        size = os.fstat(file.fileno()).st_size
        if getattr(self, "size", size) != size:
            file.close()
            raise CorpusError(
                f"{self.name} has {size:,} bytes, and had {self.size:,} when the corpus was opened. Open it again."
            )
        return file

    def _copied(self, source: IO[bytes], opener: Any) -> IO[bytes]:
        """All that ``source`` gives, in an anonymous temporary file."""
        written = 0
        try:
            target = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _no_room(self.name, written, error) from error
        try:
            unpacked = opener(source, "rb") if opener else source
            decoder = codecs.getincrementaldecoder(self._encoding)() if self._encoding else None
            ended = False
            while not ended:
                try:
                    piece = unpacked.read(_PIECE)
                    ended = not piece
                    if decoder is not None:
                        piece = decoder.decode(piece, final=ended).encode()
                except UnicodeError as error:
                    raise CorpusError(
                        f"{self.name}: is not text in {self._encoding} ({error}). Set encoding, such as "
                        f"encoding=latin-1."
                    ) from error
                except (OSError, *DAMAGED) as error:
                    if not opener:
                        raise
                    raise CorpusError(
                        f"{self.name} is damaged or incomplete: decompressing it failed after {written:,} bytes "
                        f"({error}). {FETCH_AGAIN}"
                    ) from error
                written += len(piece)
                if opener:
                    refuse_bomb(self.name, written, source.tell())
                try:
                    target.write(piece)
                    target.flush()
                except OSError as error:
                    raise _no_room(self.name, written, error) from error
            return target
        except BaseException:
            target.close()
            raise


class _Positioned(io.RawIOBase):
    """A file that is read from one position on, which nobody else moves."""

    def __init__(self, original: Original, offset: int) -> None:
        self._original, self._at = original, offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._original.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._original.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def refuse_bomb(path: str, unpacked: int, packed: int) -> None:
    """Refuses what is far larger unpacked than any corpus is.

    Args:
        path: For the message.
        unpacked: Bytes after decompression.
        packed: Bytes before.

    Raises:
        CorpusError: It is a bomb by :data:`MOST_UNPACKED` and :data:`MOST_RATIO`.
    """
    if unpacked > MOST_UNPACKED and unpacked > MOST_RATIO * packed:
        raise CorpusError(
            f"{path} is refused: its {packed:,} bytes unpack to {unpacked:,} or more, over {MOST_RATIO} times as much, "
            f"as a decompression bomb's do. If you trust it, unpack it yourself and give the folder or file."
        )


def _no_room(path: str, written: int, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be brought into a temporary file in {tempfile.gettempdir()}: {error.strerror or error} "
        f"after {written:,} bytes. Free some space, set TMPDIR to a folder with more, or unpack it yourself "
        f"and give the folder or file."
    )
