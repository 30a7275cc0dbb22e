"""A GPU that is none: its tensors compute on the CPU, refuse others' company, and count what a GPU would wait for.

An `EmulatedTensor` says that it is on "cuda:0". Autograd, which would look for the device's streams, sees the device
"meta", which has none; what an operation does is done by the CPU's tensor inside. Real kernels, their arithmetic and
their time, memory and processes side by side are not emulated.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import torch
import torch.utils._foreach_utils as foreach_utils
import torch.utils.checkpoint as checkpoint
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.emulated_cuda.autocast import WeightCasts, attention, cast_as_autocast

CUDA = torch.device("cuda:0")
ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / name for name in ("mtaclip_plugin", "trainers", "benchmarks", "tests")]
"""What is this project's below the root, where installed packages may lie too."""
aten = torch.ops.aten

_WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten.masked_select.default: "masked_select",
    aten.nonzero.default: "nonzero",
    aten._unique2.default: "unique",
}
_INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
_COPYING = {aten._to_copy.default, aten.copy_.default}
_WITHOUT_KERNEL = {
    aten._unsafe_view.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.lift_fresh.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._fused_sdp_choice.default,
}
_PROPERTIES: dict[Any, Callable[[Any], Any]] = {
    Tensor.device.__get__: lambda tensor: CUDA,
    Tensor.is_cuda.__get__: lambda tensor: True,
    Tensor.is_meta.__get__: lambda tensor: False,
    Tensor.is_cpu.__get__: lambda tensor: False,
    Tensor.get_device: lambda tensor: 0,
    Tensor.data_ptr: lambda tensor: tensor.inside.data_ptr(),
    Tensor.tolist: lambda tensor: tensor.cpu().tolist(),
    Tensor.is_pinned: lambda tensor: False,
}


@dataclass
class Meter:
    """What was counted on the device.

    Attributes:
        launches: operations, by the file of ours that asks for them, forward or backward; views take none. One is
            counted even where a GPU takes several kernels, as for optimizers, sorting and attention.
        waits: where the host waits for the device, by file, line and what it waits for.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    _forward: dict[int, str] = field(default_factory=dict)

    def count(self, func: Any) -> None:
        """Counts an operation, one of the backward pass with the file whose forward pass brings it about."""
        if func.is_view or func in _WITHOUT_KERNEL:
            return
        node = torch._C._current_autograd_node()
        if node is None:
            place = _place().partition(":")[0]
            self._forward[torch._C._autograd._get_sequence_nr() - 1] = place
        else:
            place = self._forward.get(node._sequence_nr(), "gradients")
        self.launches[place] += 1

    def wait(self, what: str) -> None:
        """Counts a wait of the host."""
        self.waits[f"{_place()} {what}"] += 1

    def page(self) -> str:
        """Both counts, the most first."""
        lines = [f"{sum(self.launches.values())} launches, {sum(self.waits.values())} waits"]
        for counts in (self.launches, self.waits):
            lines += [f"{number:6d}  {place}" for place, number in counts.most_common()]
        return "\n".join(lines)


_meter = Meter()
_casts = WeightCasts()


def _place() -> str:
    """File and line of the innermost frame of this project outside of this folder."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if any(map(path.is_relative_to, PACKAGES)) and path.parent != Path(__file__).parent:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere:0"


class EmulatedTensor(torch.Tensor):
    """A tensor "on cuda:0".

    Attributes:
        inside: the tensor on the CPU that has the numbers.
    """

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Self:
        shell = torch.empty_strided(inside.shape, inside.stride(), dtype=inside.dtype, device="meta")
        tensor = torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=CUDA)
        tensor.inside = inside
        return tensor

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"EmulatedTensor({self.inside!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = EmulatedTensor(self.inside.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=self.requires_grad)
        return memo.setdefault(id(self), copy)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operation(func, args, kwargs or {})


