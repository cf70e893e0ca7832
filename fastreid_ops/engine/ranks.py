# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation by several processes: torch.distributed with the little that a run needs around it.

    torchrun --nproc-per-node N -m fastreid_ops.train ...

Every rank goes through the same run. All draw the same batches (they follow from seed and epoch) and each reads its
own part of every batch; gradients are averaged by DistributedDataParallel, so all ranks hold the same weights at every
step. The first rank alone writes. `Ranks()` is a process alone: nothing here does anything then.

What an average over ranks means for a loss. A mean over images is that of the whole batch. A loss that compares the
images of a batch (batch-hard triplet) compares those of a rank's part, P / N identities of K images, as the field's
data-parallel trainers do; batch norm uses the statistics of the part (`train.sync_batch_norm`: of the whole batch).
So N ranks are one process, to rounding, where every term is a mean and no statistics are taken; otherwise they are, to
the bit for two, one that goes through the N parts of each batch one after the other, adds up their gradients and steps
with their mean. By method:

    means                                             compared within a rank's part
    identity         id                               triplet
    wrim             id                               triplet, cmkic
    deen             id, orthogonality (both)         triplet, cpm, contrastive
    agw              id                               triplet
    cloth_changing   id, correction, distillation     triplet; the clothes classifier has a batch norm
    cal              id, clothes, adversarial         pairs
    naic             id, center, parts                triplet

