"""Training processes that share the rows of every batch: started by ``torchrun``, or a single one.

Gradients are summed explicitly instead of by ``DistributedDataParallel``: that sums no sparse gradients under NCCL, expects
batches of equal size, and sees only ``forward``, while auxiliary losses are computed outside of it. All processes hold the same
weights, optimizer state and random numbers; process 0 writes what is written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.shares import WHOLE, Part
from ranking.training.device import training_device
from ranking.training.launch import launched_processes
from sidkit.core.arrays import Doubles
from sidkit.core.errors import ConfigError, ProcessesError

_STEP = timedelta(minutes=30)
"""Longest wait for another process within a training."""
_IDLE = timedelta(days=7)
"""Longest wait of a process for the next training, while process 0 builds features."""


class Processes:
    """A single process: nothing is exchanged."""

    part: Part = WHOLE

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which writes files."""
        return self.part.number == 0

    def device(self, name: str) -> torch.device:
        """The device of this process; see :func:`ranking.training.device.training_device`."""
        return training_device(name)

    def check_same(self, facts: Any) -> None:
        """Check that all processes state the same JSON value.

        Raises
        ------
        ProcessesError
            When they differ.
        """

    def share_weights(self, model: nn.Module) -> None:
        """Copy parameters and buffers of process 0 to all."""

    def share_state(self, model: nn.Module) -> None:
        """Copy buffers and the state of the random numbers of process 0 to all, after an epoch."""

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its sum over all processes."""

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return value

    def joined(self, values: Doubles) -> Doubles:
        """Concatenate ``float64 [rows]`` of all processes, in their order."""
        return values

    def agreed(self, value: Any) -> Any:
        """The JSON value of process 0."""
        return value


ALONE = Processes()


class JoinedProcesses(Processes):
    """Several processes of ``torchrun``: gloo between CPUs, NCCL between GPUs.

    Make it by :func:`joined_processes`. Every method is to be called by all processes in the same order.

    Raises
    ------
    ProcessesError
        In each method, when another process stopped or does not answer within 30 minutes.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.part = Part(dist.get_rank(), dist.get_world_size())
        self._steps = dist.new_group(timeout=_STEP, backend="gloo")
        self._on_gpu: Any = None

    def device(self, name: str) -> torch.device:
        """One GPU per process of a machine, or the CPU.

        Raises
        ------
        ConfigError
            When there are fewer GPUs than processes on this machine.
        """
        device = training_device(name)
        if device.type == "cpu":
            return device
        local, beside = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        if torch.cuda.device_count() < beside:
            raise ConfigError(
                f"expected a GPU for each of the {beside} processes of this machine, got {torch.cuda.device_count()}; start "
                f'torchrun with --nproc-per-node {torch.cuda.device_count()}, or set training.device = "cpu" in the preset'
            )
        torch.cuda.set_device(local)
        if self._on_gpu is None:
            with _talking():
                self._on_gpu = self._dist.new_group(timeout=_STEP, backend="nccl")
        return torch.device("cuda", local)

    def check_same(self, facts: Any) -> None:
        """See :class:`Processes`."""
        first = self.agreed(facts)
        differ = self.total(float(first != json.loads(json.dumps(facts))))
        if differ:
            raise ProcessesError(
                f"expected the same rows and settings in all {self.part.of} processes, got others in {differ:.0f} of them; "
                "give all machines the same repository and the same versions of sidkit and torch"
            )

    def share_weights(self, model: nn.Module) -> None:
        """See :class:`Processes`."""
        for tensor in model.state_dict().values():
            self._broadcast(tensor)

    def share_state(self, model: nn.Module) -> None:
        """See :class:`Processes`."""
        for buffer in model.buffers():
            self._broadcast(buffer)
        for read, write in _random_states():
            state = read()
            self._broadcast(state)
            write(state)

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum dense gradients in one exchange of all; sparse ones by gathering the rows that have any.

        A gradient that no process has stays None, so that the optimizer skips its parameter.
        """
        by_row = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding) and each.sparse}
        parameters = list(model.parameters())
        with _talking():
            self._sum_dense([each for each in parameters if id(each) not in by_row])
            self._sum_sparse([each for each in parameters if id(each) in by_row])

    def _sum_dense(self, parameters: Sequence[nn.Parameter]) -> None:
        if not parameters:
            return
        device = parameters[0].device
        has = torch.tensor([float(each.grad is not None) for each in parameters], device=device)
        grads = [
            each.grad.reshape(-1) if each.grad is not None else each.new_zeros(each.numel()) for each in parameters
        ]
        flat = torch.cat([has, *grads])
        self._dist.all_reduce(flat, group=self._group(flat))
        summed = torch.split(flat[len(parameters) :], [each.numel() for each in parameters])
        for parameter, any_has, gradient in zip(parameters, flat[: len(parameters)].tolist(), summed, strict=True):
            parameter.grad = gradient.view_as(parameter) if any_has else None

    def _sum_sparse(self, parameters: Sequence[nn.Parameter]) -> None:
        grads = [each.grad.coalesce() if each.grad is not None else None for each in parameters]
        counts = torch.tensor([0 if each is None else each.values().shape[0] for each in grads])
        every = torch.zeros((self.part.of, len(parameters)), dtype=counts.dtype)
        if len(parameters):
            self._dist.all_gather(list(every.unbind(0)), counts, group=self._steps)
        for at, (parameter, gradient) in enumerate(zip(parameters, grads, strict=True)):
            rows = every[:, at].tolist()
            if not max(rows):
                parameter.grad = None
                continue
            index = torch.zeros(0, dtype=torch.int64, device=parameter.device)
            values = parameter.new_zeros((0, parameter.shape[1]))
            if gradient is not None:
                index, values = gradient.indices()[0], gradient.values()
            index, values = self._gathered(index, rows), self._gathered(values, rows)
            parameter.grad = torch.sparse_coo_tensor(index[None], values, parameter.shape, check_invariants=False)

    def total(self, value: float) -> float:
        """See :class:`Processes`."""
        summed = torch.tensor([value], dtype=torch.float64)
        with _talking():
            self._dist.all_reduce(summed, group=self._steps)
        return float(summed.item())

    def joined(self, values: Doubles) -> Doubles:
        """See :class:`Processes`."""
        own = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.part.of)]
        with _talking():
            self._dist.all_gather(counts, torch.tensor([len(own)]), group=self._steps)
            return self._gathered(own, [int(each.item()) for each in counts]).numpy()

    def agreed(self, value: Any) -> Any:
        """See :class:`Processes`."""
        return self._sent(value, self._steps)

    def send(self, task: Any) -> None:
        """Process 0: give a JSON value to all others, which wait in :meth:`receive`."""
        self._sent(task, None)

    def receive(self) -> Any:
        """Wait for the JSON value that process 0 sends, up to 7 days."""
        return self._sent(None, None)

    def _sent(self, value: Any, group: Any) -> Any:
        text = json.dumps(value).encode() if self.leads else b""
        length = torch.tensor([len(text)])
        with _talking():
            self._dist.broadcast(length, 0, group=group)
            letters = torch.zeros(int(length.item()), dtype=torch.uint8)
            if self.leads:
                letters = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            self._dist.broadcast(letters, 0, group=group)
        return json.loads(letters.numpy().tobytes())

    def _gathered(self, own: Tensor, rows: list[int]) -> Tensor:
        """Concatenate tensors of all processes that have so many rows."""
        padded = own.new_zeros((max(rows), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in rows]
        self._dist.all_gather(parts, padded, group=self._group(own))
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def _broadcast(self, tensor: Tensor) -> None:
        if not tensor.numel():
            return
        whole = tensor.detach().contiguous()
        as_bytes = whole.view(-1).view(torch.uint8)
        with _talking():
            self._dist.broadcast(as_bytes, 0, group=self._group(tensor))
        if whole.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(whole)

    def _group(self, tensor: Tensor) -> Any:
        return self._on_gpu if tensor.device.type == "cuda" else self._steps


def _random_states() -> list[tuple[Any, Any]]:
    states: list[tuple[Any, Any]] = [(torch.get_rng_state, torch.set_rng_state)]
    if torch.cuda.is_available():
        states.append((torch.cuda.get_rng_state, torch.cuda.set_rng_state))
    return states


@contextmanager
def _talking() -> Iterator[None]:
    """Turn a lost connection to another process into an error with advice."""
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        raise ProcessesError(
            f"expected an answer of every training process, but one stopped or does not respond ({_first_line(error)}). Its "
            "own message says why; start the same command again, which resumes after the last finished epoch"
        ) from error


def _first_line(error: Exception) -> str:
    """The first sentence, without the place in the source of gloo."""
    text = re.sub(r"^\[\S+\.cc:\d+\] ", "", str(error).strip()) or type(error).__name__
    return re.split(r"\n|\. ", text)[0][:200]


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; a process that was started by itself is alone.

    Raises
    ------
    ConfigError
        When this build of torch cannot exchange tensors between CPUs.
    ProcessesError
        When the other processes cannot be reached.
    """
    if (started := launched_processes()) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise ConfigError(
            f"expected a build of torch with gloo, to train in {started} processes, got torch "
            f"{torch.__version__} without it; install another build, or start the command without torchrun"
        )
    with _talking():
        dist.init_process_group("gloo", timeout=_IDLE)
    try:
        yield JoinedProcesses()
    finally:
        dist.destroy_process_group()
