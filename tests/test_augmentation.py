"""Augmentation equals a reference that treats one image at a time, pixel by pixel, and its draws are uniform."""

import itertools

import numpy as np
import pytest
import torch
import tyro
from scipy import stats

from enas.data.augmentation import AugmentConfig, Draws, augment, draw, normalise, transform
from enas.data.images import Normalisation
from enas.errors import ConfigError

THREE = Normalisation((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
ONE = Normalisation((0.3,), (0.37,))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=generator(7)).to(torch.uint8)


def number(draws_B: torch.Tensor | None, i: int) -> int:
    return 0 if draws_B is None else int(draws_B[i])


def reference(image_CHW: np.ndarray, mean: tuple, std: tuple, config: AugmentConfig, draws: Draws, i: int):
    """One image, in the words of the papers: normalise, pad with zeros, crop, flip, cut out."""
    channels, height, width = image_CHW.shape
    x = np.stack([(image_CHW[c] / 255 - mean[c]) / std[c] for c in range(channels)])
    x = np.pad(x, [(0, 0), (config.pad, config.pad), (config.pad, config.pad)])
    top, left = number(draws.top_B, i), number(draws.left_B, i)
    x = x[:, top : top + height, left : left + width]
    if number(draws.flip_B, i):
        x = x[:, :, ::-1]
    x = x.copy()
    before = config.cutout // 2 if config.cutout_placement == "centre" else 0
    for dy, dx in itertools.product(range(config.cutout), repeat=2):
        y, z = number(draws.row_B, i) - before + dy, number(draws.column_B, i) - before + dx
        if 0 <= y < height and 0 <= z < width:
            x[:, y, z] = 0
    return x


@pytest.mark.parametrize("placement", ["centre", "corner"])
@pytest.mark.parametrize("cutout", [0, 1, 3, 16, 40])
@pytest.mark.parametrize(("pad", "flip"), [(4, True), (1, False), (0, True), (3, False), (0, False)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 7), (1, 8, 8)])
def test_a_batch_equals_the_reference_image_by_image(
    shape: tuple[int, int, int], pad: int, flip: bool, cutout: int, placement: str
) -> None:
    config = AugmentConfig(pad, flip, cutout, placement)
    images = random_images(6, *shape)
    normalisation = THREE if shape[0] == 3 else ONE
    draws = draw(config, len(images), *shape[1:], generator(1))
    x_BCHW = transform(images, normalisation, config, draws)
    expected = [reference(image, *normalisation, config, draws, i) for i, image in enumerate(images.numpy())]
    np.testing.assert_allclose(x_BCHW.numpy(), np.stack(expected), rtol=1e-5, atol=1e-6)
    assert (x_BCHW.dtype, x_BCHW.shape, x_BCHW.is_contiguous()) == (torch.float32, images.shape, True)
    assert torch.equal(augment(images, normalisation, config, generator(1)), x_BCHW)


def test_padding_and_square_are_zero_where_the_mean_is() -> None:
    images = torch.full((64, 3, 8, 8), 255, dtype=torch.uint8)  # white, so that only what is added is 0
    config = AugmentConfig(pad=2, flip=False)
    draws = draw(config, 64, 8, 8, generator(0))
    zero_BHW = (transform(images, THREE, config, draws) == 0).all(1)
    for zero_HW, top, left in zip(zero_BHW, draws.top_B.tolist(), draws.left_B.tolist(), strict=True):
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[max(0, 2 - top) : 10 - top, max(0, 2 - left) : 10 - left] = True
        assert torch.equal(zero_HW, ~inside)


@pytest.mark.parametrize("placement", ["centre", "corner"])
def test_every_place_of_the_square_by_enumeration(placement: str) -> None:
    size, side = 6, 3
    config = AugmentConfig(pad=0, flip=False, cutout=side, cutout_placement=placement)
    rows, columns = torch.cartesian_prod(torch.arange(size), torch.arange(size)).unbind(1)
    images = torch.full((size**2, 1, size, size), 255, dtype=torch.uint8)
    cut_BHW = transform(images, ONE, config, Draws(None, None, None, rows, columns))[:, 0] == 0
    often = cut_BHW.sum(0)
    # How many starts, in one direction, cover each pixel.
    line = [2, 3, 3, 3, 3, 2] if placement == "centre" else [1, 2, 3, 3, 3, 3]
    assert often.tolist() == [[a * b for b in line] for a in line]


def test_evaluation_images_are_normalised_and_no_more() -> None:
    images = random_images(4, 3, 5, 6)
    x_BCHW = normalise(images, THREE)
    mean, std = (np.array(values)[:, None, None] for values in THREE)
    np.testing.assert_allclose(x_BCHW.numpy(), (images.numpy() / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert torch.equal(augment(images, THREE, AugmentConfig(0, False), generator(0)), x_BCHW)


def test_draws_are_uniform_and_independent() -> None:
    config = AugmentConfig(pad=2, flip=True, cutout=2)
    draws = draw(config, 40_000, 5, 7, generator(0))
    sizes = (5, 5, 2, 5, 7)
    for values, size in zip(draws, sizes, strict=True):
        counts = torch.bincount(values.long(), minlength=size)
        assert len(counts) == size
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    for (a, size_a), (b, size_b) in itertools.combinations(zip(draws, sizes, strict=True), 2):
        table = torch.bincount(a.long() * size_b + b.long(), minlength=size_a * size_b)
        assert stats.chi2_contingency(table.view(size_a, size_b).numpy()).pvalue > 1e-4


def test_draws_are_known_from_the_seed_alone() -> None:
    images = random_images(16, 3, 8, 8)
    state = torch.random.get_rng_state()
    first = augment(images, THREE, AugmentConfig(cutout=4), generator(3))
    assert torch.equal(augment(images, THREE, AugmentConfig(cutout=4), generator(3)), first)
    assert not torch.equal(augment(images, THREE, AugmentConfig(cutout=4), generator(4)), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, random_images(16, 3, 8, 8))  # the data are never written to


def test_settings_are_flags_and_are_checked() -> None:
    flags = ["--pad", "1", "--no-flip", "--cutout", "16", "--cutout-placement", "corner"]
    assert tyro.cli(AugmentConfig, args=flags) == AugmentConfig(1, False, 16, "corner")
    with pytest.raises(ConfigError, match=r"^pad must be at least 0, not -1$"):
        AugmentConfig(pad=-1)
    with pytest.raises(ConfigError, match=r"^cutout must be at least 0, not -2$"):
        AugmentConfig(cutout=-2)
