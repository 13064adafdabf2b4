"""A transformers model and its tokenizer from a folder, a hub id, or a pair already in memory."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
import shutil
import socket
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attnviz.hooks import BadInput, ModelError, ModelSpec, UnknownName
from attnviz.plugins.backends import placement
from attnviz.plugins.backends.number_models import NUMBERS, why_no_text

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.model", "*.tiktoken", "tekken.json", "*.vocab")
Part = TypeVar("Part")
_quiet_lock = threading.RLock()


@dataclass(frozen=True)
class Loaded:
    """A module in evaluation mode that only attnviz runs, its tokenizer, and what the model card says of the files."""

    name: str
    module: torch.nn.Module
    tokenizer: Any
    digest: str
    notes: tuple[str, ...] = ()


def not_loadable(spec: ModelSpec) -> str | None:
    """Why this spec is none for transformers, or None. Loads nothing."""
    if spec.objects is not None:
        if len(spec.objects) != 2:
            return f"expected a (module, tokenizer) pair, got {len(spec.objects)} objects"
        kinds = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(spec.objects[0]).__mro__}
        if "transformers.PreTrainedModel" not in kinds:
            return f"{type(spec.objects[0]).__name__} is no transformers model"
        return why_no_text(spec)
    if not spec.source.strip():
        return "no model was named; expected a folder or a hub id"
    try:
        path = Path(spec.source).expanduser()
        if path.is_dir():
            there = (path / "config.json").is_file()
            return why_no_text(spec) if there else f"the folder {spec.source} has no config.json"
        if path.exists():
            return f"{spec.source} is a file; expected a model's folder or a hub id"
    except (OSError, RuntimeError, ValueError) as error:  # too long, "~" of nobody, a null character
        return f"{spec.source:.80} is no name of a folder: {getattr(error, 'strerror', None) or error}"
    if not _HUB_ID.fullmatch(spec.source):
        return f"there is no folder {spec.source}, and it is no hub id"
    return why_no_text(spec)


def load_description(spec: ModelSpec) -> tuple[Any, Any, Any]:
    """Configuration, tokenizer, and settings of generation (or None) of a hub model whose weights stay where they are.

    Raises:
        ModelError: files that are missing or broken.
    """
    with quiet():
        source = _source(spec)
        config = _read_part(spec, "configuration", lambda: _config(source))
        tokenizer = _read_part(spec, "tokenizer", lambda: _tokenizer(source))
        return config, tokenizer, _read_part(spec, "settings of generation", lambda: _generation(source))


def _generation(source: _Source) -> Any:
    """None for a model that names none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source.name, **source.options)
    except OSError:
        return None


def is_causal_language_model(config: Any) -> bool:
    """Whether the checkpoint was written from a model that continues a text."""
    import transformers

    return _model_class(config) is transformers.AutoModelForCausalLM


def load_model(spec: ModelSpec) -> Loaded:
    """Loads what `spec` names, with safetensors weights only and without code from the model's files.

    Raises:
        BadInput: unknown device or data type.
        ModelError: files that are missing, broken, or do not hold all weights.
    """
    reason = not_loadable(spec)
    if reason is not None:
        raise ModelError(f"Cannot load the model: {reason}.")
    with quiet():
        return _adopt(spec) if spec.objects is not None else _read(spec)


def load_without_tokenizer(spec: ModelSpec) -> Loaded:
    """The same for a model that reads numbers; its tokenizer is None. Errors as of load_model."""
    with quiet():
        loaded = _twin(spec, spec.objects[0], None) if spec.objects is not None else _read(spec, text=False)
    if placement.is_spread(loaded.module):
        raise ModelError(f"{spec.source}: a model that reads numbers cannot be spread over devices: choose one.")
    return loaded


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the libraries; their settings are put back."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level, hub_level = logging.get_verbosity(), hub_logging.get_verbosity()
        bars = logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        hub_logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            hub_logging.set_verbosity(hub_level)
            if bars:
                logging.enable_progress_bar()


def _read(spec: ModelSpec, *, text: bool = True) -> Loaded:
    device = choose_device("auto" if spec.device == placement.SPREAD else spec.device)
    source = _source(spec)
    config = _read_part(spec, "configuration", lambda: _config(source))
    if text and config.model_type in NUMBERS:  # a hub id of which nothing is known before
        raise ModelError(f'{spec.source} ({config.model_type}) reads numbers, not text: use backend "arrays".')
    dtype = choose_dtype(spec.dtype, device, config)
    cls = _read_part(spec, "configuration", lambda: _model_class(config))
    files = _check_files(source)
    tokenizer = _read_part(spec, "tokenizer", lambda: _tokenizer(source)) if text else None
    options, folder = placement.spreading() if spec.device == placement.SPREAD else ({}, None)
    try:
        module, info = _read_part(spec, "weights", lambda: _weights(cls, source, dtype, options))
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder is not None:
        placement.remove_with(module, folder)
    lost = sorted(info["missing_keys"]) + sorted(str(k[0]) for k in info["mismatched_keys"])
    if lost:
        raise ModelError(
            f"{spec.source}: the weights do not fit {type(module).__name__}; {len(lost)} tensors are missing or have "
            f"another shape ({_listed(lost)}). The files are incomplete or belong to another configuration."
        )
    if folder is None:
        module = module.to(device)
    module = module.eval().requires_grad_(False)
    unused = sorted(info["unexpected_keys"])
    notes = (f"{len(unused)} tensors of the files are not part of the model ({_listed(unused)})",) if unused else ()
    digest = digest_files(files) if files else digest_state(module)
    return Loaded(spec.source, module, tokenizer, digest, (*notes, *_spread_note(module)))


