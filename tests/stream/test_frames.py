"""One frame convention: orientation, crop, DC and mask, each checked against numpy on an image without symmetry."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyinr_stream.config import FramesConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.sections import Orientation

IMAGE = np.arange(6 * 8, dtype=np.uint16).reshape(6, 8)
WHOLE = ("as_sent", "fliplr", "flipud", "rot180")  # rows stay rows


def apply(image=IMAGE, **config):
    return FrameConvention(FramesConfig(**config)).apply(image)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("as_sent", IMAGE),
        ("fliplr", IMAGE[:, ::-1]),
        ("flipud", IMAGE[::-1]),
        ("rot90", np.rot90(IMAGE)),
        ("rot180", np.rot90(IMAGE, 2)),
        ("rot270", np.rot90(IMAGE, 3)),
        ("transpose", IMAGE.T),
        ("antitranspose", np.rot90(IMAGE, 2).T),
    ],
)
def test_an_orientation_does_what_numpy_calls_so(orientation, expected):
    counts, mask = apply(orientation=orientation)
    np.testing.assert_array_equal(counts, expected)
    assert mask is None


@pytest.mark.parametrize("orientation", get_args(Orientation))
def test_counts_and_mask_lie_as_they_were_sent_and_are_turned_views(orientation):
    convention = FrameConvention(FramesConfig(orientation=orientation, window=(4, 5), centre=(3, 3)))
    image = IMAGE.copy()
    image[3, 3] = 65535
    shape, (rows, columns) = (4, 5) if orientation in WHOLE else (5, 4), convention._place(IMAGE.shape)
    places = []

    def place(shape, dtype):
        places.append((np.empty(shape, dtype), np.empty(shape, np.bool_)))
        return places[-1]

    counts, mask = convention.apply(image, None, place)
    [(kept, trusted)] = places
    assert kept.shape == shape
    assert np.shares_memory(counts, kept)
    assert np.shares_memory(mask, trusted)
    np.testing.assert_array_equal(trusted, image[rows, columns] < 65535)
    np.testing.assert_array_equal(kept, np.where(trusted, image[rows, columns], 0))
    assert counts.shape == mask.shape == (4, 5)


def test_the_eight_orientations_are_eight():
    assert len({apply(orientation=name)[0].tobytes() for name in get_args(Orientation)}) == 8


@pytest.mark.parametrize("window", [(4, 4), (3, 5), (4, 3)])
def test_the_crop_puts_the_beam_at_half_the_window(window):
    counts, _ = apply(window=window, centre=(3, 4))
    assert counts.shape == window
    assert counts[window[0] // 2, window[1] // 2] == IMAGE[3, 4]


def test_the_middle_is_the_centre_unless_it_is_given():
    np.testing.assert_array_equal(apply(window=(4, 4))[0], apply(window=(4, 4), centre=(3, 4))[0])
    np.testing.assert_array_equal(apply()[0], IMAGE)


@pytest.mark.parametrize("orientation", get_args(Orientation))
@pytest.mark.parametrize("centre", [None, (3, 4), (4, 3), (2, 2)])
@pytest.mark.parametrize("window", [(4, 3), (2, 4), (1, 1)])
def test_the_needed_rows_alone_give_the_same_pattern(orientation, centre, window):
    convention = FrameConvention(FramesConfig(orientation=orientation, window=window, centre=centre))
    rows = convention.rows_needed(IMAGE.shape)
    assert rows.stop - rows.start in window
    image = IMAGE.copy()
    image[3, 4] = 65535
    whole, alone = convention.apply(image), convention.apply(image[rows], IMAGE.shape)
    np.testing.assert_array_equal(alone[0], whole[0])
    np.testing.assert_array_equal(alone[1], whole[1])
    # And what they leave out plays no part.
    outside = np.full_like(image, 7)
    outside[rows] = image[rows]
    np.testing.assert_array_equal(convention.apply(outside)[0], whole[0])


def test_all_rows_are_needed_without_a_window_or_with_dc_in_the_corner():
    assert FrameConvention(FramesConfig()).rows_needed(IMAGE.shape) is None
    assert FrameConvention(FramesConfig(window=(2, 2), dc="corner")).rows_needed(IMAGE.shape) is None


def test_images_of_another_shape_are_cropped_anew():
    convention = FrameConvention(FramesConfig(window=(2, 2)))
    for image in (IMAGE, IMAGE[:4], IMAGE):
        middle = image.shape[0] // 2
        np.testing.assert_array_equal(convention.apply(image)[0], image[middle - 1 : middle + 1, 3:5])


def test_the_centre_is_that_of_the_oriented_image():
    counts, _ = apply(orientation="rot90", window=(2, 2), centre=(5, 2))
    assert counts[1, 1] == np.rot90(IMAGE)[5, 2]


@pytest.mark.parametrize("shape", [(6, 8), (5, 7)])
def test_dc_comes_from_the_corner_to_the_centre(shape):
    image = np.zeros(shape, np.uint16)
    image[0, 0] = 9
    for window in (None, (4, 3)):
        counts, _ = apply(image, dc="corner", window=window)
        rows, columns = counts.shape
        assert counts[rows // 2, columns // 2] == 9


def test_pixels_that_carry_no_measurement_are_masked_and_zero():
    image = np.full((4, 4), 7, np.uint32)
    image[0, 0], image[1, 1], image[2, 2] = 2**32 - 1, 500, 499
    counts, mask = apply(image, saturated=500)
    assert mask is not None
    assert np.argwhere(~mask).tolist() == [[0, 0], [1, 1]]
    assert (counts[0, 0], counts[1, 1], counts[2, 2]) == (0, 0, 499)
    assert counts.dtype == np.uint32
    assert image[1, 1] == 500  # the image itself is untouched


def test_the_largest_value_of_a_type_is_masked_even_below_the_saturation():
    image = np.array([[255, 254], [0, 1]], np.uint8)
    _, mask = apply(image, saturated=100_000)
    assert mask is not None
    assert mask.tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("image", [np.array([[-1, 3]], np.int32), np.array([[np.nan, 3]]), np.array([[-0.5, 3]])])
def test_negative_and_missing_values_are_no_counts(image):
    counts, mask = apply(image)
    assert mask is not None
    assert (counts.tolist(), mask.tolist()) == ([[0, 3]], [[False, True]])


def test_bad_pixels_outside_the_window_need_no_mask():
    image = IMAGE.copy()
    image[0, 0] = 65535
    assert apply(image, window=(4, 4))[1] is None


def test_a_read_only_image_is_welcome():
    image = np.frombuffer(bytes([255] * 16), np.uint8).reshape(4, 4)
    assert not apply(image)[0].any()


@pytest.mark.parametrize(("window", "centre"), [((7, 4), None), ((4, 4), (1, 4)), ((4, 4), (3, 7))])
def test_a_window_that_leaves_the_image_is_refused(window, centre):
    with pytest.raises(GeometryError, match=r"frames\.window .* of an image of 6 x 8"):
        apply(window=window, centre=centre)


def test_the_convention_describes_itself_in_json_values():
    described = FrameConvention(FramesConfig(orientation="fliplr", window=(4, 4))).describe()
    assert described == {
        "frame_orientation": "fliplr",
        "frame_dc": "centre",
        "frame_window": [4, 4],
        "frame_centre": None,
        "frame_saturated": None,
        "frame_mask_file": None,
        "frame_hot_pixels": False,
        "frame_first_frames": 64,
    }


def test_the_centre_that_was_found_is_described() -> None:
    config = FramesConfig(centre="auto", window=(4, 4))
    assert FrameConvention(config, centre=(3, 4)).describe()["frame_centre"] == [3, 4]


def test_what_is_never_trusted_is_turned_and_cropped_like_the_image() -> None:
    trusted = np.ones(IMAGE.shape, np.bool_)
    trusted[2, 6] = trusted[0, 0] = False
    convention = FrameConvention(FramesConfig(orientation="fliplr", window=(4, 4), centre=(3, 2)), trusted=trusted)
    counts, mask = convention.apply(IMAGE)
    assert mask is not None
    assert np.argwhere(~mask).tolist() == [[1, 1]]
    assert (counts[1, 1], counts[1, 2]) == (0, IMAGE[2, 5])
    assert convention.apply(IMAGE)[1] is mask  # shared
    saturated = IMAGE.copy()
    saturated[3, 5] = 65535
    _, more = convention.apply(saturated)
    assert more is not None
    assert np.argwhere(~more).tolist() == [[1, 1], [2, 2]]
    assert np.argwhere(~mask).tolist() == [[1, 1]]


def test_a_mask_of_another_shape_is_refused() -> None:
    convention = FrameConvention(FramesConfig(), trusted=np.ones((8, 6), np.bool_))
    with pytest.raises(GeometryError, match="the mask is of 8 x 6 pixels, the image of 6 x 8"):
        convention.apply(IMAGE)


def test_an_automatic_centre_needs_a_window_and_a_beam_in_the_middle() -> None:
    with pytest.raises(ValueError, match='centre = "auto" needs a window'):
        FramesConfig(centre="auto")
    with pytest.raises(ValueError, match='centre = "auto" needs a window'):
        FramesConfig(centre="auto", window=(4, 4), dc="corner")


@given(st.data())
def test_frames_in_a_row_have_the_pattern_and_mask_that_each_has_alone(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "int32", "float32"]))
    bad = {"uint8": [255], "uint16": [65535, 500], "int32": [2**31 - 1, -1], "float32": [np.nan, np.inf, -1.0]}[dtype]
    pixels = st.lists(st.tuples(st.integers(0, 19), st.sampled_from(bad)), max_size=3)
    trusted = None
    if data.draw(st.booleans()):
        trusted = np.ones((4, 5), np.bool_)
        trusted.flat[data.draw(st.lists(st.integers(0, 19), max_size=3))] = False
    config = FramesConfig(orientation="rot90", window=(3, 4), saturated=500)
    convention, seen = FrameConvention(config, trusted=trusted), []
    several = data.draw(st.lists(pixels, min_size=1, max_size=3))
    for faulty in data.draw(st.lists(st.sampled_from(several), min_size=1, max_size=9)):
        image = np.arange(20).reshape(4, 5).astype(dtype)
        for pixel, value in faulty:
            image.flat[pixel] = value
        expected = FrameConvention(config, trusted=trusted).apply(image)
        found = convention.apply(image)
        seen.append((found, [None if array is None else array.copy() for array in expected]))
    for found, expected in seen:  # and no frame has altered what an earlier one was given
        np.testing.assert_equal(found, expected)


def test_frames_with_the_faulty_pixels_of_those_before_them_share_a_mask() -> None:
    convention, dead = FrameConvention(FramesConfig()), IMAGE.copy()
    dead[1, 2] = 65535
    worse = dead.copy()
    worse[4, 4] = 65535
    sent = [dead, dead, dead, worse, dead, IMAGE, worse, worse, worse]
    masks = [convention.apply(image)[1] for image in sent]
    for image, mask in zip(sent, masks, strict=True):
        np.testing.assert_array_equal(image < 65535, np.True_ if mask is None else mask)
    assert masks[2] is masks[4]  # another one between them does not matter
    assert masks[2] is not None
    assert not masks[2].flags.writeable
    assert masks[6] is not masks[3]
    assert masks[8] is masks[7]
