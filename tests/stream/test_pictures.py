import numpy as np
import pytest

from ptyinr.types import Snapshot
from ptyinr_stream.pictures import PANEL, UNSEEN, flattened, picture


def snapshot(
    shape=(60, 80), probe=(16, 16), *, pixel_m=(1e-8, 1e-8), modes=1, coverage=None, object_=None, **rest
) -> Snapshot:
    y, x = np.mgrid[: probe[0], : probe[1]]
    spot = np.exp(-((y - probe[0] / 2) ** 2 + (x - probe[1] / 2) ** 2) / 20).astype(np.complex64)
    return Snapshot(
        uid="5ad1e2c3-77aa",
        step=1200,
        frames=3,
        object=np.ones(shape, np.complex64) if object_ is None else object_.astype(np.complex64),
        probe=np.stack([spot / (1 + m) for m in range(modes)]),
        coverage=np.ones(shape, np.float32) if coverage is None else coverage.astype(np.float32),
        indices=np.arange(3),
        positions_px=np.zeros((3, 2)),
        pixel_m=pixel_m,
        **rest,
    )


@pytest.mark.parametrize("shape", [(8, 8), (33, 700), (700, 33), (256, 256)])
@pytest.mark.parametrize("probe", [(8, 8), (16, 64)])
def test_every_shape_gives_a_sheet_of_the_same_size(shape, probe):
    first = picture(snapshot())
    assert picture(snapshot(shape, probe)).size == first.size
    assert first.mode == "RGB"


def test_the_proportions_are_those_of_the_sample_and_not_of_the_array():
    pixels = np.asarray(picture(snapshot((60, 60), pixel_m=(1e-8, 3e-8))))
    panel = pixels[30 : 30 + PANEL, 16 : 16 + PANEL]
    in_the_image = (panel != UNSEEN).any(axis=2)[: PANEL // 2]  # above the scale bar
    rows = np.flatnonzero(in_the_image.mean(axis=1) > 0.9)
    assert rows[0] == PANEL // 3


def test_a_ramp_and_a_global_phase_are_removed_where_something_was_seen():
    y, x = np.mgrid[:120, :90]
    sample = np.where((y > 40) & (y < 70) & (x > 20) & (x < 60), -0.8, 0.0)
    coverage = ((y > 10) & (y < 100)).astype(np.float32)
    rng = np.random.default_rng(1)
    field = np.exp(1j * (sample + 1.3 + 0.31 * y - 0.12 * x))
    field[coverage == 0] = np.exp(1j * rng.uniform(-3, 3, field.shape))[coverage == 0]
    phase = np.angle(flattened(field, coverage))
    assert np.abs(phase - sample)[coverage > 0].max() < 0.01


def test_a_field_that_nobody_has_seen_is_left_alone():
    field = np.exp(1j * np.linspace(0, 1, 64)).reshape(8, 8)
    assert np.allclose(flattened(field, np.zeros((8, 8))), field)


def test_what_was_not_seen_is_neutral_and_does_not_set_the_contrast():
    y, x = np.mgrid[:100, :100]
    coverage = (x < 50).astype(np.float32)
    field = np.where(y < 50, 0.9, 1.1).astype(complex)
    field[:, 50:] = 1000.0
    panel = np.asarray(picture(snapshot(coverage=coverage, object_=field)))[30 : 30 + PANEL, 512 : 512 + PANEL]
    assert (panel[: PANEL // 2, PANEL // 2 + 20 :] == UNSEEN).all()
    dark, bright = panel[PANEL // 4, PANEL // 4], panel[3 * PANEL // 4, PANEL // 4]
    assert dark.max() < 20
    assert bright.min() > 240


def test_the_probe_shows_its_phase_as_hue_and_its_amplitude_as_brightness():
    ring = np.ones((1, 16, 16), np.complex64)
    ring[0, :, :8] *= np.exp(2j * np.pi / 3)
    ring[0, 8:] = 0
    base = snapshot()
    shown = Snapshot(**{**base.__dict__, "probe": ring})
    panel = np.asarray(picture(shown))[30 : 30 + PANEL, 1008 : 1008 + PANEL].astype(int)
    red, green, blue = panel[PANEL // 4, 3 * PANEL // 4]
    assert red > 200
    assert max(green, blue) < 100
    red, green, blue = panel[PANEL // 4, PANEL // 4]
    assert green > 200
    assert max(red, blue) < 100
    assert panel[PANEL - 100, PANEL // 2].max() == 0


def test_an_unlit_probe_and_an_unseen_object_still_make_a_picture():
    base = snapshot(coverage=np.zeros((60, 80)))
    dark = Snapshot(**{**base.__dict__, "probe": np.zeros((2, 16, 16), np.complex64)})
    assert picture(dark).size == picture(base).size
