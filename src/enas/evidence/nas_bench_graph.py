"""NAS-Bench-Graph (Qin et al. 2022, arXiv:2206.09166): 26,206 graph neural networks, each trained on eight data sets.

Many of the 59,049 architectures of the `graph` space are the same network; the package's own `Arch` says which. The nine
whose operations are all "skip" compute nothing and were not trained: they score as the worst network of the data set.

The scores are those of the package nas-bench-graph (Apache-2.0): `pip install enas[graph]`. It has them in pickle files,
which are read here only if they are the published ones, by their checksums, and by an unpickler that knows numbers and
containers and nothing else, so that reading them cannot run anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enas.data.published import read_checked
from enas.errors import DataError
from enas.evidence.known_scores import KnownScores
from enas.spaces import space_from_json

PACKAGE = "nas_bench_graph"
NETWORKS = 26_206
"""Different networks that were trained on a data set."""

SHA256 = {
    "arxiv": "7ee21a7653297a806c0ed1be3efe6ecc06acc84e48e942da0bfde0e5d287debe",
    "citeseer": "99c7f79b73372636305bf73fb32a58b63c57bd1871a152dd62ec72d984c8c50f",
    "computers": "fdb3dc0cf405d62322f0ab9614b2083c2a5e6576c2f43e4f2214be64bc62b1b3",
    "cora": "5e69b2f9bb08d8927d9ffd4921f8494a3cea349c9c3a461334cb9dc9e11701a8",
    "cs": "71ae8469930517160b024f52db6000a4897f1aff5d765beb27bb60952ed5bd31",
    "photo": "5511b4dc3f63fa988792177227db7901290fb9b27fc6c02e3036b29e134ed6df",
    "physics": "1e309bafee0b832c8b84fa3c039c36992bc0a910238b128f26b7e9190d7f2aea",
    "pubmed": "10b4dcf6cfd3a24f6059f7d541a4a872960b4adac0b3dba26abed1bb9a3d904d",
}
"""The data sets with all networks, and what their files must be. (On the ninth, proteins, only 2,021 were trained.)"""


def load_table(data_set: str) -> KnownScores:
    """The validation and test accuracies, shares in [0, 1], of all architectures on a data set.

    Raises `DataError` for an unknown data set, or if the package or its published file is not there.
    """
    if data_set not in SHA256:
        raise DataError(f"NAS-Bench-Graph has no data set {data_set!r}; it has {', '.join(SHA256)}")
    path = package_folder() / "light" / f"{data_set}.bench"
    remedy = "Install the tested version again: pip install --force-reinstall nas-bench-graph==1.4.0"
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    networks = read_plain_pickle(read_checked(PACKAGE, path, SHA256[data_set], remedy))
    scores_CN = np.array(
        [
            [networks[code][metric] if code in networks else np.nan for code in network_codes()]
            for metric in ("valid_perf", "perf")
        ]
    )
    worst_C1 = np.nanmin(scores_CN, axis=1, keepdims=True)
    valid, test = np.where(np.isnan(scores_CN), worst_C1, scores_CN)
    return KnownScores(data_set, space_from_json({"name": "graph"}), valid, test)


def package_folder() -> Path:
    """Where the package nas-bench-graph is installed. Raises `DataError` if it is not."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise DataError("NAS-Bench-Graph is not installed: pip install 'enas[graph]'")
    return Path(spec.origin).parent


@cache
def network_codes() -> npt.NDArray[np.int64]:
    """The package's number of the network that each architecture is, in the order of the enumeration [59,049]."""
    arch = importlib.import_module(f"{PACKAGE}.architecture").Arch
    space, codes = space_from_json({"name": "graph"}), []
    options = [decision.options for decision in space.decisions]
    for architecture in space.enumerate():
        structure, *operations = (
            of[choice] for of, choice in zip(options, architecture.choices, strict=True)
        )
        codes.append(arch([int(source) for source in structure], operations).valid_hash())
    return np.array(codes, dtype=np.int64)


# ---- pickles of numbers ------------------------------------------------------------------------------------------------


def read_plain_pickle(content: bytes) -> Any:
    """What a pickle holds, if that is nothing but containers, numbers, texts, and NumPy's float64 scalars.

    Raises `DataError` for anything else; nothing that the pickle names is imported or called.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise DataError(f"the pickle is damaged or holds more than plain values: {error}") from error


class _Float64:
    """Stands for the NumPy data type that a pickle names; only little-endian float64 will do."""

    def __init__(self, code: str, *_: object) -> None:
        if code != "f8":
            raise pickle.UnpicklingError(f"data type {code}")

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"byte order {state[1]}")


def _scalar(_: _Float64, content: bytes) -> float:
    """The number whose eight bytes a pickle holds."""
    return float(struct.unpack("<d", content)[0])


_STAND_INS = {("numpy", "dtype"): _Float64, ("numpy.core.multiarray", "scalar"): _scalar}


class _PlainUnpickler(pickle.Unpickler):
    """Knows no class and no function but the two stand-ins above."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _STAND_INS[module, name]
