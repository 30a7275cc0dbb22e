"""Class names of any letters, and text embeddings of any kind."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from mtaclip_plugin.text import fold_name, load_embeddings
from tests.fuzz.files import damaged
from tests.fuzz.models import TEXT_SIZE, build, seeds
from tests.fuzz.outcomes import outcome

odd_names = st.sampled_from(("sky", "Sky", " sky", "none", "the", "'s", "&amp;", "<end_of_text>", "\ud800", "", " \n"))
names = st.text(min_size=1, max_size=12) | odd_names | st.text(min_size=200, max_size=300)


def well_formed(class_names: list[str]) -> bool:
    """What the documentation asks of class names, but for their length."""
    folded = {fold_name(name) for name in class_names}
    return bool(class_names) and "" not in folded and "none" not in folded and len(folded) == len(class_names)


@given(st.lists(names, min_size=1, max_size=5, unique=True))
def test_names(class_names) -> None:
    # Whether a long name fits, and whether signs that are no letters make a difference, only the tokenizer knows.
    plain = all(len(name) <= 6 and name.isascii() and name.isalnum() for name in class_names)
    valid = well_formed(class_names) and (True if plain else None)
    with outcome(ValueError, valid=valid), torch.no_grad():
        model = build("tower", len(class_names), class_names=class_names)
        assert model(torch.zeros(2, 3, 9, 9)).isfinite().all()
        assert model.eval()(torch.zeros(1, 3, 9, 9)).shape == (1, len(class_names), 9, 9)


@given(
    st.sampled_from(("none", "bank", "tower")),
    st.lists(st.sampled_from(("0", "1", "2", "new", "newer", "none", "")), max_size=5),
    st.booleans(),
)
def test_other_class_lists(kind, class_names, trained) -> None:
    model = build(kind).eval()
    new = [name for name in class_names if name not in model.class_names]
    valid = well_formed(class_names) and not (new and (kind == "bank" or (kind == "none" and not trained)))
    before = model.config.copy()
    with outcome(ValueError, valid=valid), torch.no_grad():
        try:
            model.set_class_names(class_names, trained=trained)
        finally:
            assert (model.config != before) <= valid
            logits = model(torch.zeros(1, 3, 9, 9))
            assert logits.shape == (1, model.config["classes"], 9, 9) and logits.isfinite().all()


DTYPES = ("float16", "float32", "float64", ">f4", "int32", "bool", "complex64", "object", "U3", "longdouble", "M8[s]")


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any shape, dtype, order and magnitude, most of them a bank of three classes."""
    right = st.sampled_from(((3, TEXT_SIZE), (2, 4, TEXT_SIZE), (1, 4, TEXT_SIZE)))
    shape = draw(right | st.lists(st.integers(0, 4), max_size=4).map(tuple))
    values = np.random.default_rng(draw(seeds)).standard_normal(shape) * draw(st.sampled_from((0.0, 1.0, 1e30, 1e200)))
    array = np.asarray(values)
    if array.size and draw(st.booleans()):
        array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from((np.nan, np.inf, 1.0)))
    with np.errstate(all="ignore"):
        array = array.astype(draw(st.sampled_from(("float32", *DTYPES))))
    return draw(st.sampled_from((array, np.asfortranarray(array), array[::-1] if array.ndim else array)))


def usable(array: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return array.dtype.kind == "f" and bool(np.isfinite(array.astype("float32")).all())


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@given(arrays(), st.sampled_from(("bank", "tower", "none")))
def test_text_embeddings_of_any_kind(array, kind) -> None:
    model = build(kind, text_embeddings=torch.ones(2, 4, TEXT_SIZE)) if kind == "bank" else build(kind)
    text_size = 0 if model.prompts is None else model.prompts.text_channels
    valid = usable(array) and array.shape in ((3, text_size), (2, 4, text_size))
    with outcome(ValueError, valid=valid), torch.no_grad():
        model.set_text_embeddings(array)
        assert model.eval()(torch.zeros(1, 3, 9, 9)).isfinite().all()


@given(arrays(), st.sampled_from((".npy", ".safetensors")))
def test_any_array_in_a_file(scratch, array, suffix) -> None:
    path = scratch / f"bank{suffix}"
    valid = usable(array)
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        try:
            path.write_bytes(save({"bank": torch.as_tensor(array.copy())}))
        except (TypeError, ValueError):
            path.write_bytes(b"")
            valid = False
    with outcome(ValueError, valid=valid):
        embeddings = load_embeddings(path)
        assert embeddings.dtype == torch.float32 and embeddings.isfinite().all()
        assert embeddings.shape == array.shape


@cache
def _whole_files() -> dict[str, bytes]:
    array = np.random.default_rng(0).standard_normal((3, TEXT_SIZE)).astype("float32")
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, array)
    np.savez(npz, array)
    tensors = save({"bank": torch.from_numpy(array)})
    return {"npy": npy.getvalue(), "npz": npz.getvalue(), "safetensors": tensors, "nothing": b"", "zip": b"PK\x03\x04"}


@given(st.data(), st.sampled_from(sorted(_whole_files())), st.sampled_from((".npy", ".safetensors", ".bin")))
def test_damaged_files(scratch, data, kind, suffix) -> None:
    path = scratch / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(_whole_files()[kind])))
    with outcome(ValueError, valid=None):
        embeddings = load_embeddings(path)
        assert embeddings.dtype == torch.float32 and embeddings.isfinite().all()