def _is_emulated(device: object) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _function(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A call of torch's interface: what asks for the device, what makes tensors of numbers, and autocast."""
    first = args[0] if args else None
    name = getattr(func, "__name__", "")
    if isinstance(first, EmulatedTensor):
        if func in _PROPERTIES:
            return _PROPERTIES[func](first)
        if name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if name == "pin_memory":
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        if name == "backward":
            return _backward(first, *args[1:], **kwargs)
        if name == "to":
            return _to(first, *args[1:], **kwargs)
        if name == "new_tensor":
            return torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)).to(CUDA)
    elif name == "pin_memory":
        first.pinned = True
        return first
    elif name in ("tensor", "as_tensor") and _is_emulated(kwargs.get("device")) and not isinstance(first, Tensor):
        return func(*args, **{**kwargs, "device": None}).to(CUDA)
    with torch._C.DisableTorchFunctionSubclass():
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = cast_as_autocast(name, args, kwargs, EmulatedTensor, _casts)
        if name == "scaled_dot_product_attention" and isinstance(first, EmulatedTensor):
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def _backward(tensor: Tensor, gradient: Tensor | None = None, retain_graph: bool = False, **options: Any) -> None:
    gradient = torch.ones_like(tensor) if gradient is None else gradient
    with _Functions():  # what is computed again on the way asks for devices too
        _engine_run_backward(
            (tensor,), (gradient,), bool(retain_graph), False, (), allow_unreachable=True, accumulate_grad=True
        )


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``tensor.to(...)``, which to the device where it is copies nothing."""
    if args and isinstance(args[0], Tensor):
        args, kwargs = (args[0].device, args[0].dtype, *args[1:]), kwargs
    copy = kwargs.pop("copy", False)
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    options: dict[str, Any] = {"dtype": dtype or tensor.dtype, "copy": copy}
    if memory_format is not None:
        options["memory_format"] = memory_format
    if device is not None and not _is_emulated(device):
        options.update(device=device, non_blocking=non_blocking)
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.to(tensor, **options)


def _operation(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of tensors, below autograd."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, EmulatedTensor)]
    device = kwargs.get("device")
    if not ours and not _is_emulated(device):
        return func(*args, **kwargs)
    if func is aten._fused_sdp_choice.default:
        return 0
    others = [tensor for tensor in tensors if not isinstance(tensor, EmulatedTensor)]
    _check_devices(func, args, others)
    _count_waits(func, args, kwargs, others)
    leaves = func is aten._local_scalar_dense.default or (device is not None and not _is_emulated(device))
    leaves |= func is aten.copy_.default and not isinstance(args[0], EmulatedTensor)
    if not leaves:
        _meter.count(func)
    if _is_emulated(device):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    inner_args, inner_kwargs = tree_map(lambda leaf: getattr(leaf, "inside", leaf), (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    if leaves:
        return result
    shells = {id(tensor.inside): tensor for tensor in ours}  # an operation in place gives what it was given

    def in_shell(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return shells[id(leaf)] if id(leaf) in shells else EmulatedTensor(leaf)

    return tree_map(in_shell, result)


def _check_devices(func: Any, args: Any, others: list[Tensor]) -> None:
    joining = func in (aten.cat.default, aten.stack.default)
    if func in _COPYING or (func in _INDEXING and isinstance(args[0], EmulatedTensor)):
        return
    for tensor in others:
        if tensor.dim() > 0 or joining:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} at {_place()} got cuda:0 and cpu "
                f"{tuple(tensor.shape)}"
            )


def _count_waits(func: Any, args: Any, kwargs: dict[str, Any], others: list[Tensor]) -> None:
    if func in _WAITING:
        _meter.wait(_WAITING[func])
    elif func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        _meter.wait("repeat_interleave")
    elif func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _meter.wait("index by bool")
        if any(not isinstance(index, EmulatedTensor) for index in indices):
            _meter.wait("index from the host")
    elif func is aten._to_copy.default and "device" in kwargs:
        _count_transfer(args[0], kwargs["device"], kwargs.get("non_blocking", False))
    elif func is aten.copy_.default and isinstance(args[0], EmulatedTensor) != isinstance(args[1], EmulatedTensor):
        target = CUDA if isinstance(args[0], EmulatedTensor) else "cpu"
        _count_transfer(args[1], target, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))


def _count_transfer(source: Tensor, device: object, non_blocking: bool) -> None:
    if isinstance(source, EmulatedTensor):
        if not _is_emulated(device):
            _meter.wait("to the host")
    elif not (non_blocking and getattr(source, "pinned", False)):
        _meter.wait("from the host")


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operation(func, args, kwargs or {})


class _Generator(torch.Generator):
    """A generator of a device draws as the CPU's."""

    def __new__(cls, device: object = "cpu") -> Self:
        return super().__new__(cls)


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """There is a device "cuda"."""
    torch._C._ensureCUDADeviceGuardSet()  # where there is no GPU, one that needs no driver
    clear_cache = torch.clear_autocast_cache

    def clear_both() -> None:
        _casts.clear()
        clear_cache()

    replaced: dict[str, Any] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.get_device_properties": lambda device=None: SimpleNamespace(total_memory=80 * 2**30),
        "torch.cuda.get_rng_state": lambda device=None: torch.get_rng_state(),
        "torch.cuda.set_rng_state": lambda state, device=None: None,
        "torch.cuda.manual_seed_all": lambda seed: None,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_current_stream_capturing": lambda: False,
        "torch.cuda._lazy_init": lambda: None,
        "torch.clear_autocast_cache": clear_both,
        "torch.Generator": _Generator,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch(name, value))
        supported = {
            "_foreach_supported_types": [*foreach_utils._foreach_supported_types, EmulatedTensor],
            "_get_foreach_kernels_supported_devices": lambda: ["meta", "cuda"],
        }
        stack.enter_context(patch.multiple(foreach_utils, **supported))
        # What autograd keeps is looked at without the functions, where the device is "meta".
        kept = {"default": lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype}}
        stack.enter_context(patch.dict(checkpoint._allowed_determinism_checks_to_fns, kept))
        # Another kind of tensor can not be the data of a parameter that exists.
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        yield


def start_meter() -> Meter:
    """Counts from here on."""
    global _meter
    _meter = Meter()
    return _meter


@contextmanager
def metered() -> Iterator[Meter]:
    """Counts what happens on the device meanwhile."""
    yield start_meter()
    start_meter()
