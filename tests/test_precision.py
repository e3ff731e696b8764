"""How precisely, how repeatably and in which layout networks compute. What a GPU alone has is asked of torch's own switches;
nothing here has run on one."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from enas import ops
from enas.errors import ConfigError
from enas.retrain import Network
from enas.run import Run
from enas.runs.layout import LOOSE, TOLERANCE, alike, gradient
from enas.runtime.devices import check_precision, set_arithmetic
from enas.runtime.stop import StopRequest
from enas.settings import config_from_json, config_to_json
from enas.stages import execute
from enas.trainings import Job
from tests import tiny

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """Torch's switches as they were, afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        matmul.allow_tf32,
        cudnn.allow_tf32,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )
    workspace = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
    torch.use_deterministic_algorithms(before[3])
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tensorfloat_is_used_in_tf32_alone(precision: Any) -> None:
    for allowed in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        set_arithmetic(GPU, precision, deterministic=False, same_shapes=False)
        assert torch.backends.cuda.matmul.allow_tf32 is (precision == "tf32")
        assert torch.backends.cudnn.allow_tf32 is (precision == "tf32")
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")


def test_algorithms_are_tried_where_shapes_repeat_and_none_has_to_be_the_same_every_time() -> None:
    torch.backends.cudnn.benchmark = False
    set_arithmetic(GPU, "fp32", deterministic=False, same_shapes=False)
    assert not torch.backends.cudnn.benchmark
    set_arithmetic(GPU, "fp32", deterministic=False, same_shapes=True)
    assert torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_arithmetic(GPU, "fp32", deterministic=False, same_shapes=False)
    assert torch.backends.cudnn.benchmark  # of a network of the user's own, what its file has set
    set_arithmetic(GPU, "fp32", deterministic=True, same_shapes=True)
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_cpu_leaves_no_choice() -> None:
    torch.backends.cudnn.allow_tf32 = True
    set_arithmetic(CPU, "fp32", deterministic=True, same_shapes=True)
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in (CPU, torch.device("mps")):
        with pytest.raises(ConfigError, match=f"--precision tf32 is for NVIDIA GPUs .*'{device}' is none"):
            check_precision(device, "tf32", allow_slow=True)
    for capability, refused in (((7, 5), True), ((8, 0), False), ((9, 0), False), ((12, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if refused:
            with pytest.raises(ConfigError, match=r"capability 8\.0 and later"):
                check_precision(GPU, "tf32", allow_slow=False)
        else:
            check_precision(GPU, "tf32", allow_slow=False)


def test_every_process_that_computes_sets_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "enas.config.set_arithmetic",
        lambda device, precision, *, deterministic, same_shapes: given.append((precision, deterministic)),
    )
    run = Run.create(tmp_path / "run", replace(config, deterministic=True), ("search",))
    assert given == [("fp32", True)]
    execute(Run.open(run.folder), ())
    assert given == [("fp32", True)] * 2
    network = Network("found", config.space.architecture([0] * len(config.space.decisions)), 0)
    Job(run.folder, "rank", network, 1).perform(Run.open(run.folder), StopRequest(), lambda training: None)
    assert given == [("fp32", True)] * 3


def test_the_flags() -> None:
    flags = ("--precision", "tf32", "--deterministic", "True", "--channels-last", "True")
    config = tiny.settings("micro-paper", flags)
    assert (config.precision, config.dtype, config.deterministic) == ("tf32", torch.float32, True)
    assert config.same_shapes
    assert not tiny.settings("recurrent-paper", ()).same_shapes
    assert config_from_json(config_to_json(config)) == config


# ---- layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["macro", "micro", "nasbench201"])
def test_channels_together_make_the_same_of_images(space: str) -> None:
    config = tiny.image_config(space)
    apart, together = (replace(config, channels_last=last) for last in (False, True))
    weights = apart.shared_weights(), together.shared_weights()
    architecture = config.searched_space().architecture([0] * len(config.searched_space().decisions))
    assert alike(*(gradient(one, architecture)[0] for one in weights), TOLERANCE)
    rewards = [one.rewards([architecture], "test", 0) for one in weights]
    torch.testing.assert_close(*rewards, atol=0.051, rtol=0)  # of 20 images, at most one changes its class
    network = Network("found", architecture, 0)
    trainings = [one.child_training(network) for one in (apart, together)]
    losses = [training.step()["loss"] for training in trainings]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_sums_of_maps_keep_their_channels_together() -> None:
    xs = list(torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).unbind())
    together = [x.to(memory_format=torch.channels_last).requires_grad_() for x in xs]
    found = ops.total(together, [None, torch.tensor([0.0, 2.0]), None])
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, xs[0] + torch.tensor([0.0, 2.0])[:, None, None, None] * xs[1] + xs[2])
    found.square().sum().backward()
    assert all(
        x.grad is not None and x.grad.is_contiguous(memory_format=torch.channels_last) for x in together
    )


def test_every_convolution_and_norm_of_a_cell_gets_maps_with_channels_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ops, "_kernels", dict)  # a kernel's maps lie in rows
    config = replace(tiny.image_config("nasbench201"), channels_last=True)
    weights = config.shared_weights()
    seen: Counter[type] = Counter()

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in inputs)
        seen[type(module)] += 1

    for module in weights.trainer.model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(look)
    for step in range(4):
        weights.train_step(0, step, [weights.space.sample(random.Random(step))])
    assert set(seen) == {nn.Conv2d, nn.BatchNorm2d}


@pytest.mark.parametrize("space", ["macro", "micro"])
def test_convolutions_get_images_and_filters_with_channels_together(
    space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_kernels", dict)
    config = replace(tiny.image_config(space), channels_last=True)
    weights = config.shared_weights()
    seen: list[bool] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        assert isinstance(module, nn.Conv2d)
        for x in (module.weight, *inputs):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))

    for module in weights.trainer.model.modules():
        # Reductions, the only 1×1 convolutions of stride 2, leave this layout on a CPU.
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) != ((1, 1), (2, 2)):
            module.register_forward_hook(look)
    architecture = config.searched_space().architecture([0] * len(config.searched_space().decisions))
    weights.train_step(0, 0, [architecture])
    assert seen
    assert all(seen)


def test_the_layout_is_tried_on_a_gpu_and_left_alone_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.image_config("macro")
    asked: list[Any] = []

    def pays(weights_with: Any) -> bool:
        asked.append(weights_with)
        return True

    monkeypatch.setattr("enas.runs.images.channels_last_pays", pays)
    assert config.settled() is config
    assert asked == []
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr("enas.config.pick_device", lambda name: torch.device("meta"))
        assert config.settled().channels_last is True
        assert replace(config, channels_last=False).settled().channels_last is False
    (weights_with,) = asked
    assert [weights_with(last).task.memory_format for last in (False, True)] == [None, torch.channels_last]


def test_gradients_are_compared_as_precisely_as_they_are_computed() -> None:
    one = [torch.ones(4), None]
    assert alike(one, [torch.ones(4) * 1.005, None], TOLERANCE)
    assert not alike(one, [torch.ones(4) * 1.05, None], TOLERANCE)
    assert alike(one, [torch.ones(4) * 1.05, None], LOOSE)
    assert not alike(one, [torch.ones(4) * 1.2, None], LOOSE)
