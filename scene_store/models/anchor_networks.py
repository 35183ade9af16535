"""The networks beside a ``point_cloud.ply`` of anchors: one file for each, or one for all.

``opacity_mlp.pt``, ``cov_mlp.pt``, ``color_mlp.pt``, ``feature_bank_mlp.pt`` and
``embedding_appearance.pt`` are TorchScript; ``checkpoints.pth`` holds state dictionaries instead.
Which of the trainer's options were on is told by widths: a network takes feature and direction,
and then what it was trained with.

Source: ``save_mlp_checkpoints`` of https://github.com/city-super/Scaffold-GS and
https://github.com/city-super/Octree-GS, modes ``split`` and ``unite``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.models.archive import Array, read_checkpoint, weights_of
from scene_store.models.torchscript import perceptron, read_embedding, read_network
from splat.anchors import AnchorLayout
from splat.errors import SceneFormatError
from splat.networks import Activation, Mlp

OPACITY, COVARIANCE, COLOR, BANK = "opacity_mlp", "cov_mlp", "color_mlp", "feature_bank_mlp"
EMBEDDING_FILE = "embedding_appearance.pt"
UNITED_FILE = "checkpoints.pth"

_APPEARANCE = "appearance"  # in UNITED_FILE
_LAST = {
    OPACITY: Activation.TANH,
    COVARIANCE: Activation.NONE,
    COLOR: Activation.SIGMOID,
    BANK: Activation.SOFTMAX,
}
_COPY = "copy the whole folder that the trainer wrote"


@dataclass(frozen=True, slots=True, eq=False)
class AnchorNetworks:
    """Networks as they were read.

    Attributes:
        place: The file or folder that they are in, to name in errors.
        bank: Of the feature bank; None without.
        appearances: [A, E] embeddings; None without.
    """

    place: Path
    opacity: Mlp
    covariance: Mlp
    color: Mlp
    bank: Mlp | None
    appearances: NDArray[np.float32] | None

    def more_inputs(self, layout: AnchorLayout) -> tuple[int, int, int]:
        """What the networks of opacity, covariance and colour take beyond feature, direction and
        appearance: a distance, or a level, or both.

        Raises:
            SceneFormatError: If they give or take what cannot be.
        """
        appearance = 0 if self.appearances is None else int(self.appearances.shape[1])
        k, plain = layout.offsets, layout.features + 3
        more = []
        for name, mlp, outputs, own in (
            (OPACITY, self.opacity, k, 0),
            (COVARIANCE, self.covariance, 7 * k, 0),
            (COLOR, self.color, 3 * k, appearance),
        ):
            if mlp.outputs != outputs:
                raise self.mismatch(
                    name,
                    f"gives {mlp.outputs} values, but {k} Gaussians of an anchor need {outputs}",
                )
            more.append(mlp.inputs - plain - own)
            most = 2 if layout.has_levels else 1
            if not 0 <= more[-1] <= most:
                raise self._unexpected(name, mlp, plain + own, most, appearance)
        if self.bank is not None and layout.features % 4:
            raise self.mismatch(BANK, f"needs features of 4 parts, but there are {layout.features}")
        return more[0], more[1], more[2]

    def _unexpected(
        self, name: str, mlp: Mlp, plain: int, most: int, appearance: int
    ) -> SceneFormatError:
        if name == COLOR and not appearance and mlp.inputs > plain + most:
            return SceneFormatError(
                self.place,
                f"lacks {EMBEDDING_FILE}, though its network of colours takes an appearance",
                remedy=_COPY,
            )
        return self.mismatch(
            name, f"takes {mlp.inputs} values, but the anchors have {plain} to {plain + most}"
        )

    def mismatch(self, name: str, problem: str) -> SceneFormatError:
        """The error of a network that does not fit the anchors."""
        return SceneFormatError(
            self.place, f"{problem}", where=name, remedy="its files are of different trainings"
        )


def read_networks(folder: Path, *, trust: bool = False) -> AnchorNetworks:
    """The networks in the folder of a ``point_cloud.ply``.

    Args:
        folder: ``iteration_N``.
        trust: As ``read_network`` and ``read_checkpoint``.

    Raises:
        SceneNotFoundError: If a file cannot be read.
        SceneFormatError: If one is missing, broken, or of another architecture.
    """
    present = [name for name in (OPACITY, COVARIANCE, COLOR) if _script(folder, name).is_file()]
    if not present and (folder / UNITED_FILE).is_file():
        return _united(folder / UNITED_FILE, trust)
    for name in (OPACITY, COVARIANCE, COLOR):
        if name not in present:
            raise SceneFormatError(folder, f"lacks {name}.pt", remedy=_COPY)
    networks = {
        name: _checked(path, name, read_network(path, trust=trust))
        for name in _LAST
        if (path := _script(folder, name)).is_file()
    }
    embedding = folder / EMBEDDING_FILE
    appearances = read_embedding(embedding) if embedding.is_file() else None
    return _together(folder, networks, appearances)


def _script(folder: Path, name: str) -> Path:
    return folder / f"{name}.pt"


def _together(
    place: Path, networks: Mapping[str, Mlp], appearances: NDArray[np.float32] | None
) -> AnchorNetworks:
    return AnchorNetworks(
        place,
        networks[OPACITY],
        networks[COVARIANCE],
        networks[COLOR],
        networks.get(BANK),
        appearances,
    )


def _checked(path: Path, name: str, mlp: Mlp) -> Mlp:
    """The network, if its activations are those that the trainers give it."""
    *hidden, last = [layer.activation for layer in mlp.layers]
    if last is not _LAST[name] or any(each is not Activation.RELU for each in hidden):
        shown = ", ".join(layer.activation.value for layer in mlp.layers)
        raise SceneFormatError(
            path,
            f"has layers of the activations {shown}, but relu and then {_LAST[name].value} are "
            f"known for it",
        )
    return mlp


def _united(path: Path, trust: bool) -> AnchorNetworks:
    checkpoint = read_checkpoint(path, trust=trust)
    networks = {
        name: _from_state(path, name, checkpoint)
        for name in _LAST
        if name in checkpoint or name != BANK
    }
    appearances = None
    if _APPEARANCE in checkpoint:
        appearances = _table(path, weights_of(path, checkpoint, _APPEARANCE))
    return _together(path, networks, appearances)


def _from_state(path: Path, name: str, checkpoint: Mapping[str, Any]) -> Mlp:
    """The layers are numbered as in their ``nn.Sequential``, activations included."""
    state = weights_of(path, checkpoint, name)
    numbers = sorted({key.partition(".")[0] for key in state}, key=lambda key: (len(key), key))
    layers: list[tuple[Array, Array]] = []
    for number in numbers:
        weight, bias = state.get(f"{number}.weight"), state.get(f"{number}.bias")
        if not number.isdecimal() or weight is None or bias is None or weight.ndim != 2:
            raise SceneFormatError(
                path, f"holds the unknown layer {number[:40]!r}", where=f"entry {name!r}"
            )
        layers.append((weight, bias))
    hidden = [Activation.RELU] * (len(layers) - 1)
    return perceptron(path, layers, [*hidden, _LAST[name]][: len(layers)])


def _table(path: Path, state: Mapping[str, Array]) -> NDArray[np.float32]:
    table = state.get("embedding.weight")
    if table is None or table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise SceneFormatError(path, "holds no usable embeddings", where=f"entry {_APPEARANCE!r}")
    return np.ascontiguousarray(table, np.float32)