def _spread_note(module: torch.nn.Module) -> tuple[str, ...]:
    return (placement.in_words(module),) if placement.is_spread(module) else ()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _adopt(spec: ModelSpec) -> Loaded:
    """A (module, tokenizer) pair in memory."""
    assert spec.objects is not None
    module, tokenizer = spec.objects
    if not all(hasattr(tokenizer, name) for name in ("convert_ids_to_tokens", "all_special_ids", "get_vocab")):
        raise BadInput(f"Expected a transformers tokenizer beside the module, got {type(tokenizer).__name__}.")
    return _twin(spec, module, tokenizer)


def _twin(spec: ModelSpec, module: torch.nn.Module, tokenizer: Any) -> Loaded:
    """A twin of the user's module: its own configuration, mode and hooks, and the very same weights.

    So nothing attnviz sets (attention function, evaluation mode, hooks) is ever seen in the user's module, and nothing
    that a gradient through the twin does.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise ModelError(f"{type(module).__name__} has no parameters.")
    _check_device(spec.device, module, parameter.device)
    dtype = str(parameter.dtype).removeprefix("torch.")
    if spec.dtype not in ("auto", dtype):
        raise BadInput(f"The module holds {dtype}, not {spec.dtype}: convert it before, or leave the data type to it.")
    shared = placement.shared_stores(module) | {id(buffer): buffer for buffer in module.buffers()}
    shared |= {id(parameter): _without_gradient(parameter) for parameter in module.parameters()}
    twin = copy.deepcopy(module, shared).eval()
    notes = ("shares its weights with a module in memory", *_spread_note(twin))
    return Loaded(spec.source, twin, tokenizer, digest_state(module), notes)


def _check_device(name: str, module: torch.nn.Module, device: torch.device) -> None:
    """Refuses a device other than the one that a module in memory is on.

    Raises:
        BadInput: where it is, and what was asked for.
    """
    spread = placement.is_spread(module)
    if name == "auto" or (spread and name == placement.SPREAD):
        return
    if spread:
        where = " and ".join(placement.shares(module))
        raise BadInput(f"The module is spread over {where} by accelerate, not on {name}: leave the device to it.")
    if name == placement.SPREAD:
        raise BadInput(f"The module is on {device}: dispatch it with accelerate before, or leave the device to it.")
    if choose_device(name) != device:
        raise BadInput(f"The module is on {device}, not on {name}: move it before, or leave the device to it.")


def _without_gradient(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The same memory as a parameter that takes no gradient; one of a kind of its own (quantised) stays what it is."""
    import torch

    if type(parameter) is not torch.nn.Parameter:
        return parameter
    return torch.nn.Parameter(parameter.detach(), requires_grad=False)


# --------------------------------------------------------------------------------------------- parts


def _read_part(spec: ModelSpec, what: str, read: Callable[[], Part]) -> Part:
    """Runs `read`; whatever goes wrong over a stranger's files becomes one line that names the part.

    The catch is broad on purpose: the readers of configurations, tokenizers and tensors raise errors of every kind
    over broken files, down to a bare Exception. The cause stays chained.
    """
    try:
        return read()
    except (ModelError, BadInput):
        raise
    except Exception as error:
        raise ModelError(f"{spec.source}: its {what} cannot be read: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """The first sentence or so of a library's message."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs Python code from its own files, which attnviz never runs."
    if isinstance(error, KeyError):
        return f"{text} is missing."
    return text if len(text) <= 300 else text[:297] + "…"


@dataclass(frozen=True)
class _Source:
    """Where files come from. `options` go to every from_pretrained."""

    name: str
    folder: Path | None
    options: dict[str, Any]


def _source(spec: ModelSpec) -> _Source:
    """A folder, the hub, or the hub's local cache when the hub cannot be reached.

    Raises:
        ModelError: not a folder, not in the cache, and no hub.
    """
    options = {"revision": spec.revision, "trust_remote_code": False}
    folder = Path(spec.source).expanduser()
    if folder.is_dir():
        return _Source(str(folder), folder, {**options, "local_files_only": True})
    if _hub_answers():
        return _Source(spec.source, None, options)
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(spec.source, "config.json", revision=spec.revision), str):
        raise ModelError(
            f"{spec.source} is no folder and not in the local cache, and the Hugging Face hub cannot be reached. "
            "Check the connection, or give the folder of a model."
        )
    return _Source(spec.source, None, {**options, "local_files_only": True})