What a method trains by a step of its own it gives the mean of the gradients (`average_over_ranks`), and what it keeps
of the images it takes from all ranks (`rows_of_ranks`: CAL's bank). Other buffers of losses, and batch norm's running
statistics, are the first rank's after every step.
"""

import contextlib
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastreid_ops.config import Config, ConfigError
from fastreid_ops.config.check import check_shares
from fastreid_ops.engine.interrupt import Interrupted

ANSWER = 10.0  # seconds in which a rank that found a call failed hears of the others
_ANSWERING = 1_000_003  # tag of these messages


class RankError(RuntimeError):
    """A rank did not come to where the others wait; the message names it."""


class Ranks:
    """This process among those of a run: `rank` of `world`. Made without arguments it is alone.

    Args:
        device: of this rank; a GPU takes gradients through NCCL, everything else goes through gloo.
        timeout: seconds that the others wait for a rank before the run ends with its number.
    """

    def __init__(self, device: torch.device | None = None, timeout: float = 1800.0) -> None:
        self.rank, self.world, self.timeout = 0, 1, timeout
        # The group of the CPU: words, features on their way and the meeting points.
        self.group: dist.ProcessGroup | None = None
        if device is None or not started():
            return
        limit = timedelta(seconds=timeout)
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=limit, device_id=device if cuda else None)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.group = dist.new_group(backend="gloo", timeout=limit)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def close(self) -> None:
        """Leave; every rank does so at the end of its run."""
        if self.group is not None:
            dist.destroy_process_group()

    def meet(self, place: str) -> None:
        """Wait for all ranks. Errors: RankError naming those that did not come to `place` in time."""
        if self.group is None:
            return
        try:
            dist.monitored_barrier(self.group, timedelta(seconds=self.timeout), wait_all_ranks=True)
        except RuntimeError as error:
            if "monitoredBarrier" not in _first_line(error):
                raise self.lost() from error
            raise RankError(
                f"ranks: {place}: rank {self.rank} of {self.world} waited, expected every rank within "
                f"{self.timeout:g} s (run.rank_timeout): {_first_line(error)}"
            ) from error

    def lost(self) -> RankError:
        """What to say after a collective call that failed: who is gone, or else who does not come here."""
        gone, silent = self._missing()
        who, what = (gone, "ended") if gone else (silent, f"gave no answer within {ANSWER:g} s")
        which = f"rank{'s' if len(who) > 1 else ''} {', '.join(map(str, who))}" if who else "a connection"
        return RankError(
            f"ranks: {which} of {self.world} {what if who else 'failed'}, as rank {self.rank} found, expected all "
            "ranks until the end of the run; who was not killed has said why. Go on from the last checkpoint: --resume"
        )

    def _missing(self) -> tuple[list[int], list[int]]:
        """The ranks that closed their connection, and those that let us wait: everyone who finds that a call failed
        sends all others a number.
        """
        calls, gone, silent = {}, [], []
        for other in set(range(self.world)) - {self.rank}:
            box = torch.zeros(1)
            try:
                dist.isend(torch.zeros(1), other, group=self.group, tag=_ANSWERING)
                calls[other] = dist.irecv(box, other, group=self.group, tag=_ANSWERING), box
            except RuntimeError:
                gone.append(other)
        for other, (call, _) in calls.items():
            try:
                call.wait(timedelta(seconds=ANSWER))
            except RuntimeError as error:
                (silent if "imed out" in str(error) else gone).append(other)
        return sorted(gone), sorted(silent)

    def tell(self, value: Any, source: int = 0) -> Any:
        """The value that rank `source` has, on every rank: tensors and plain values."""
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=source, group=self.group)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """The value of every rank, in their order, on the first; its own alone on the others."""
        if self.group is None:
            return [value]
        found = [None] * self.world if self.first else None
        dist.gather_object(value, found, dst=0, group=self.group)
        return found if found is not None else [value]

    def everyone(self, number: int) -> list[int]:
        """The whole number of every rank, on all of them."""
        if self.group is None:
            return [number]
        found = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(found, torch.tensor([number]), group=self.group)
        return [int(each) for each in found]

    def mean(self, losses: dict[str, float]) -> dict[str, float]:
        """The mean over the ranks of each number; all ranks have the same names."""
        if self.group is None:
            return losses
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        dist.all_reduce(values, group=self.group)
        return dict(zip(losses, (values / self.world).tolist(), strict=True))

    def agreed(self, check: Callable[[], None]) -> Callable[[], None]:
        """`check`, which raises Interrupted on the rank that had a signal, raising it on all of them at the same
        call.
        """
        if self.group is None:
            return check

        def all_check() -> None:
            number = 0
            try:
                check()
            except Interrupted as stop:
                number = stop.number
            highest = torch.tensor([number])
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.group)
            if highest.item():
                raise Interrupted(int(highest.item()))

        return all_check

    def slots(self, size: int, parts: int = 1) -> list[int]:
        """Places of this rank in a batch of `size`. The batch consists of `parts` equal stretches (modalities,
        domains), and each is shared out in order.

        Errors: ValueError where the ranks cannot have equally much.
        """
        if parts < 1 or size % (parts * self.world):
            raise ValueError(
                f"ranks: batch: got {size} images in {parts} parts, expected a multiple of "
                f"{parts * self.world} for {self.world} ranks"
            )
        stretch, mine = size // parts, size // (parts * self.world)
        begins = [part * stretch + self.rank * mine for part in range(parts)]
        return [begin + place for begin in begins for place in range(mine)]

    @torch.no_grad()
    def same_buffers(self, *modules: nn.Module) -> None:
        """Give every rank the first one's buffers (batch norm's statistics, what losses remember)."""
        if self.group is None:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for module in modules:
            for buffer in module.buffers():
                kinds.setdefault(buffer.dtype, []).append(buffer.detach())
        for buffers in kinds.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat, src=0)
            parts = flat.split([buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


@torch.no_grad()
def average_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Give every rank the mean of each tensor over the ranks, in place: for a method that trains something by a step of
    its own, inside the step that DistributedDataParallel sees. Every rank calls it, with tensors of the same shapes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


@torch.no_grad()
def rows_of_ranks(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, the first rank's first, (N n, ...) without a gradient; n is the same on all."""
    rows = rows.detach().contiguous()
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(found, rows)
    return torch.cat(found)


def every_batch(last: bool) -> contextlib.AbstractContextManager:
    """What a process alone has around the batches of a step: nothing."""
    return contextlib.nullcontext()


