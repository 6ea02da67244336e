import resource
from typing import get_args

import kornia.enhance
import kornia.geometry
import numpy as np
import pytest
import torch
from PIL import Image

from handlers.preprocessing import Preprocess
from handlers.spec import Interpolation, PreprocessSpec, Resize

SHAPES = [(500, 333), (333, 500), (64, 80), (7, 13), (1, 1), (129, 128), (32, 32), (1, 200), (33, 31)]


def photograph(height: int, width: int) -> torch.Tensor:
    """Return a smooth picture with some edges and some noise, uint8 of shape (3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.stack([torch.sin(9 * x + 3 * y), torch.cos(7 * y), ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1).float()])
    return ((waves * 0.4 + 0.5) * 255 + torch.randn(3, height, width) * 6).clamp(0, 255).to(torch.uint8)


def preprocess(
    resize: Resize = "squash", crop_fraction: float = 1.0, interpolation: Interpolation = "bilinear"
) -> Preprocess:
    spec = PreprocessSpec(
        image_size=32,
        resize=resize,
        crop_fraction=crop_fraction,
        interpolation=interpolation,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
    )
    return Preprocess(spec)


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("shape", SHAPES)
def test_uint8_is_within_one_level_of_the_float_reference(
    resize: Resize, shape: tuple[int, int], interpolation: Interpolation, device: torch.device
) -> None:
    module = preprocess(resize, 0.9, interpolation).to(device)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    fast, reference = preprocess(resize, 0.9, interpolation).resize(image), module.reference(image.to(device)).cpu()
    assert reference.min() >= 0 and reference.max() <= 1
    assert fast.shape == (3, 32, 32)
    assert fast.dtype == torch.uint8
    assert fast.permute(1, 2, 0).is_contiguous()
    # Levels are rounded after each pass, and without their signs the cubic's weights add up to more than 1.
    tolerance = (1.15 if interpolation == "bicubic" else 1.01) / 255
    for ours in (fast, module.resize(image.to(device)).cpu()):
        assert (ours / 255 - reference).abs().max() <= tolerance
        assert (ours.int() - (reference * 255).round().int()).abs().max() <= 1


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_images_that_are_resized_together_are_as_each_alone(
    resize: Resize, interpolation: Interpolation, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.preprocessing.GROUP_VALUES", 3 * 3 * 40 * 50)
    module = preprocess(resize, 0.9, interpolation).to(device)
    sizes = [*[(40, 50)] * 4, (32, 32), (7, 90), (40, 50), (300, 2), (32, 32), (300, 200)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, device=device) for size in sizes]
    together = module.resize_all(images)
    assert together.dtype == torch.uint8
    for ours, image in zip(together, images, strict=True):
        assert (ours.float() - 255 * module.reference(image)).abs().max() <= 0.51
    assert torch.equal(module.resize_all(images[:2]), together[:2])
    assert module.resize_all([]).shape == (0, 3, 32, 32)
    assert (module.resize_all(images, torch.float16).int() - together.int()).abs().max() <= 1
    with pytest.raises(ValueError, match=r"must be uint8 of \(3, H, W\)"):
        module.resize_all([torch.zeros((1, 4, 4), dtype=torch.uint8, device=device)])


@pytest.mark.parametrize("shape", [(20, 31), (5, 5), (32, 32), (1, 32)])
def test_enlarging_is_kornia_without_antialiasing(shape: tuple[int, int]) -> None:
    image = photograph(*shape)
    expected = kornia.geometry.transform.resize(image / 255, (32, 32), align_corners=False, antialias=False)
    torch.testing.assert_close(preprocess().reference(image), expected, rtol=0, atol=1e-6)
    assert (preprocess().resize(image) / 255 - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("shape", [(256, 384), (600, 450), (97, 64)])
def test_shrinking_is_near_kornia_with_antialiasing(shape: tuple[int, int]) -> None:
    """The filters differ (a triangle, a Gaussian), so this holds the geometry only."""
    image = photograph(*shape)
    expected = kornia.geometry.transform.resize(image / 255, (32, 32), align_corners=False, antialias=True)
    assert (preprocess().reference(image) - expected).abs().mean() <= 3 / 255


@pytest.mark.parametrize("shape", [(300, 217), (20, 25), (12, 90)])
@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_the_filters_are_pillows(interpolation: Interpolation, shape: tuple[int, int]) -> None:
    image, module = photograph(*shape), preprocess(interpolation=interpolation)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    resized = Image.fromarray(pixels).resize((32, 32), filters[interpolation])
    pillow = torch.from_numpy(np.array(resized)).permute(2, 0, 1).int()
    for ours in (module.resize(image).int(), module.resize_all([image])[0].int(), 255 * module.reference(image)):
        assert (ours - pillow).abs().max() <= 1.15
    # Both filters agree where nothing changes fast; here they are to differ.
    others = preprocess(interpolation="bilinear" if interpolation == "bicubic" else "bicubic")
    assert (others.resize(image).int() - pillow).abs().max() > 5


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_an_image_of_the_right_size_is_left_alone(interpolation: Interpolation) -> None:
    image = photograph(32, 32)
    assert torch.equal(preprocess("squash", 1.0, interpolation).resize(image), image)
    assert torch.equal(preprocess("crop", 1.0, interpolation).resize(image), image)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_interleaved_pixels_give_the_same_as_planes(interpolation: Interpolation) -> None:
    image, module = photograph(90, 70), preprocess(interpolation=interpolation)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(module.resize(interleaved), module.resize(image))


def test_crop_keeps_the_centre_and_the_aspect_ratio() -> None:
    image = torch.zeros(3, 100, 300, dtype=torch.uint8)
    image[:, :, 100:200] = 255  # the middle third is exactly what is kept
    assert preprocess("crop").resize(image)[:, :, 2:-2].min() == 255
    assert preprocess("squash").resize(image)[:, :, 2:-2].min() == 0


@pytest.mark.parametrize("shape", [(1, 65_535), (65_535, 1), (2, 40_000)])
def test_a_line_is_cropped_without_filling_the_memory(shape: tuple[int, int]) -> None:
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    middle = tuple(slice(side // 2 - 2, side // 2 + 2) if side > 2 else slice(None) for side in shape)
    image[:, middle[0], middle[1]] = 255
    module = preprocess("crop")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert module.resize(image).min() == 255 and module.reference(image).min() == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_crop_fraction_leaves_a_border_out() -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 16:48, 16:48] = 255
    assert preprocess("crop", crop_fraction=0.5).resize(image).min() == 255


def test_normalize_is_kornias_for_uint8_and_for_floats(device: torch.device) -> None:
    module = preprocess().to(device)
    batch = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, device=device)
    expected = (batch.double() / 255 - module.mean.double()[:, None, None]) / module.std.double()[:, None, None]
    torch.testing.assert_close(module.normalize(batch).double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.normalize(batch / 255), module.normalize(batch))
    torch.testing.assert_close(module.normalize(batch), kornia.enhance.normalize(batch / 255, module.mean, module.std))
    assert module.normalize(batch).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.943, 0.5, 0.0), (0.431, 0.02, 1.0))]
)
def test_kornia_normalizes_in_half_precision_for_a_network_of_16_bits(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Preprocess(PreprocessSpec(image_size=16, mean=mean, std=std)).to(device)
    batch = torch.arange(256, dtype=torch.uint8, device=device).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    given: list[torch.dtype] = []
    kornias = kornia.enhance.normalize

    def seen(values: torch.Tensor, *asked: torch.Tensor) -> torch.Tensor:
        given.append(values.dtype)
        return kornias(values, *asked)

    monkeypatch.setattr("kornia.enhance.normalize", seen)
    found = module.normalize(batch, dtype)
    assert found.dtype == torch.float16 and given == [torch.float16]
    level = 1 / (255 * torch.tensor(std, device=device)[:, None, None])
    assert ((found.float() - module.normalize(batch)).abs() / level).max() < 0.25
    assert module.normalize(batch / 255, dtype).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_rows_are_written_as_kornia_normalizes(dtype: torch.dtype, tolerance: float) -> None:
    module = preprocess()
    images = list(torch.arange(256).repeat(5 * 3 * 4).reshape(5, 3, 32, 32)[:, :, :32].to(torch.uint8))
    images[1] = images[1].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    rows = torch.full((5, 3, 32, 32), torch.nan, dtype=dtype).contiguous(memory_format=torch.channels_last)
    module.write(images, list(rows))
    expected = kornia.enhance.normalize(torch.stack(images) / 255, module.mean, module.std)
    torch.testing.assert_close(rows.float(), expected, rtol=tolerance, atol=1e-6)
    with pytest.raises(ValueError, match="argument"):
        module.write(images, list(rows[:4]))


def test_mean_and_std_are_buffers_that_move_and_are_not_saved() -> None:
    module = preprocess()
    assert {name for name, _ in module.named_buffers()} == {"mean", "std"}
    assert not module.state_dict()
    assert module.to("meta").mean.device.type == "meta"


def test_forward_is_resize_and_normalize() -> None:
    module = preprocess()
    images = [photograph(40, 50), photograph(20, 10)]
    torch.testing.assert_close(module(images), module.normalize(torch.stack([module.resize(x) for x in images])))
    assert module([]).shape == (0, 3, 32, 32)


def test_grey_has_one_channel() -> None:
    module = Preprocess(PreprocessSpec(image_size=8, colour="grey", mean=(0.5,), std=(0.5,)))
    assert module([torch.full((1, 9, 5), 255, dtype=torch.uint8)]).tolist() == [[[[1.0] * 8] * 8]]


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4).byte()]
)
def test_another_kind_of_tensor_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        preprocess().resize(image)