def _hub_answers() -> bool:
    """Whether the hub's host takes a connection; asked once, where its own client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # only the proxy can tell
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _config(source: _Source) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.name, **source.options)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is not None and layers < 1:
        raise ModelError(f"{source.name}: its configuration asks for {layers} layers.")
    return config


def _tokenizer(source: _Source) -> Any:
    from transformers import AutoTokenizer

    folder = source.folder
    if folder is not None and not any(list(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(f"{source.name} has no tokenizer: expected tokenizer.json or a vocabulary file.")
    tokenizer = AutoTokenizer.from_pretrained(source.name, **source.options)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ModelError(f"{source.name}: its tokenizer has no vocabulary.")
    return tokenizer


def _weights(cls: Any, source: _Source, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    module, info = cls.from_pretrained(
        source.name,
        **source.options,
        **options,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="eager",  # every family has it; the route is chosen afterwards
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else only a log line names them; _read refuses them
    )
    return module, info


def _model_class(config: Any) -> Any:
    """The class that the checkpoint was written from; a language model rather than a bare one where none is named.

    Raises:
        ModelError: transformers does not know the architecture.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    both = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    kind = config.model_type
    named = (getattr(config, "architectures", None) or [None])[0]
    if named is None:
        if kind in auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
            return transformers.AutoModelForSpeechSeq2Seq
        if kind in both and getattr(config, "is_encoder_decoder", False):
            return transformers.AutoModelForSeq2SeqLM
        if kind in masked and not getattr(config, "is_decoder", False):
            return transformers.AutoModelForMaskedLM
        return transformers.AutoModelForCausalLM if kind in causal else transformers.AutoModel
    if named == masked.get(kind) or (named.endswith("ForPreTraining") and kind in masked):
        return transformers.AutoModelForMaskedLM
    if named == causal.get(kind):
        return transformers.AutoModelForCausalLM
    cls = getattr(transformers, named, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ModelError(f"Unknown architecture {named!r}: transformers {transformers.__version__} has no such model.")
    return cls


def _check_files(source: _Source) -> list[Path]:
    """Safetensors files of a local folder; [] for a hub id.

    Raises:
        ModelError: a folder without them.
    """
    folder = source.folder
    if folder is None:
        return []
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        found = (
            f"It has {', '.join(other)}, which can run code when read: convert them to safetensors." if other else ""
        )
        raise ModelError(f"{source.name} has no weights: expected model.safetensors. {found}".rstrip())
    return files


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" = cuda, else mps, else cpu.

    Raises:
        UnknownName: no such kind of device.
        BadInput: this machine does not have it.
    """
    import torch

    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if has[kind]))
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if match is None:
        raise UnknownName("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps", placement.SPREAD])
    kind, index = match[1], match[2]
    count = torch.cuda.device_count() if kind == "cuda" else int(has[kind])
    if not has[kind] or (index is not None and int(index) >= count):
        present = ", ".join(kind for kind, there in has.items() if there)
        raise BadInput(f"This machine has no device {name!r}. It has: {present}.")
    return torch.device(kind if index is None or kind != "cuda" else name)


def choose_dtype(name: str, device: torch.device, config: Any) -> torch.dtype:
    """The type called `name`. "auto" = that of the checkpoint, but float32 on a CPU, where half precision is slow.

    Raises:
        UnknownName: not one of float32, float16, bfloat16, float64.
        BadInput: the device cannot hold it.
    """
    import torch

    if name != "auto" and name not in _DTYPES:
        raise UnknownName("dtype", name, ["auto", *_DTYPES])
    if name == "float64" and device.type == "mps":
        raise BadInput("The device mps has no float64. Use float32.")
    if name != "auto":
        return getattr(torch, name)
    own = getattr(config, "dtype", None)
    own = getattr(torch, own, None) if isinstance(own, str) else own
    if device.type == "cpu" or own not in (torch.float16, torch.bfloat16):
        return torch.float32
    return own


# --------------------------------------------------------------------------------------------- digests


def weights_digest(spec: ModelSpec) -> str | None:
    """Digest of the weights a local folder holds, without loading them; None for anything else."""
    folder = Path(spec.source).expanduser()
    return digest_files(sorted(folder.glob("*.safetensors"))) if folder.is_dir() else None


def digest_files(files: list[Path]) -> str:
    """sha256 over the contents of the weight files, in order of their names."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def digest_state(module: torch.nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all tensors of a module."""
    import torch

    total = hashlib.sha256()
    for name in sorted(module.state_dict()):
        tensor = placement.tensor_of(module, name)
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