def sharing(config: Config, batches: Any, ranks: Ranks) -> Callable[[int], list[int]] | None:
    """The places of each batch that this rank reads, as a function of the batch size; None where it reads all.

    Identities, sequences and domains stay whole: a rank's part is what the sampler would make at 1/N of
    `data.batch_size`. Errors: ConfigError where that cannot be.
    """
    if ranks.world == 1:
        return None
    check_shares(config, ranks.world)
    data = config.data
    parts = {"paired": 2, "domain": getattr(batches, "count", 1)}.get(data.sampler_kind, 1)
    if data.batch_size % (parts * ranks.world):
        raise ConfigError(
            f"data.batch_size: got {data.batch_size}, expected a multiple of {parts * ranks.world}: {parts} domains "
            f"for {ranks.world} ranks"
        )
    return lambda size: ranks.slots(size, parts)


def started() -> bool:
    """Whether a launcher (torchrun) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def local_device(name: str) -> str:
    """`run.device` for this rank: each of a machine's ranks has a GPU of its own. Errors: ValueError for one GPU
    that all would share.
    """
    if not started() or name == "cpu":
        return name
    if name.startswith("cuda:"):
        raise ValueError(f"run.device: got {name} for several ranks, expected cuda, auto or cpu")
    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


class SharedStep(nn.Module):
    """A method's step whose gradients are the mean over the ranks: `step(state, batch)` as before.

    DistributedDataParallel sees the step as one module, forward pass and losses of model and criteria together, so
    that everything trainable takes part. Parameters without a gradient in a step are found each time (heads that a
    stage leaves out); where a method freezes or thaws some, the reducer is made anew.
    """

    def __init__(self, ranks: Ranks, state: Any, step: Callable[[Any, Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.criteria = state.model, state.criteria
        self._ranks, self._state, self._step = ranks, state, step
        # 1 x 1 convolutions: two ways to write the strides of the same memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        self._parallel: list[DistributedDataParallel] = []  # in a list: not a module of this one
        self._trainable: tuple[bool, ...] = ()

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The step itself."""
        return self._step(self._state, batch)

    def shared(self, state: Any, batch: Any) -> dict[str, Tensor]:
        """What the loop calls."""
        return self._reducer()(batch)

    def adding(self, last: bool) -> contextlib.AbstractContextManager:
        """Around forward and backward pass of one batch: gradients travel with the last of a step only."""
        self._ranks.meet(f"epoch {self._state.epoch}, batch {self._state.batch}")
        return contextlib.nullcontext() if last else self._reducer().no_sync()

    def _reducer(self) -> DistributedDataParallel:
        trainable = tuple(parameter.requires_grad for parameter in self.parameters())
        if trainable != self._trainable:
            self._parallel.clear()
            gc.collect()  # the old one takes its hooks along
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the new name is not there before torch 2.13
                # Buffers are made equal once a step, by `same_buffers`. Looking for unused parameters also keeps
                # the order of the buckets, and so the bits, the same from the first step on.
                made = DistributedDataParallel(self, broadcast_buffers=False, find_unused_parameters=True)
            self._parallel.append(made)
            self._trainable = trainable
        return self._parallel[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


@contextlib.contextmanager
def naming_lost(ranks: Ranks) -> Iterator[None]:
    """Say which rank is gone where a collective call failed, in place of the words of gloo or NCCL.

    The launcher ends the others within moments of the first; from here on they end by themselves, so they do not
    listen.
    """
    try:
        yield
    except RankError:
        _deaf(ranks)
        raise
    except RuntimeError as error:
        if ranks.group is None or not _of_a_collective(error):
            raise
        _deaf(ranks)
        raise ranks.lost() from error


def _of_a_collective(error: RuntimeError) -> bool:
    # gloo's errors have no class of their own, but their place in the source.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _deaf(ranks: Ranks) -> None:
    if ranks.group is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def leaving(ranks: Ranks) -> Iterator[Ranks]:
    """Close after a run that ended well or was interrupted. After a failure the others are at another place, and
    the process simply ends."""
    try:
        with naming_lost(ranks):
            yield ranks
    except Interrupted:
        ranks.close()
        raise
    ranks.close()
