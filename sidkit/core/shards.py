"""Work in shards: rows split by a stable hash of their key, done by several workers, and put together.

A worker writes its shard as a folder ``<number>-of-<shards>`` with a manifest that names the inputs; a finished shard is not
done again. Shards are put together only if all are there and were made from the inputs that are there now.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError, ProcessesError
from sidkit.core.files import remove, sync
from sidkit.core.integrity import MANIFEST, read_sealed, seal_folder, verify_all

HASH = "md5, its last 8 bytes as a big-endian number, modulo the shards"
"""What decides the shard of a key; noted in each shard."""
_MOST = 1000


@dataclass(frozen=True)
class Shard:
    """One of several shards: ``number`` of ``of``, from 1.

    Examples
    --------
    >>> from sidkit.core.shards import Shard
    >>> shard = Shard.parse("2/3")
    >>> shard, str(shard)
    (Shard(number=2, of=3), '2/3')
    >>> [shard.has(key) for key in ("i1", "i2", "i3")]
    [False, False, True]
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``K/N``.

        Raises
        ------
        ConfigError
            When it is something else, or K is not in 1..N.
        """
        found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.of <= _MOST:
            raise ConfigError(f"expected a shard as K/N with 1 <= K <= N <= {_MOST}, such as 1/4, got {text!r}")
        return shard

    def has(self, key: str) -> bool:
        """Whether a key belongs to this shard."""
        lower = hashlib.md5(key.encode(), usedforsecurity=False).digest()[8:]
        return int.from_bytes(lower, "big") % self.of == self.number - 1

    def sql(self, key: str) -> str:
        """The same as a condition of DuckDB on an SQL expression of type VARCHAR."""
        # Not DuckDB's own hash(), which its releases may change; nor md5_number_lower(), whose byte order is the machine's.
        return f"CAST('0x' || substr(md5({key}), 17) AS UBIGINT) % {self.of} = {self.number - 1}"


def check_shards(shards: int) -> None:
    """Check a number of shards.

    Raises
    ------
    ConfigError
        When it is below 1 or above 1,000.
    """
    if not 1 <= shards <= _MOST:
        raise ConfigError(f"expected 1 to {_MOST} shards, got {shards}; pass the number of workers")


@dataclass(frozen=True)
class Shards:
    """The shards of one piece of work.

    Parameters
    ----------
    folder : Path
        Where they are written.
    of : int
        Number of shards.
    inputs : mapping
        JSON values that determine the result, such as hashes of files; a shard that was made from others is not used.
    command : sequence of str
        Arguments of ``sidkit`` that make a shard, but ``--shard K/N``.
    """

    folder: Path
    of: int
    inputs: Mapping[str, Any]
    command: Sequence[str]

    def path(self, number: int) -> Path:
        """Folder of a finished shard."""
        return self.folder / f"{number}-of-{self.of}"

    def line(self, number: int) -> str:
        """The command that makes a shard."""
        import shlex

        return shlex.join(["sidkit", *self.command, "--shard", f"{number}/{self.of}"])

    def is_finished(self, number: int) -> bool:
        """Whether a shard was made from these inputs and is intact."""
        try:
            self._verify(number)
        except (ArtifactMissingError, ArtifactCorruptError, ProcessesError):
            return False
        return True

    def make(self, number: int, write: Callable[[Path], None]) -> bool:
        """Make a shard unless it is finished; returns whether it was made.

        Parameters
        ----------
        number : int
            The shard, from 1.
        write : callable
            Writes the files into the new folder that it receives.
        """
        if self.is_finished(number):
            return False
        temporary = self.folder / f".{number}-of-{self.of}-{os.getpid()}"
        remove(temporary)
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            seal_folder(temporary, {**self._stated, "number": number})
            for file in temporary.iterdir():
                sync(file)
            if not self.is_finished(number):  # else another worker was faster
                remove(self.path(number))
                temporary.rename(self.path(number))
        finally:
            remove(temporary)
        return True

    def read(self) -> list[Path]:
        """The folders of all shards.

        Raises
        ------
        ArtifactMissingError
            When shards are missing: names them and the commands that make them.
        ProcessesError
            When a shard was made from other inputs: names what differs.
        ArtifactCorruptError
            When a shard is damaged.
        """
        missing = [number for number in range(1, self.of + 1) if not (self.path(number) / MANIFEST).is_file()]
        if missing:
            listed = ", ".join(f"{number}/{self.of}" for number in missing)
            lines = "; ".join(f"`{self.line(number)}`" for number in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ArtifactMissingError(
                f"expected {self.of} shards in {self.folder}, got {self.of - len(missing)}: {listed} missing; make them with "
                f"{lines}{more}"
            )
        for number in range(1, self.of + 1):
            self._verify(number)
        return [self.path(number) for number in range(1, self.of + 1)]

    def make_here(self) -> None:
        """Make all shards that are not finished, each in a process of its own on this machine.

        Raises
        ------
        ProcessesError
            When a worker failed or was killed; the shards of the others are finished then.
        """
        open_numbers = [number for number in range(1, self.of + 1) if not self.is_finished(number)]
        workers: dict[int, subprocess.Popen[bytes]] = {}
        failed: list[tuple[int, int]] = []
        try:
            for number in open_numbers:
                arguments = [*self.command, "--shard", f"{number}/{self.of}"]
                workers[number] = subprocess.Popen(
                    [sys.executable, "-m", "sidkit", *arguments], stdout=subprocess.DEVNULL
                )
            failed = [(number, worker.returncode) for number, worker in workers.items() if worker.wait()]
        finally:
            for worker in workers.values():
                if worker.poll() is None:
                    with suppress(OSError):
                        worker.terminate()
                    worker.wait()
        if failed:
            listed = ", ".join(f"{number}/{self.of} (exit code {code})" for number, code in failed)
            raise ProcessesError(
                f"expected {len(open_numbers)} workers to finish, but those of these shards did not: {listed}. Start the same "
                f"command again, which makes only the missing shards, or make one with `{self.line(failed[0][0])}`"
            )

    def remove(self) -> None:
        """Remove all shards of this work, after they were put together."""
        remove(self.folder)

    @property
    def _stated(self) -> dict[str, Any]:
        return {"of": self.of, "hash": HASH, "inputs": dict(self.inputs)}

    def _verify(self, number: int) -> None:
        folder = self.path(number)
        if not (folder / MANIFEST).is_file():
            raise ArtifactMissingError(f"{folder} is missing; make it with `{self.line(number)}`")
        remedy = f"delete the folder and run `{self.line(number)}`"
        try:
            stated = read_sealed(folder / MANIFEST)
            verify_all(folder, stated)
        except ArtifactCorruptError as error:
            raise ArtifactCorruptError(error.path, error.problem, remedy) from error
        made_from, now = stated.get("inputs", {}), dict(self.inputs)
        differ = sorted(key for key in {*made_from, *now} if made_from.get(key) != now.get(key))
        differ += [key for key in ("of", "hash") if stated.get(key) != self._stated[key]]
        if differ:
            raise ProcessesError(
                f"expected shard {number}/{self.of} in {self.folder} to be made from the present inputs, got others: "
                f"{', '.join(differ)} differ; make it again with `{self.line(number)}`"
            )


@dataclass(frozen=True)
class ShardedWork:
    """How a command works in shards."""

    shards: int
    """Number of shards."""
    merge: bool = False
    """Only put together what workers elsewhere have made; otherwise, processes of this machine make what is missing."""
    command: tuple[str, ...] = ()
    """Arguments of ``sidkit`` that make a shard, where the work itself does not know them."""

    def folders(self, shards: Shards) -> list[Path]:
        """The folders of all shards.

        Raises
        ------
        ArtifactMissingError, ProcessesError, ArtifactCorruptError
            See :meth:`Shards.read` and :meth:`Shards.make_here`.
        """
        if not self.merge:
            shards.make_here()
        return shards.read()

    @classmethod
    def stated(cls, shards: int | None, merge: bool, command: Sequence[str] = ()) -> ShardedWork | None:
        """The options ``--shards`` and ``--merge``, and the command that makes a shard; None without shards.

        Raises
        ------
        ConfigError
            When the number is not in 1..1,000, or there is only ``--merge``.
        """
        if shards is None:
            if merge:
                raise ConfigError("expected --shards N with --merge, got --merge alone; pass the number of shards")
            return None
        check_shards(shards)
        return cls(shards, merge, tuple(command))
